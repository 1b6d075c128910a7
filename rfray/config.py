"""sweep.yaml -> `Sweep` (strict, typed) and `Trial` (frozen): everything that one trial is.

Names that live in a registry further up (backbones, policies, searchers, …) are plain text here;
`rfray.search.preflight` holds them against their registries and reports through `SweepFile.error`.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rfray.errors import SweepError, nearest_first

CLASSES = ("real", "fake")
"""Class names; the position is the label: 0 real, 1 fake (the positive class)."""

KeyPath = tuple[str | int, ...]


class Strict(BaseModel):
    """A frozen record that refuses unknown keys, converts nothing and holds no nan or inf."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Trial(Strict):
    """One training run: every value that its result depends on, besides the data."""

    backbone: str
    """Name of a timm model, e.g. `resnet50` or `convnext_tiny.fb_in22k`."""
    pretrained: bool | str = True
    """true: timm's hub weights; false: random weights; text: a .safetensors or checkpoint file."""
    augmentation: str = "light"
    """A built-in policy (none, light, strong, compression) or one of the sweep's `augmentations`."""
    image_size: int = Field(default=224, ge=16, le=2048)
    """Side of the square that the model sees, in pixels."""
    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay; timm leaves biases and normalisation layers out of it."""
    batch_size: int = Field(default=64, ge=1)
    """Images per optimizer step."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the fit part, at the most."""
    optimizer: str = "adamw"
    """Name of a timm optimizer."""
    schedule: str = "cosine"
    """How the learning rate falls after the warm-up: cosine, poly, tanh, step or constant."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly from a hundredth of its peak."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate per layer group, from the head down; 1 is the same rate everywhere."""
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the classifier."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: the share of residual branches left out while training."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the label that is spread over both classes."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup's beta distribution; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of cutmix's beta distribution; 0 is off."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the averaged weights that are judged and kept; 0 is off."""
    class_balance: Literal["none", "weights", "sampling"] = "none"
    """Uneven classes: left as they are, weighted in the loss, or drawn equally often."""
    clip_grad: float = Field(default=1.0, ge=0)
    """Greatest norm of the gradient; 0 is off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many epochs without a better select metric; 0 is off."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of weights, batches and augmentation; the sweep's seed unless given."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that are the same for the same setting, anywhere and any time."""
        canonical = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


Bounds = tuple[float, float]


class Range(Strict):
    """A span of numbers: `{log: [a, b]}`, `{uniform: [a, b]}` or `{int: [a, b]}`, both ends included."""

    log: Bounds | None = Field(default=None, strict=False)
    """Numbers whose logarithm is uniform."""
    uniform: Bounds | None = Field(default=None, strict=False)
    """Numbers, uniform."""
    int: Bounds | None = Field(default=None, strict=False)
    """Whole numbers, uniform."""

    @model_validator(mode="after")
    def _one_kind_rising(self) -> Self:
        given = [kind for kind in ("log", "uniform", "int") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of log, uniform, int with two numbers [a, b]")
        low, high = self.bounds
        if not low < high:
            raise ValueError("a range [a, b] with a < b")
        if self.kind == "log" and low <= 0:
            raise ValueError("a log range above 0")
        if self.kind == "int" and (low != int(low) or high != int(high)):
            raise ValueError("an int range between whole numbers")
        return self

    @property
    def kind(self) -> Literal["log", "uniform", "int"]:
        """Which of the three it is."""
        return "log" if self.log else "uniform" if self.uniform else "int"

    @property
    def bounds(self) -> Bounds:
        """Both ends, lower first."""
        bounds = self.log or self.uniform or self.int
        assert bounds is not None
        return bounds


def _shape_of_axis(value: Any) -> str:
    if isinstance(value, Range | dict):
        return "range"
    return "choice" if isinstance(value, list | tuple) else "value"


def _axis_of(name: str, annotation: Any) -> Any:
    """The type of one key under `trial`: a value, a list of values, or (numbers only) a range."""
    metadata = Trial.model_fields[name].metadata
    value = Annotated[annotation, *metadata] if metadata else annotation
    if name == "pretrained":
        # a mapping names the weights of each backbone; backbones that it leaves out get none
        return value | dict[str, value] | Annotated[list[value], Field(min_length=1)]  # type: ignore[valid-type]
    shapes: Any = Annotated[value, Tag("value")] | Annotated[list[value], Field(min_length=1), Tag("choice")]  # type: ignore[valid-type]
    if annotation in (int, float):
        shapes = shapes | Annotated[Range, Tag("range")]
    return Annotated[shapes, Discriminator(_shape_of_axis)]


class _TrialAxes(Strict):
    """What one trial is. Every key may be a value, a list of values (a choice) or a range, and is then an axis."""

    @model_validator(mode="after")
    def _values_fit_their_field(self) -> Self:
        for name, axis in self.axes().items():
            if isinstance(axis, Range):
                for end in axis.bounds:
                    _check_value(name, int(end) if axis.kind == "int" else end)
                if Trial.model_fields[name].annotation is int and axis.kind != "int":
                    raise ValueError(f"{name} counts something: use {{int: [a, b]}}, not {axis.kind}")
            elif len({repr(value) for value in axis}) < len(axis):
                raise ValueError(f"{name} names the same value twice: {axis}")
        weights = getattr(self, "pretrained")  # noqa: B009 (the field is added by create_model)
        if isinstance(weights, dict):
            unknown = set(weights) - set(self.choices("backbone"))
            if unknown:
                raise ValueError(
                    f"pretrained names {sorted(unknown)}, which backbone ({self.choices('backbone')}) does not"
                )
        return self

    def given(self) -> dict[str, Any]:
        """Every key of `Trial` with what the sweep says of it (or the default)."""
        return {name: getattr(self, name) for name in Trial.model_fields}

    def axes(self) -> dict[str, list[Any] | Range]:
        """The keys that have more than one possible value: name -> choices or range."""
        return {name: axis for name, axis in self.given().items() if isinstance(axis, list | Range)}

    def choices(self, name: str) -> list[Any]:
        """All values that a key without a range can take."""
        value = getattr(self, name)
        return list(value) if isinstance(value, list) else [value]

    def weight_sources(self) -> dict[str, list[bool | str]]:
        """Each backbone with what `pretrained` may be for it."""
        return {
            backbone: [
                source.get(backbone, False) if isinstance(source, dict) else source
                for source in self.choices("pretrained")
            ]
            for backbone in self.choices("backbone")
        }

    def trial(self, values: Mapping[str, Any]) -> Trial:
        """The trial with `values` on the axes and the sweep's own values elsewhere."""
        settings = {**self.given(), **values}
        source = settings["pretrained"]
        if isinstance(source, dict):
            settings["pretrained"] = source.get(settings["backbone"], False)
        return Trial(**settings)


def _check_value(name: str, value: Any) -> None:
    try:
        Trial(**{"backbone": "any", name: value})
    except ValidationError as error:
        raise ValueError(f"{name}: {value!r} in a range; {error.errors()[0]['msg']}") from None


TrialAxes = create_model(
    "TrialAxes",
    __base__=_TrialAxes,
    __doc__=_TrialAxes.__doc__,
    **{  # type: ignore[call-overload]
        name: (
            _axis_of(name, field.annotation),
            Field(default=... if field.is_required() else field.default, description=field.description),
        )
        for name, field in Trial.model_fields.items()
    },
)


class DataSettings(Strict):
    """Where the images are and how they are divided into fit, select and report."""

    source: Literal["folder", "demo"] = "folder"
    """folder: `train` and `valid` below; demo: the built-in data set."""
    train: str | None = None
    """Folder with one folder a class; fit and select are cut out of it."""
    valid: str | None = None
    """Folder with one folder a class: the report part, read by `rfray ensemble` only."""
    valid_fraction: float | None = Field(default=None, gt=0, lt=0.9)
    """Instead of `valid`: the share of `train` that becomes the report part."""
    classes: dict[Literal["real", "fake"], str | Annotated[list[str], Field(min_length=1)]] = Field(
        default={"real": "real", "fake": "fake"}
    )
    """Class -> its folder's name below the data folder, or several names."""
    select_fraction: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of the training images on which everything is chosen."""
    split_by: Literal["auto", "image", "group"] = "auto"
    """What stays on one side of the split: each image, or each subfolder (group) as a whole.
    auto: group where every class has at least ten subfolders, else image. Identical files always stay together."""
    max_unreadable: float = Field(default=0.01, ge=0, le=1)
    """Greatest share of files that may be unreadable before the command stops."""
    cache: str | None = None
    """Folder for decoded pixels on each node; by default the user's cache folder."""

    @field_validator("train", "valid", "cache")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _absolute_path(path)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.classes) != set(CLASSES):
            raise ValueError(f"classes needs exactly real and fake, given: {', '.join(self.classes) or 'nothing'}")
        if self.source == "demo":
            if self.train or self.valid or self.valid_fraction:
                raise ValueError("source: demo brings its own images; leave out train, valid and valid_fraction")
            return self
        if self.train is None:
            raise ValueError("train is missing: a folder with class folders inside (or source: demo)")
        if (self.valid is None) == (self.valid_fraction is None):
            raise ValueError("give either valid (a folder) or valid_fraction, the share of train to report on")
        return self

    def class_folders(self) -> dict[str, list[str]]:
        """Class -> the names of its folders."""
        return {name: [given] if isinstance(given, str) else list(given) for name, given in self.classes.items()}


class SearchSettings(Strict):
    """How trials are chosen, stopped and kept."""

    trials: int | None = Field(default=None, ge=1)
    """How many trials; for grid it may be left out (all combinations)."""
    algorithm: str = "random"
    """How settings are proposed: grid, random or optuna."""
    scheduler: str = "none"
    """How weak trials are stopped early: none, asha, hyperband, median or pbt."""
    metric: str = "auc"
    """What is maximised on the select part, and what the leaderboard is ranked by."""
    grace_epochs: int = Field(default=1, ge=1)
    """No trial is stopped before this many epochs; for pbt, epochs between two exchanges."""
    reduction_factor: int = Field(default=3, ge=2)
    """asha and hyperband: one in this many goes on at each rung."""
    concurrent: int | None = Field(default=None, ge=1)
    """Most trials at once; by default as many as the resources allow."""
    keep: int | None = Field(default=None, ge=1)
    """How many trials' weights stay on disk; by default `ensemble.top_k` + 2."""
    max_failed: int = Field(default=0, ge=0)
    """More failed trials than this end `rfray tune` with exit code 1."""


class Resources(Strict):
    """What one trial gets."""

    cpu: float = Field(default=1, gt=0)
    """CPU cores."""
    gpu: float | Literal["auto"] = "auto"
    """GPUs, may be a fraction; auto: 1 where the cluster has any, else 0."""

    @field_validator("gpu")
    @classmethod
    def _not_negative(cls, gpu: float | str) -> float | str:
        if not isinstance(gpu, str) and gpu < 0:
            raise ValueError("0, a fraction of one GPU, 1, or auto")
        if not isinstance(gpu, str) and gpu > 1:
            raise ValueError("at most 1: a trial on several GPUs is not supported yet")
        return gpu


class EnsembleSettings(Strict):
    """Which trials vote together."""

    top_k: int = Field(default=5, ge=1)
    """How many of the best trials (by the select metric) are members."""


class Sweep(Strict):
    """One sweep file, checked; all paths absolute."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder: runs/<name>."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the split, the search and, unless `trial.seed` says otherwise, every trial."""
    data: DataSettings
    trial: TrialAxes
    augmentations: dict[str, Annotated[list[dict[str, dict[str, Any] | None]], Field(min_length=1)]] = Field(default={})
    """Own policies: name -> list of albumentations transforms, each `{Name: {argument: value}}`."""
    search: SearchSettings = SearchSettings()
    resources: Resources = Resources()
    ensemble: EnsembleSettings = EnsembleSettings()

    @property
    def keep(self) -> int:
        """How many trials' weights stay on disk across the whole sweep."""
        return self.search.keep or self.ensemble.top_k + 2

    @model_validator(mode="before")
    @classmethod
    def _seed_reaches_the_trials(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("trial"), dict) and isinstance(raw.get("seed"), int):
            return {**raw, "trial": {"seed": raw["seed"], **raw["trial"]}}
        return raw

    @model_validator(mode="after")
    def _weights_for_the_ensemble_are_kept(self) -> Self:
        if self.search.keep is not None and self.search.keep < self.ensemble.top_k:
            raise ValueError(
                f"search.keep ({self.search.keep}) must be at least ensemble.top_k ({self.ensemble.top_k}), "
                "or the ensemble's weights would be gone"
            )
        return self


@dataclass(frozen=True)
class SweepFile:
    """A sweep together with where each of its keys was written, for errors that are found later."""

    sweep: Sweep
    path: Path
    places: Mapping[KeyPath, str]
    """Key path -> `file:line`, or `--set key` for an override."""

    def error(self, key: KeyPath, given: object, allowed: str) -> SweepError:
        """A `SweepError` that names file, line and key, what was given and what is allowed."""
        return SweepError(_problem(self.places, str(self.path), key, f"given {_shown(given)}; allowed: {allowed}"))


def load_sweep(path: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """Reads a sweep file; `overrides` are `key.path=value` texts (values as in YAML) that win over the file.

    Raises SweepError, with one line per problem: file, line, key, what was given, what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: can't be read as text: {error}") from None
    raw, places = _parse(text, str(path))
    for override in overrides:
        _apply(override, raw, places)
    return SweepFile(_validate(raw, places, str(path)), path, places)


def read_resolved_sweep(path: Path) -> Sweep:
    """Reads the sweep.yaml of a run folder, as `resolved_text` wrote it."""
    return load_sweep(path).sweep


def resolved_text(sweep: Sweep) -> str:
    """The sweep as YAML: every default filled in, every path absolute."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(sweep.model_dump(mode="json", exclude_none=True), stream)
    return stream.getvalue()


def differences(old: Sweep, new: Sweep) -> list[str]:
    """What changed, one `key: old -> new` each; `resources` may differ, as no result depends on them."""
    before, after = (dict(_leaves(s.model_dump(mode="json", exclude={"resources"}))) for s in (old, new))
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def schema(names: Mapping[str, list[str]]) -> dict[str, Any]:
    """JSON schema of the sweep file; `names` (key -> registered names) become suggestions for editors."""
    document = Sweep.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "rfray sweep"
    for definition in ("TrialAxes", "SearchSettings"):
        for key, field in document["$defs"][definition]["properties"].items():
            if key in names:
                field["examples"] = names[key]
    return document


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _absolute_path(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    yaml = YAML(typ="safe", pure=True)  # YAML 1.2: 1e-4 is a number, `on` is text, a key given twice is an error
    try:
        tree = yaml.compose(io.StringIO(text))
        raw = yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SweepError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SweepError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise SweepError(f"{name}:1: a sweep is a mapping of keys (name, data, trial, …), given: {_shown(raw)}")
    return raw, {key: f"{name}:{line}" for key, line in _lines(tree, ())}


def _lines(node: Node, key: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, MappingNode):
        for name, value in node.value:
            inner = (*key, str(name.value))
            yield inner, name.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _lines(value, (*key, index))


def _apply(override: str, raw: dict[str, Any], places: dict[KeyPath, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SweepError(f"--set {override}: expected key=value, for example --set trial.epochs=3")
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
    except YAMLError as error:
        raise SweepError(f"--set {override}: the value is not valid YAML: {str(error).splitlines()[0]}") from None
    *parents, last = name.split(".")
    target = raw
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise SweepError(f"--set {override}: {parent} is not a mapping, so it has no key {last}")
    target[last] = value
    key = tuple(name.split("."))
    for place in [place for place in places if place[: len(key)] == key]:
        del places[place]
    places[key] = f"--set {name}"


def _validate(raw: dict[str, Any], places: Mapping[KeyPath, str], name: str) -> Sweep:
    weights = raw.get("trial", {}).get("pretrained") if isinstance(raw.get("trial"), dict) else None
    if weights is not None:
        raw = {**raw, "trial": {**raw["trial"], "pretrained": _absolute_weights(weights)}}
    try:
        return Sweep.model_validate(raw)
    except ValidationError as error:
        problems = dict.fromkeys(_explain(detail, places, name) for detail in error.errors())
        raise SweepError("\n".join(problems)) from None


def _absolute_weights(given: Any) -> Any:
    if isinstance(given, str):
        return _absolute_path(given)
    if isinstance(given, list):
        return [_absolute_weights(one) for one in given]
    if isinstance(given, dict):
        return {backbone: _absolute_weights(one) for backbone, one in given.items()}
    return given


_SECTIONS: dict[KeyPath, type[Strict]] = {
    (): Sweep,
    ("data",): DataSettings,
    ("trial",): Trial,
    ("search",): SearchSettings,
    ("resources",): Resources,
    ("ensemble",): EnsembleSettings,
}

_TAGS = {"value", "choice", "range", "str", "bool", "float", "int"}
"""Pydantic's own names for the members of a union; they are not keys."""


def _explain(detail: ErrorDetails, places: Mapping[KeyPath, str], name: str) -> str:
    key: KeyPath = ()
    for part in detail["loc"]:
        is_tag = isinstance(part, str) and (part in _TAGS or "[" in part)
        if not is_tag or (*key, part) in places:
            key = (*key, part)
    if detail["type"] == "extra_forbidden":
        allowed = nearest_first(key[-1], _SECTIONS.get(key[:-1], Range).model_fields, 30)
        return _problem(places, name, key, f"no such key; allowed: {allowed}")
    if detail["type"] == "missing":
        return _problem(places, name, key, "is missing")
    if detail["type"] == "value_error":
        return _problem(places, name, key, detail["msg"].removeprefix("Value error, "))
    allowed = detail["msg"].removeprefix("Input should be ")
    if detail["type"] == "union_tag_invalid":
        allowed = "a value or a list of values (a range only for numbers)"
    return _problem(places, name, key, f"given {_shown(detail['input'])}; allowed: {allowed}")


def _problem(places: Mapping[KeyPath, str], name: str, key: KeyPath, text: str) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    known = next((places[key[:length]] for length in range(len(key), 0, -1) if key[:length] in places), name)
    return f"{known}: {shown}: {text}" if shown else f"{known}: {text}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."

"""sweep.yaml -> `Sweep` (strict, typed) and `Trial` (frozen): everything that one trial is.

Names that live in a registry further up (backbones, policies, searchers, …) are plain text here;
`rfray.search.preflight` holds them against their registries and reports through `SweepFile.not_allowed`.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
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
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rfray.errors import SweepError, nearest_first

CLASSES = ("real", "fake")
"""Class names; the position is the label: 0 real, 1 fake (the positive class)."""

SEEDS = range(2**32)

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
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of weights, batches and augmentation; the sweep's seed unless given."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that are the same for the same setting, anywhere and any time."""
        canonical = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


Bounds = tuple[float, float]


class Range(Strict):
    """A span of numbers: `{log: [a, b]}`, `{uniform: [a, b]}` or `{int: [a, b]}`, both ends included."""

    log: Bounds | None = None
    """Numbers whose logarithm is uniform."""
    uniform: Bounds | None = None
    """Numbers, uniform."""
    int: Bounds | None = None
    """Whole numbers, uniform."""

    @field_validator("log", "uniform", "int", mode="before")
    @classmethod
    def _two_numbers(cls, given: Any) -> Any:
        if isinstance(given, list | tuple) and [type(end) in (int, float) for end in given] == [True, True]:
            return tuple(given)
        raise ValueError("two numbers [a, b]")

    @model_validator(mode="after")
    def _one_kind_rising(self) -> Self:
        given = [kind for kind in ("log", "uniform", "int") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("one of {log: [a, b]}, {uniform: [a, b]} and {int: [a, b]}")
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
        return "<mapping>"
    return "<list>" if isinstance(value, list | tuple) else "<value>"


def _axis_of(name: str, annotation: Any) -> Any:
    """The type of one key under `trial`: a value, a list of values, or (numbers only) a range."""
    value: Any = Annotated[annotation, *Trial.model_fields[name].metadata, Tag("<value>")]
    entry: Any = value
    if name == "pretrained":
        # a mapping names the weights of each backbone; backbones that it leaves out get none
        value |= Annotated[dict[str, entry], Field(min_length=1), Tag("<mapping>")]
        entry = Annotated[value, Discriminator(_shape_of_axis)]
    shapes = value | Annotated[list[entry], Field(min_length=1), AfterValidator(_each_once), Tag("<list>")]
    if annotation in (int, float):
        shapes |= Annotated[Range, AfterValidator(partial(_within_limits, name)), Tag("<mapping>")]
    return Annotated[shapes, Discriminator(_shape_of_axis)]


def _each_once(values: list[Any]) -> list[Any]:
    if len({repr(value) for value in values}) < len(values):
        raise ValueError("every value once")
    return values


def _within_limits(name: str, axis: Range) -> Range:
    if Trial.model_fields[name].annotation is int and axis.kind != "int":
        raise ValueError("a range of whole numbers, {int: [a, b]}")
    for end in axis.bounds:
        setting: dict[str, Any] = {"backbone": "any", name: int(end) if axis.kind == "int" else end}
        try:
            Trial(**setting)
        except ValidationError as error:
            raise ValueError(f"a range in which every value is {_allowed(error.errors()[0])}") from None
    return axis


class _TrialAxes(Strict):
    """What one trial is. Every key may be a value, a list of values (a choice) or a range, and is then an axis."""

    @field_validator("pretrained", check_fields=False)
    @classmethod
    def _absolute(cls, given: Any) -> Any:
        return _absolute_paths(given)

    @model_validator(mode="after")
    def _weights_are_for_its_backbones(self) -> Self:
        backbones = self.choices("backbone")
        problems: dict[KeyPath, tuple[object, str]] = {
            (*place, name): (name, nearest_first(name, backbones))
            for place, weights in self.written("pretrained")
            if isinstance(weights, dict)
            for name in weights
            if name not in backbones
        }
        if problems:
            raise _problems(problems)
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

    def written(self, name: str) -> Iterator[tuple[KeyPath, Any]]:
        """The same values, each with its place: the key, and the position in a list."""
        several = isinstance(getattr(self, name), list)
        for position, value in enumerate(self.choices(name)):
            yield ((name, position) if several else (name,)), value

    def trial(self, values: Mapping[str, Any]) -> Trial:
        """The trial with `values` on the axes and the sweep's own values elsewhere."""
        settings = {**self.given(), **values}
        source = settings["pretrained"]
        if isinstance(source, dict):
            settings["pretrained"] = source.get(settings["backbone"], False)
        return Trial(**settings)


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
    def _absolute(cls, path: str | None) -> Any:
        return _absolute_paths(path)

    @field_validator("classes")
    @classmethod
    def _both(cls, classes: dict[str, Any]) -> dict[str, Any]:
        if set(classes) != set(CLASSES):
            raise ValueError("both real and fake")
        return classes

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.source == "demo":
            for key in ("train", "valid", "valid_fraction"):
                if (given := getattr(self, key)) is not None:
                    problems[(key,)] = given, "nothing, as the built-in data (source: demo) has its own images"
        elif self.train is None:
            problems[("train",)] = None, "a folder with one folder a class inside, or source: demo"
        elif self.valid is None and self.valid_fraction is None:
            problems[("valid",)] = None, "a folder; or valid_fraction, the share of train to report on"
        elif self.valid is not None and self.valid_fraction is not None:
            problems[("valid_fraction",)] = self.valid_fraction, "either valid or valid_fraction, not both"
        if problems:
            raise _problems(problems)
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
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of the split, the search and, unless `trial.seed` says otherwise, every trial."""
    data: DataSettings
    """Where the images are and how they are divided."""
    trial: TrialAxes
    """What one trial is; every key may be a value, a list of values or a range."""
    augmentations: dict[str, Annotated[list[dict[str, dict[str, Any] | None]], Field(min_length=1)]] = Field(default={})
    """Own policies: name -> list of albumentations transforms, each `{Name: {argument: value}}`."""
    search: SearchSettings = SearchSettings()
    """How trials are chosen, stopped and kept."""
    resources: Resources = Resources()
    """What one trial gets."""
    ensemble: EnsembleSettings = EnsembleSettings()
    """Which trials vote together."""

    @property
    def keep(self) -> int:
        """How many trials' weights stay on disk across the whole sweep."""
        return self.search.keep or self.ensemble.top_k + 2

    @model_validator(mode="before")
    @classmethod
    def _seed_reaches_the_trials(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("trial"), dict):
            seed = raw.get("seed")
            if type(seed) is int and seed in SEEDS:  # a wrong one is one problem, not two
                return {**raw, "trial": {"seed": seed, **raw["trial"]}}
        return raw

    @model_validator(mode="after")
    def _weights_for_the_ensemble_are_kept(self) -> Self:
        if self.keep < self.ensemble.top_k:
            allowed = f"at least ensemble.top_k ({self.ensemble.top_k}), or the ensemble's weights would be gone"
            raise _problems({("search", "keep"): (self.keep, allowed)})
        return self


@dataclass(frozen=True)
class SweepFile:
    """A sweep together with where each of its keys was written, for errors that are found later."""

    sweep: Sweep
    places: Mapping[KeyPath, str]
    """Key path -> `file:line`, or `--set key` for an override. The empty key path is the file as a whole."""

    def problem(self, key: KeyPath, text: str) -> str:
        """The text with file, line and key before it."""
        return _problem(self.places, key, text)

    def not_allowed(self, key: KeyPath, given: object, allowed: str) -> str:
        """File, line and key, what was given and what is allowed."""
        return self.problem(key, f"given {_shown(given)}; allowed: {allowed}")


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
    try:
        return SweepFile(Sweep.model_validate(raw), places)
    except ValidationError as error:
        raise SweepError("\n".join(_explain(error, places))) from None


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


def _absolute_paths(given: Any) -> Any:
    """Paths made absolute, in lists and mappings too; what is no text, and addresses, stay as they are.

    Raises ValueError for an empty text.
    """
    if isinstance(given, list):
        return [_absolute_paths(one) for one in given]
    if isinstance(given, dict):
        return {key: _absolute_paths(one) for key, one in given.items()}
    if not isinstance(given, str) or "://" in given:
        return given
    if not given:
        raise ValueError("a path")
    return os.path.abspath(os.path.expanduser(given))


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    yaml = YAML(typ="safe", pure=True)  # YAML 1.2: 1e-4 is a number, `on` is text, a key given twice is an error
    try:
        tree = yaml.compose(io.StringIO(text))
        raw = yaml.load(io.StringIO(text))
        places = {(): f"{name}:1", **_places(tree, name, ())}
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SweepError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise SweepError(f"{name}: nested too deeply, or an alias inside what it stands for") from None
    except (YAMLError, ValueError) as error:
        raise SweepError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise SweepError(f"{name}:1: given {_shown(raw)}; allowed: a sweep: the keys {', '.join(Sweep.model_fields)}")
    return raw, places


def _places(node: Node | None, name: str, key: KeyPath) -> dict[KeyPath, str]:
    """Where every key below `node` is written. Raises SweepError for a key that is not text."""
    inner: list[tuple[str | int, Node, Node]] = []
    if isinstance(node, MappingNode):
        inner = [(written.value, written, value) for written, value in node.value]
    elif isinstance(node, SequenceNode):
        inner = [(index, value, value) for index, value in enumerate(node.value)]
    places: dict[KeyPath, str] = {}
    for part, written, value in inner:
        place = f"{name}:{written.start_mark.line + 1}"
        if isinstance(node, MappingNode) and written.tag not in _KEY_TAGS:
            text = part if isinstance(part, str) else "a list or mapping"
            raise SweepError(_problem({(): place}, key, f"given {text} as a key; allowed: text (perhaps in quotes)"))
        places[*key, part] = place
        places |= _places(value, name, (*key, part))
    return places


_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _apply(override: str, raw: dict[str, Any], places: dict[KeyPath, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SweepError(f"--set {override}: expected key=value, for example --set trial.epochs=3")
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
    except (YAMLError, ValueError, RecursionError) as error:
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
    for length in range(1, len(key) + 1):
        places.setdefault(key[:length], f"--set {name}")


def _problems(found: Mapping[KeyPath, tuple[object, str]]) -> ValidationError:
    """What a check of several keys raises: each key with what was given and what is allowed."""
    return ValidationError.from_exception_data(
        "sweep",
        [
            {"type": PydanticCustomError("value_error", "{allowed}", {"allowed": allowed}), "loc": key, "input": given}
            for key, (given, allowed) in found.items()
        ],
    )


_SECTIONS: dict[KeyPath, type[Strict]] = {
    (): Sweep,
    ("data",): DataSettings,
    ("trial",): Trial,
    ("search",): SearchSettings,
    ("resources",): Resources,
    ("ensemble",): EnsembleSettings,
}

_ALLOWED = {
    "invalid_key": "text as a key",
    "bool_type": "true, false",
    "int_type": "a whole number, without a decimal point",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "keys with values (key: value)",
    "model_type": "keys with values (key: value)",
    "too_short": "at least one entry",
    "string_pattern_mismatch": "letters, digits and . _ -, a letter or digit first",
    "union_tag_invalid": "a value or a list of values (a range only for numbers)",
}
"""Pydantic's name of a problem -> what is allowed, where its own words are not a user's."""


def _explain(error: ValidationError, places: Mapping[KeyPath, str]) -> list[str]:
    """One line a problem."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        found.setdefault(_key(detail, places), []).append(detail)
    order = list(places)
    return [
        _problem(places, key, _explained(key, found[key]))
        for key in sorted(found, key=lambda key: order.index(_written(key, places)))
        # where a value may have one of several types, the one that was got into furthest is the one that was meant
        if not any(other[: len(key)] == key for other in found if other != key)
    ]


def _key(detail: ErrorDetails, places: Mapping[KeyPath, str]) -> KeyPath:
    """Where the problem is, without pydantic's names for the members of a union, which are not keys."""
    key: KeyPath = ()
    for part in detail["loc"]:
        is_tag = isinstance(part, str) and (part in ("str", "bool", "float") or "<" in part or "[" in part)
        if not is_tag or (*key, part) in places:
            key = (*key, part)
    return key


def _explained(key: KeyPath, details: list[ErrorDetails]) -> str:
    detail = details[0]
    section = _SECTIONS.get(key[:-1], Range)
    if detail["type"] == "extra_forbidden":
        return f"no such key; allowed: {nearest_first(key[-1], section.model_fields, 30)}"
    if detail["loc"][-1] == "[key]":
        return f"no such key; allowed: {_allowed(detail)}"
    if detail["type"] == "missing":
        return f"is missing ({section.model_fields[str(key[-1])].description})"
    return f"given {_shown(detail['input'])}; allowed: {' or '.join(map(_allowed, details))}"


def _allowed(detail: ErrorDetails) -> str:
    given = detail["input"]
    if detail["type"] == "string_type":
        return f'text, in quotes: "{given}"' if type(given) in (int, float) else "text"
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    own_words = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _ALLOWED.get(detail["type"], own_words)


def _problem(places: Mapping[KeyPath, str], key: KeyPath, text: str) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    place = places[_written(key, places)]
    return f"{place}: {shown}: {text}" if shown else f"{place}: {text}"


def _written(key: KeyPath, places: Mapping[KeyPath, str]) -> KeyPath:
    """The key itself, or the nearest one around it that is written down."""
    return next(key[:length] for length in range(len(key), -1, -1) if key[:length] in places)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."

"""`Sweep` (strict, typed), what a sweep file says, and `Trial` (frozen): everything that one trial is.

Names that live in a registry further up (backbones, policies, searchers, …) are plain text here;
`rfray.search.preflight` holds them against their registries and reports through `SweepFile.not_allowed`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
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

from rfray.errors import nearest_first

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
    head: Literal["random", "probe"] = "random"
    """What the backbone's classifier starts from: random weights, on the last features; or the probe's head, which sees
    the features of all stages, and was learned while the backbone stood still (see `search.probe`)."""
    augmentation: str = "light"
    """A built-in policy (none, light, strong, compression) or one of the sweep's `augmentations`."""
    image_size: int = Field(default=224, ge=16, le=2048)
    """Side of the square that the model sees, in pixels."""
    resize: Literal["scale", "crop"] = "scale"
    """scale: the shorter edge is scaled to image_size and the middle cut out; crop: a window of that size is cut out of
    the picture as it is, at random while training, else in the middle: scaling removes forensic traces."""
    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay; timm leaves biases and normalisation layers out of it."""
    batch_size: int = Field(default=64, ge=1)
    """Images per optimizer step."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the fit part at the most. After each the trial is judged, or more often by `epoch_images`."""
    epoch_images: int = Field(default=0, ge=0)
    """Where there are many images, a pass is divided into epochs, one for so many images of the training folder (24 for
    5,000 of 119,000). The trial is judged after each, and the next goes on with other images. 0: a pass is one epoch;
    with a `search.budget`, one for as many images as it is judged by, and at least 1,000, with GPUs 5,000.
    """
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
    soup: Literal["none", "epochs", "auto"] = "none"
    """epochs: judged and kept is the mean of the weights after each epoch so far (a soup of one training's checkpoints,
    Wortsman et al. 2022). auto: where that is better on the select part by DeLong's paired test (p < 0.05, one-sided),
    else the weights as they are."""
    class_balance: Literal["none", "weights", "sampling"] = "none"
    """Uneven classes: left as they are, weighted in the loss, or drawn equally often."""
    clip_grad: float = Field(default=1.0, ge=0)
    """Greatest norm of the gradient; 0 is off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    tta: Literal["none", "flip", "auto"] = "none"
    """flip: the trial is judged, and predicts, by the mean of each picture and its mirror image, in twice the time.
    auto: flip where that is better on the select part by DeLong's paired test (p < 0.05, one-sided), else none."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many epochs without a better select metric; 0 is off."""
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of weights, batches and augmentation; the sweep's seed unless given."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that are the same for the same setting, anywhere and any time."""
        canonical = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


WITH_A_BUDGET = {"lr": {"log": [1e-4, 3e-3]}, "tta": "auto"}
"""What the trials of a sweep with a `search.budget` are unless it says otherwise."""
CUT_ANYWHERE = {"schedule": "constant", "ema": 0.99}
"""The same where any begins with pretrained weights: what is measured to be good wherever such a trial is cut. One with
random weights is better when it is trained to its end, so it has neither these nor asha."""


def epochs_of_a_pass(training_images: int, epoch_images: int) -> int:
    """Into how many epochs a pass is divided, with so many fit and select images: the same for trials and folds."""
    return max(1, round(training_images / epoch_images)) if epoch_images else 1


def epochs_of(setting: Mapping[str, Any], training_images: int) -> int:
    """How often a trial (key of `Trial` -> value) is judged at the most: after each epoch of all its passes."""
    return int(setting["epochs"]) * epochs_of_a_pass(training_images, setting["epoch_images"])


PROBED = ("backbone", "pretrained", "image_size", "resize")
"""The fields of a trial that its probe shares."""

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
            raise ValueError(f"a range in which every value is {allowed(error.errors()[0])}") from None
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

    def ends(self, name: str) -> list[Any]:
        """All values that a key can take, or both ends of its range."""
        value = getattr(self, name)
        return list(value.bounds) if isinstance(value, Range) else self.choices(name)

    def most_epochs(self, training_images: int) -> int:
        """How often the longest trial is judged."""
        settings = product(self.ends("epochs"), self.ends("epoch_images"))
        return max(epochs_of({"epochs": epochs, "epoch_images": size}, training_images) for epochs, size in settings)

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


class CacheSettings(Strict):
    """Where decoded pixels are kept, once per node."""

    dir: str | None = None
    """Folder on each node; by default the user's cache folder."""
    max_gb: float = Field(default=50, ge=0)
    """Most that it may hold, in 10^9 bytes. What was not used for longest goes first; what does not fit is decoded
    whenever it is needed."""

    @field_validator("dir")
    @classmethod
    def _absolute(cls, path: str | None) -> Any:
        return _absolute_paths(path)


class Reencode(Strict):
    """Every image is scaled to one size and encoded as JPEG before anything sees it."""

    quality: int = Field(default=90, ge=1, le=100)
    """Of the JPEG encoder."""
    size: int = Field(default=256, ge=16, le=4096)
    """Side of the square, in pixels: the shorter edge is scaled to it and the middle cut out."""


def _checked_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"a regular expression (this one: {error})") from None
    return pattern


class DataSettings(Strict):
    """Where the images are and how they are divided into fit, select and report."""

    source: Literal["folder", "demo"] = "folder"
    """folder: `train` and `valid` below; demo: the built-in data set."""
    train: str | None = None
    """Folder with one folder a class, or its address (s3://…); fit and select are cut out of it."""
    valid: str | None = None
    """Folder (or address) with one folder a class: the report part, read by `rfray ensemble` only."""
    valid_fraction: float | None = Field(default=None, gt=0, lt=0.9)
    """Instead of `valid`: the share of `train` that becomes the report part."""
    classes: dict[Literal["real", "fake"], str | Annotated[list[str], Field(min_length=1)]] = Field(
        default={"real": "real", "fake": "fake"}
    )
    """Class -> its folder's name below the data folder, or several names."""
    train_images: int | None = Field(default=None, ge=2)
    """Of a larger training folder, so many images are used, drawn by chance. By default all; with a `search.budget` by
    the clock, those that can be looked at in about a sixth of it: 25 a second with each core here, at least 5,000."""
    select_fraction: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of the training images on which everything is chosen."""
    select_images: int | None = Field(default=None, ge=1)
    """But no more than so many, as each epoch is judged by all of them. By default 5,000 (an AUC of 0.9 is uncertain by
    0.009 then, 95 %), and with a `search.budget` two for each of its seconds, or 1,000, if that is fewer."""
    folds: int | None = Field(default=None, ge=2)
    """Cuts fit and select together into so many folds, on each of which a model of every finalist (`search.finalists`)
    is judged that has learned from the others: votes and thresholds then rest on every training image."""
    split_by: Literal["auto", "image", "group"] = "auto"
    """What stays on one side of the split: each image, or each subfolder (group) as a whole.
    auto: group where every class has at least ten subfolders, else image. Identical files always stay together."""
    max_unreadable: float = Field(default=0.01, ge=0, le=1)
    """Greatest share of files that may be unreadable before the command stops."""
    group_pattern: str | None = None
    """Regular expression on an image's path below its data folder; images with the same match (of its first group in
    brackets, if it has one) show the same identity and stay on one side of the split."""
    report_duplicates: Literal["leave_out", "keep"] = "leave_out"
    """What becomes of training images that also stand in the report part: left out of fit and select, or kept and only
    reported by the audit."""
    reencode: Reencode | None = None
    """Cuts shortcuts by file format: see Reencode."""
    cache: CacheSettings = CacheSettings()
    """Where decoded pixels are kept: see CacheSettings."""

    _is_regular_expression = field_validator("group_pattern")(_checked_pattern)

    @field_validator("train", "valid")
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


_SECONDS = {"s": 1, "m": 60, "h": 3600}


LOOKED_AT = 12
"""Images of the training folder that are used for each second of a budget, and core: a core reads, decodes and audits
about 200 in a second, but trains on a few tens to a hundred, so that a trial would not come to more of them."""


class Budget(NamedTuple):
    """`search.budget`: what a sweep may use, over all its starts."""

    seconds: float
    of_gpus: bool
    """Whether they are seconds of GPUs (trial seconds x the GPUs of its slot), else of the command, by the clock."""


def budget_of(text: str) -> Budget | None:
    """What a text such as 12m or 8gpu-h stands for; None where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(gpu-)?([smh])", text)
    if found is None or not float(found[1]):
        return None
    return Budget(float(found[1]) * _SECONDS[found[3]], found[2] is not None)


class SearchSettings(Strict):
    """How trials are chosen, stopped and kept."""

    budget: str | None = None
    """What all starts of the sweep together may use: time by the clock (90s, 12m, 1.5h) or of GPUs (30gpu-m, 8gpu-h).
    With it `trials` may be left out, and what else is not given is what suits it: optuna, and trials with a range of
    learning rates that try mirror images; with pretrained weights asha, too, and trials that begin with their probes,
    at constant rates, and average their weights."""
    trials: int | None = Field(default=None, ge=1)
    """How many; may be left out for grid (all combinations), and with a budget (as many as there is time for)."""
    algorithm: str = "random"
    """How settings are proposed: grid, random or optuna."""
    scheduler: str = "none"
    """How weak trials are stopped early: none, asha, hyperband, median or pbt."""
    metric: str = "auc"
    """What is maximised on the select part, and what the leaderboard is ranked by."""
    grace_epochs: int = Field(default=1, ge=1)
    """No trial is stopped before this many epochs; for pbt, epochs between two exchanges."""
    reduction_factor: int = Field(default=3, ge=2)
    """asha and hyperband: one in this many goes on at each rung (asha: grace_epochs times its powers)."""
    concurrent: int | None = Field(default=None, ge=1)
    """Most trials at once; by default as many as the resources allow."""
    keep: int | None = Field(default=None, ge=1)
    """How many trials' weights stay on disk, besides those of finalists that are trained again; by default
    `ensemble.top_k` + 2."""
    finalists: int = Field(default=0, ge=0)
    """How many of the best trials are trained again once all trials have ended: with other seeds (`seeds`), for each of
    the folds (`data.folds`), or both. They are never stopped early."""
    seeds: int = Field(default=1, ge=1)
    """Trainings of each finalist, each with a seed of its own; the first one is the trial itself."""
    max_failed: int = Field(default=0, ge=0)
    """More failed trials than this end `rfray tune` with exit code 1."""
    probe: bool | Literal["auto"] = "auto"
    """Whether, before the first trial, a linear head is learned on what each backbone sees without any training (all
    its stages, on at most 20,000 fit images): a row of its own that may vote unless it is clearly worse than the best
    trial, and what trials with `head: probe` begin with. auto: for pretrained weights, and where a trial may begin with
    it."""
    probe_keep: int = Field(default=1, ge=1)
    """How many backbones stay in the sweep whatever their probes say. Of the others those go that are clearly worse
    than the best one on images that the heads had not learned from: 1 - AUC is larger by a quarter, and would be so by
    chance in less than 5 % of cases (DeLong's paired test, corrected by Holm's method)."""
    warm_start: list[str] = Field(default=[])
    """Earlier runs: folders or addresses. Those of their trials that are trials of this sweep, too, on the same images,
    are taken over instead of trained, and count among `trials`; optuna learns from the others."""

    @field_validator("budget", mode="before")
    @classmethod
    def _a_time(cls, given: Any) -> Any:
        if given is None or (isinstance(given, str) and budget_of(given)):
            return given
        raise ValueError("a time by the clock such as 90s, 12m or 1.5h, or of GPUs such as 30gpu-m or 8gpu-h")

    @field_validator("warm_start")
    @classmethod
    def _absolute(cls, runs: list[str]) -> list[str]:
        return _each_once(_absolute_paths(runs))


class Resources(Strict):
    """What one trial gets. `resources: auto` measures what each backbone needs, and packs as many as fit."""

    cpu: float = Field(default=1, gt=0)
    """CPU cores; of each worker, where several train a trial."""
    gpu: float | Literal["auto"] = "auto"
    """GPUs: 0, a fraction of one, or a whole number; more than one train the trial together, a worker each.
    auto: 1 (one a worker) where the cluster has any, else 0."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that train one trial together, each with a share of every batch, `cpu` cores and one GPU or none.
    By default as many as `gpu`, else 1."""
    auto: bool = False
    """Whether cpu and gpu follow from what each backbone is measured to need; `resources: auto` says the same."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """What the resources of one trial cost in an hour, in any currency; with it the leaderboard has a column `cost`."""

    @field_validator("gpu")
    @classmethod
    def _whole_above_one(cls, gpu: float | str) -> float | str:
        if not isinstance(gpu, str) and (gpu < 0 or (gpu > 1 and gpu != int(gpu))):
            raise ValueError("0, a fraction of one GPU, a whole number of them, or auto")
        return gpu

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.auto:
            for key in ("cpu", "gpu", "workers", "price_per_hour"):
                if (given := getattr(self, key)) != type(self).model_fields[key].default:
                    problems[(key,)] = given, "nothing beside auto, which gives each backbone what it needs"
        elif self.workers is not None and self.gpu not in ("auto", 0) and self.workers != self._one_a_gpu:
            allowed = f"{self._one_a_gpu}, as resources.gpu is {self.gpu:g} and each worker has one; or leave it out"
            problems[("workers",)] = self.workers, allowed
        if problems:
            raise _problems(problems)
        return self

    @property
    def together(self) -> int:
        """How many processes train a trial together."""
        return self.workers or self._one_a_gpu

    @property
    def _one_a_gpu(self) -> int:
        return 1 if isinstance(self.gpu, str) else max(1, int(self.gpu))


def _written_out(given: Any) -> Any:
    """`resources: auto` as the mapping that it stands for. Raises ValueError for another text."""
    if given == "auto":
        return {"auto": True}
    if isinstance(given, str):
        raise ValueError("keys with values (key: value), or auto")
    return given


class MaxFpr(Strict):
    """The lowest threshold at which few enough real images are called fake."""

    max_fpr: float = Field(gt=0, lt=1)
    """Greatest share of the real select images that may be called fake."""


class EnsembleSettings(Strict):
    """Which trials vote together, how, and what the vote is taken for."""

    top_k: int = Field(default=5, ge=1)
    """How many of the best trials (by the select metric) are members."""
    leave_out_worse: bool = False
    """Whether those are no members that are clearly worse than the best one on select (1 - AUC is larger by a tenth,
    and would be so by chance in less than 5 % of cases: DeLong's paired test, corrected by Holm's method). Probes that
    are never are; weighted chooses for itself. With a search.budget true unless given: a vote with such members, of
    few, is often below the best one."""
    diverse: int | None = Field(default=None, ge=1)
    """At most so many members of one backbone."""
    methods: list[Literal["soft", "weighted", "calibrated"]] = Field(default=["soft"], min_length=1)
    """How they vote: soft (mean of their probabilities), weighted (all kept trials, with weights chosen on the select
    part) or calibrated (mean after each member's temperature). The first is what `rfray ensemble` hands over; soft is
    always compared."""
    choose_by: Literal["score", "worst"] = "score"
    """What members are chosen and ranked by: the select metric, or its worst value under stress on the select part, of
    the trials whose weights are kept (`search.keep`)."""
    threshold: Literal["max_f1", "youden"] | MaxFpr | Annotated[float, Field(ge=0, le=1)] = 0.5
    """From which p_fake on an image is called fake: a number, or how it is chosen on the select part: max_f1, youden
    (recall minus false-positive rate) or `max_fpr: 0.01`."""
    unsure_error: float | None = Field(default=None, gt=0, lt=0.5)
    """Error rate that is wanted among the images that get a verdict; the others, around the threshold, are unsure."""


class ReportSettings(Strict):
    """What `rfray ensemble` reports beside the leaderboard."""

    group_pattern: str | None = None
    """Regular expression on an image's path below its data folder; its match (of its first group in brackets, if it has
    one) names the group in which an image is counted; by default its subfolder."""
    stress: bool = False
    """Whether the report part is also predicted under JPEG, scaling, blur and noise."""

    _is_regular_expression = field_validator("group_pattern")(_checked_pattern)


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
    resources: Annotated[
        Resources, BeforeValidator(_written_out, json_schema_input_type=Resources | Literal["auto"])
    ] = Resources()
    """What one trial gets; auto: what its backbone is measured to need."""
    ensemble: EnsembleSettings = EnsembleSettings()
    """Which trials vote together, how, and what the vote is taken for."""
    report: ReportSettings = ReportSettings()
    """What is reported beside the leaderboard."""

    @property
    def keep(self) -> int:
        """How many trials' weights stay on disk across the whole sweep, besides those of probes and of repeats."""
        return self.search.keep or self.ensemble.top_k + 2

    def probe(self, trial: Trial) -> Trial:
        """The probe that a trial belongs to: the same backbone, weights and images, and no training."""
        kept = {name: getattr(trial, name) for name in PROBED}
        return Trial(**kept, head="probe", seed=self.seed)

    def probes(self) -> list[Trial]:
        """The probes that `search.probe` asks for, each once; of a range of image sizes at the largest."""
        size = self.trial.axes().get("image_size")
        sizes = [int(size.bounds[1])] if isinstance(size, Range) else self.trial.choices("image_size")
        wanted: dict[str, Trial] = {}
        for backbone, source, side, resize in product(
            self.trial.choices("backbone"), self.trial.choices("pretrained"), sizes, self.trial.choices("resize")
        ):
            weights = source.get(backbone, False) if isinstance(source, dict) else source
            one = self.probe(Trial(backbone=backbone, pretrained=weights, image_size=side, resize=resize))
            if self.search.probe is True or weights or "probe" in self.trial.choices("head"):
                wanted[one.digest] = one
        return list(wanted.values()) if self.search.probe else []

    @model_validator(mode="before")
    @classmethod
    def _a_budget_decides_the_rest(cls, raw: Any) -> Any:
        search, trial = (raw.get(key) if isinstance(raw, dict) else None for key in ("search", "trial"))
        if not isinstance(search, dict) or search.get("budget") is None or not isinstance(trial, dict):
            return raw
        pretrained = _any_pretrained(trial.get("pretrained", True))
        with_probes = pretrained and search.get("probe") is not False and not isinstance(trial.get("image_size"), dict)
        begun = {**(CUT_ANYWHERE if pretrained else {}), **({"head": "probe"} if with_probes else {})}
        searched = {"algorithm": "optuna", "scheduler": "asha" if pretrained else "none"}
        decided = {"search": {**searched, **search}, "trial": {**WITH_A_BUDGET, **begun, **trial}}
        if isinstance(ensemble := raw.get("ensemble", {}), dict):
            decided["ensemble"] = {"leave_out_worse": True, **ensemble}
        return {**raw, **decided}

    @model_validator(mode="before")
    @classmethod
    def _seed_reaches_the_trials(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("trial"), dict):
            seed = raw.get("seed")
            if type(seed) is int and seed in SEEDS:  # a wrong one is one problem, not two
                return {**raw, "trial": {"seed": seed, **raw["trial"]}}
        return raw

    @property
    def budget(self) -> Budget | None:
        """What `search.budget` stands for."""
        return budget_of(self.search.budget) if self.search.budget else None

    def train_images(self, cores: int) -> int | None:
        """How many images of the training folder are used at the most, where so many cores look at them."""
        if self.data.train_images is not None or self.budget is None or self.budget.of_gpus:
            return self.data.train_images
        return max(5_000, int(LOOKED_AT * cores * self.budget.seconds))

    @property
    def select_images(self) -> int:
        """How many images are enough to choose by."""
        if self.data.select_images is not None:
            return self.data.select_images
        return 5_000 if self.budget is None else int(min(5_000, max(1_000, 2 * self.budget.seconds)))

    @property
    def repeats(self) -> int:
        """How often each finalist is trained again."""
        return self.search.seeds - 1 + (self.data.folds or 0)

    @model_validator(mode="after")
    def _finalists_are_trained_again(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.search.finalists and not self.repeats:
            allowed = "0; or together with search.seeds (at least 2) or data.folds, by which they are trained again"
            problems["search", "finalists"] = self.search.finalists, allowed
        if self.repeats and not self.search.finalists:
            place = ("data", "folds") if self.data.folds else ("search", "seeds")
            given = self.data.folds or self.search.seeds
            problems[place] = given, "nothing, unless search.finalists says how many of the best trials it is for"
        if self.data.folds and self.ensemble.choose_by == "worst":
            problems["ensemble", "choose_by"] = "worst", "score, as data.folds are not predicted under stress"
        if problems:
            raise _problems(problems)
        return self

    @model_validator(mode="after")
    def _weights_for_the_ensemble_are_kept(self) -> Self:
        if self.keep < self.ensemble.top_k:
            allowed = f"at least ensemble.top_k ({self.ensemble.top_k}), or the ensemble's weights would be gone"
            raise _problems({("search", "keep"): (self.keep, allowed)})
        return self


def _any_pretrained(given: Any) -> bool:
    """Whether what is written as trial.pretrained is anything but false throughout."""
    if isinstance(given, list | dict):
        return any(map(_any_pretrained, given.values() if isinstance(given, dict) else given))
    return given is not False


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


def _problems(found: Mapping[KeyPath, tuple[object, str]]) -> ValidationError:
    """What a check of several keys raises: each key with what was given and what is allowed."""
    return ValidationError.from_exception_data(
        "sweep",
        [
            {"type": PydanticCustomError("value_error", "{allowed}", {"allowed": allowed}), "loc": key, "input": given}
            for key, (given, allowed) in found.items()
        ],
    )


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


def allowed(detail: ErrorDetails) -> str:
    """What may be written instead of what pydantic refused, in a user's words."""
    given = detail["input"]
    if detail["type"] == "string_type":
        return f'text, in quotes: "{given}"' if type(given) in (int, float) else "text"
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    own_words = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _ALLOWED.get(detail["type"], own_words)

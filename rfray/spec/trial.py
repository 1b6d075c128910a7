"""`Trial` (frozen): everything that one trial is, and `TrialAxes`: what a sweep file says of its trials.

Names that live in a registry further up (backbones, policies, optimizers, …) are plain text here;
`rfray.tuning.preflight` holds them against their registries and reports through `SweepFile.not_allowed`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from rfray.errors import nearest_first
from rfray.spec.schema_base import KeyPath, Strict, absolute_paths, allowed, each_once, problems_with

SEEDS = range(2**32)


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
    """Passes over train at the most. After each the trial is judged, or more often by `epoch_images`."""
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
    swa: Literal["none", "epochs", "auto"] = "none"
    """epochs: judged and kept is the mean of the weights after each epoch so far (stochastic weight averaging,
    Izmailov et al. 2018). auto: where that is better on val by DeLong's paired test (p < 0.05, one-sided),
    else the weights as they are."""
    class_balance: Literal["none", "weights", "sampling"] = "none"
    """Uneven classes: left as they are, weighted in the loss, or drawn equally often."""
    clip_grad: float = Field(default=1.0, ge=0)
    """Greatest norm of the gradient; 0 is off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    tta: Literal["none", "flip", "auto"] = "none"
    """flip: the trial is judged, and predicts, by the mean of each picture and its mirror image, in twice the time.
    auto: flip where that is better on val by DeLong's paired test (p < 0.05, one-sided), else none."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many epochs without a better val metric; 0 is off."""
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of weights, batches and augmentation; the sweep's seed unless given."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that are the same for the same setting, anywhere and any time."""
        canonical = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def epochs_of_a_pass(training_images: int, epoch_images: int) -> int:
    """Into how many epochs a pass is divided, with so many train and val images: the same for trials and folds."""
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
    shapes = value | Annotated[list[entry], Field(min_length=1), AfterValidator(each_once), Tag("<list>")]
    if annotation in (int, float):
        shapes |= Annotated[Range, AfterValidator(partial(_within_limits, name)), Tag("<mapping>")]
    return Annotated[shapes, Discriminator(_shape_of_axis)]


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
        return absolute_paths(given)

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
            raise problems_with(problems)
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

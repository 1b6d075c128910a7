"""What a sweep file says of its trials -> `TrialAxes`, and from it each `Trial` (frozen): all that one trial is."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ValidationError

from rfray.errors import nearest_first
from rfray.spec.names import is_known
from rfray.spec.schema_base import EACH_ONCE, KeyPath, PathOfFile, Problems, Strict, allowed, refusing

SEEDS = range(2**32)
"""What numpy and torch take as a seed."""
WITHOUT = ("no", "none", "off", "false", "null", "n", "scratch", "random")
WITH = ("yes", "on", "true", "y", "imagenet", "imagenet1k_v1", "imagenet1k_v2", "default", "timm")
"""Words (any case) that mean false or true as weights, but are text in a sweep file; a file of the name is ./no."""


def _no_word(weights: Any) -> Any:
    if isinstance(weights, str) and weights.lower() in (*WITHOUT, *WITH):
        raise ValueError("false" if weights.lower() in WITHOUT else "true")
    return weights


class Trial(Strict):
    """One training run: every value that its result depends on, besides the data."""

    backbone: str
    """Name of a timm model, e.g. `resnet50` or `convnext_tiny.fb_in22k`."""
    pretrained: bool | Annotated[PathOfFile, BeforeValidator(_no_word)] = True
    """true: timm's weights from the hub. false: random weights. Text: a .safetensors or checkpoint file."""
    head: Literal["random", "probe"] = "random"
    """What the classifier starts from. random: random weights, on the last features. probe: the head of the backbone's
    probe (`search.probe`), which uses the features of all stages and was trained while the backbone was frozen."""
    augmentation: str = "light"
    """A built-in policy (none, light, strong, compression) or one of the sweep's `augmentations`."""
    image_size: int = Field(default=224, ge=16, le=2048)
    """Side of the square that the model sees, in pixels."""
    resize: Literal["scale", "crop"] = "scale"
    """scale: scale the shorter edge to image_size and cut out the middle. crop: cut a window of that size out of the
    original, at a random place in training, else in the middle, since scaling removes forensic traces."""
    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay. Biases and normalisation layers have none (as timm does it)."""
    batch_size: int = Field(default=64, ge=1)
    """Images per optimizer step."""
    epochs: int = Field(default=10, ge=1)
    """Maximum number of passes over train. The trial is judged on val after each, or more often with `epoch_images`."""
    epoch_images: int = Field(default=0, ge=0)
    """Divide each pass into epochs of about this many images of train and val, and judge the trial after each. 0: one
    epoch a pass. By default with a `search.budget` the number of val images, but at least 1,000 (with GPUs 5,000)."""
    optimizer: str = "adamw"
    """Name of a timm optimizer."""
    schedule: str = "cosine"
    """How the learning rate falls after the warm-up: cosine, poly, tanh, step or constant."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly from a hundredth of its peak."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate per layer group, from the head down. 1: the same rate for all layers."""
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the classifier."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: share of residual branches that are left out in training."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the label that is spread over both classes."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup's beta distribution. 0: no mixup."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of cutmix's beta distribution. 0: no cutmix."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the moving average of the weights, which is judged and kept. 0: no average."""
    swa: Literal["none", "epochs", "auto"] = "none"
    """Stochastic weight averaging (Izmailov et al. 2018). epochs: judge and keep the mean of the weights after every
    epoch so far. auto: only if it is better on val by DeLong's paired test (p < 0.05, one-sided)."""
    class_balance: Literal["none", "weights", "sampling"] = "none"
    """If one class has more images: weights weights the loss, sampling draws both equally often, none does neither."""
    clip_grad: float = Field(default=1.0, ge=0)
    """Maximum norm of the gradient. 0: no limit."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of training. auto: bf16 on a GPU that supports it, else fp32."""
    tta: Literal["none", "flip", "auto"] = "none"
    """Test-time augmentation. flip: the prediction is the mean over a picture and its mirror image, which takes twice
    the time. auto: flip if that is better on val by DeLong's paired test (p < 0.05, one-sided), else none."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many epochs without a better val metric. 0: never."""
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of weights, batches and augmentation. By default the sweep's seed."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that are the same for the same setting, on every machine and at any time."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:12]


def epochs_of_a_pass(training_images: int, epoch_images: int) -> int:
    """Into how many epochs a pass is divided, with so many train and val images: the same for trials and folds."""
    return max(1, round(training_images / epoch_images)) if epoch_images else 1


def epochs_of(setting: Mapping[str, Any], training_images: int) -> int:
    """How often a trial (key of `Trial` -> value) is judged at the most: after each epoch of all its passes."""
    return int(setting["epochs"]) * epochs_of_a_pass(training_images, setting["epoch_images"])


PROBED = ("backbone", "pretrained", "image_size", "resize")
"""The fields of a trial that its probe shares."""


def _two_numbers(given: Any) -> Any:
    if isinstance(given, list | tuple) and [type(end) in (int, float) for end in given] == [True, True]:
        return tuple(given)
    raise ValueError("two numbers [a, b]")


Bounds = Annotated[tuple[float, float], BeforeValidator(_two_numbers)]


class Range(Strict):
    """A range of numbers: `{log: [a, b]}`, `{uniform: [a, b]}` or `{int: [a, b]}`, both ends included."""

    log: Bounds | None = None
    """Numbers whose logarithm is uniform."""
    uniform: Bounds | None = None
    """Numbers, uniform."""
    int: Bounds | None = None
    """Whole numbers, uniform."""

    @model_validator(mode="after")
    def _one_kind_rising(self) -> Self:
        if [self.log, self.uniform, self.int].count(None) != 2:
            raise ValueError("one of {log: [a, b]}, {uniform: [a, b]} and {int: [a, b]}")
        if self.bounds[0] >= self.bounds[1]:
            raise ValueError("a range [a, b] with a < b")
        if self.log and self.log[0] <= 0:
            raise ValueError("a log range above 0")
        if self.int and self.int != self.bounds:
            raise ValueError("an int range between whole numbers")
        return self

    @property
    def kind(self) -> str:
        """Which of the three it is: log, uniform or int."""
        return next(name for name, bounds in self if bounds is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends, lower first; whole numbers of an int range."""
        low, high = self.log or self.uniform or self.int or (0, 0)  # one of them is given
        return (int(low), int(high)) if self.int else (low, high)


def _shape_of_axis(value: Any) -> str:
    if isinstance(value, Range | dict):
        return "<mapping>"
    return "<list>" if isinstance(value, list | tuple) else "<value>"


def _axis_of(name: str, field: FieldInfo) -> Any:
    """The type and field of one key under `trial`: a value, a list of values, or (numbers only) a range."""
    value: Any = Annotated[field.annotation, *field.metadata, Tag("<value>")]
    entry: Any = value
    if name == "pretrained":
        # a mapping names the weights of each backbone; backbones that it leaves out get none
        value |= Annotated[dict[str, entry], Field(min_length=1), Tag("<mapping>")]
        entry = Annotated[value, Discriminator(_shape_of_axis)]
    shapes = value | Annotated[list[entry], Field(min_length=1), EACH_ONCE, Tag("<list>")]
    if field.annotation in (int, float):
        shapes |= Annotated[Range, AfterValidator(partial(_within_limits, name)), Tag("<mapping>")]
    return Annotated[shapes, Discriminator(_shape_of_axis)], Field(default=field.default, description=field.description)


def _within_limits(name: str, axis: Range) -> Range:
    if Trial.model_fields[name].annotation is int and axis.kind != "int":
        raise ValueError("a range of whole numbers, {int: [a, b]}")
    for end in axis.bounds:
        try:
            Trial.model_validate({"backbone": "any", name: end})
        except ValidationError as error:
            raise ValueError(f"a range in which every value is {allowed(error.errors()[0])}") from None
    return axis


class _TrialAxes(Strict):
    """What one trial is. Every key may be a value, a list of values (a choice) or a range, and is then an axis."""

    @refusing
    def _weights_are_for_its_backbones(self) -> Problems:
        backbones = self.choices("backbone")
        named = [(key, weights) for key, weights in self.written("pretrained") if isinstance(weights, dict)]
        others = [((*key, name), name) for key, weights in named for name in weights if name not in backbones]
        if others and all(is_known("backbone", name) for name in backbones):  # else that name is at fault
            for key, name in others:
                yield key, name, nearest_first(name, backbones)

    def axes(self) -> dict[str, list[Any] | Range]:
        """The keys that have more than one possible value: name -> choices or range."""
        return {name: axis for name, axis in self if isinstance(axis, list | Range)}

    def choices(self, name: str) -> list[Any]:
        """All values that a key without a range can take."""
        value = getattr(self, name)
        return list(value) if isinstance(value, list) else [value]

    def ends(self, name: str) -> list[Any]:
        """All values that a key can take, or both ends of its range, the lower first."""
        value = getattr(self, name)
        return list(value.bounds) if isinstance(value, Range) else self.choices(name)

    def image_sizes(self, of_range: Literal[0, 1]) -> list[int]:
        """All image sizes; of a range only the smallest (0) or the largest (1)."""
        sizes = self.choices("image_size")
        return [int(size.bounds[of_range]) if isinstance(size, Range) else size for size in sizes]

    def most_epochs(self, training_images: int) -> int:
        """How often the longest trial is judged."""
        of_a_pass = max(epochs_of_a_pass(training_images, size) for size in self.ends("epoch_images"))
        return int(max(self.ends("epochs"))) * of_a_pass

    def written(self, name: str) -> list[tuple[KeyPath, Any]]:
        """The same values, each with where it is written: the key, and the position in a list."""
        several = isinstance(getattr(self, name), list)
        return [((name, position) if several else (name,), one) for position, one in enumerate(self.choices(name))]

    def trial(self, values: Mapping[str, Any]) -> Trial:
        """The trial with `values` on the axes and the sweep's own values elsewhere."""
        settings = {**dict(self), **values}
        if isinstance(source := settings["pretrained"], dict):
            settings["pretrained"] = source.get(settings["backbone"], False)
        return Trial(**settings)


TrialAxes = create_model(
    "TrialAxes",
    __base__=_TrialAxes,
    __doc__=_TrialAxes.__doc__,
    **{name: _axis_of(name, field) for name, field in Trial.model_fields.items()},
)

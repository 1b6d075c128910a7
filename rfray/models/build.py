"""trial -> timm model with two outputs (real, fake), and the normalisation that its weights expect."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.data import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from rfray.errors import TrialError
from rfray.spec.sweep import CLASSES
from rfray.spec.trial import Trial

logging.getLogger("timm").setLevel(logging.ERROR)  # it warns about every classifier that it replaces

COUNTER = "num_batches_tracked"
"""The end of the names of batch normalisations' counters: nothing here depends on them, and old files have none."""
NAMED = 3
"""Names in a message: enough to see where two backbones differ."""
STAGES = 5
"""At most so many stages, evenly spread up to the last one: convolutional backbones have about five, and transformers
as many as they have blocks."""


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of images scaled to [0, 1], in RGB order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 -> float32, normalised, on the same device, channels-last."""
        mean, std = (torch.tensor(one, device=images.device).view(1, 3, 1, 1) * 255 for one in (self.mean, self.std))
        return images.float().sub_(mean).div_(std)


class MultiscaleHead(nn.Module):
    """Features -> standardised by the mean and standard deviation on the probe's images -> logits."""

    centre: torch.Tensor
    """(F,) float32: the means."""
    scale: torch.Tensor
    """(F,) float32: the standard deviations."""

    def __init__(self, features: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, len(CLASSES))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F) float32 -> (B, 2)."""
        logits: torch.Tensor = self.linear(self.dropout((features - self.centre) / self.scale))
        return logits


class MultiscaleModel(nn.Module):
    """A timm backbone without its classifier, and a `MultiscaleHead`.

    It has what timm's optimizers and Grad-CAM ask a timm model for: `feature_info`, `no_weight_decay`.
    """

    def __init__(self, backbone: Any, side: int, drop_rate: float = 0.0) -> None:
        """`side`: of the images, in pixels. Raises whatever the backbone raises where timm can't return its stages."""
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            backbone.eval()
            stages = backbone.forward_intermediates(torch.zeros(1, 3, side, side), intermediates_only=True)
            backbone.train()
        kept = min(len(stages), STAGES)
        self.stages = [(number + 1) * len(stages) // kept - 1 for number in range(kept)]
        self.head = MultiscaleHead(sum(pooled(stages[stage]).shape[1] for stage in self.stages), drop_rate)
        self.feature_info = [
            {**info, "module": f"backbone.{info['module']}"}
            for info in getattr(backbone, "feature_info", [])
            if "module" in info
        ]
        self.num_prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, F) float32: the pooled channels of each stage."""
        stages = self.backbone.forward_intermediates(images, indices=self.stages, intermediates_only=True)
        return torch.cat([pooled(stage.float()) for stage in stages], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> logits (B, 2)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, for timm's optimizers."""
        return {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}


def pooled(stage: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, 3 C): the mean of each channel, its maximum and its standard deviation."""
    pixels = stage.flatten(2)  # (B, C, h * w)
    return torch.cat([pixels.mean(2), pixels.amax(2), pixels.std(2, correction=0)], dim=1)


def backbone_names() -> list[str]:
    """Every backbone that timm can build, without and with the tags of its pretrained weights."""
    return [*timm.list_models(), *timm.list_pretrained()]


@contextmanager
def _at_most(most_bytes: float) -> Iterator[None]:
    """Raises ValueError as soon as parameters that are made inside take more."""
    taken = 0

    def count(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal taken
        taken += 0 if parameter is None else parameter.nbytes
        if taken > most_bytes:
            raise ValueError(f"it takes more than {most_bytes / 1e6:.0f} MB, so the weights there are not its own")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def build_model(
    trial: Trial, load_pretrained: bool = True, most_bytes: float = math.inf
) -> tuple[nn.Module, Normalisation]:
    """The trial's model on the CPU, with the weights that it starts from (random ones if not `load_pretrained`).

    With `head: probe` it is a MultiscaleModel, whose head has zeros for weights: the probe's own file has others.
    Raises TrialError where the weights can't be loaded, are not finite or, from a file, not those of all the backbone,
    where it does not take a size or option, and as soon as its parameters take more than `most_bytes`.
    """
    source, known = trial.pretrained if load_pretrained else False, get_pretrained_cfg(trial.backbone)
    if isinstance(source, str) and not os.path.isfile(source):
        raise TrialError(f"{source}: no such file")
    try:
        with _noting() as noted, _at_most(most_bytes):
            model = timm.create_model(  # which leaves out what is None
                trial.backbone,
                pretrained=bool(source),
                pretrained_cfg_overlay={"file": source} if isinstance(source, str) else None,
                num_classes=len(CLASSES) if trial.head == "random" else 0,
                img_size=trial.image_size if known is not None and known.fixed_input_size else None,
                drop_rate=trial.drop_rate or None,
                drop_path_rate=trial.drop_path or None,
            )
    except TypeError as error:
        raise TrialError(f"{trial.backbone} does not take one of its options: {error}") from error
    except Exception as error:  # of many kinds: the file may be of any origin
        raise TrialError(_why_not(trial, error)) from error
    if not hasattr(model, "get_classifier"):
        raise TrialError(f"{trial.backbone} is an encoder without a classifier; take a model of another name")
    if source and (problem := _misfit(trial, model, noted)):
        raise TrialError(problem)
    data = resolve_model_data_config(model)
    if trial.head == "probe":
        try:
            model = MultiscaleModel(model, trial.image_size, trial.drop_rate)
        except Exception as error:  # of many kinds: some of timm's backbones have no stages
            raise TrialError(f"{trial.backbone} can't be probed at {trial.image_size} px: {error}") from error
    elif isinstance(classifier := model.get_classifier(), nn.Linear | nn.Conv2d):
        # timm's efficientnets draw a two-class classifier's weights from [-0.7, 0.7]: the first loss was 3, not ln 2,
        # which would spoil pretrained features
        nn.init.normal_(classifier.weight, std=0.01)
        if classifier.bias is not None:
            nn.init.zeros_(classifier.bias)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:  # Module.to refuses lambda_resnet, whose convolutions over three dimensions have five
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model, Normalisation(data["mean"], data["std"])


def check_weights(backbone: str, source: bool | str) -> None:
    """Raises TrialError where pretrained weights can't be loaded or do not fit. `source`: as in `Trial.pretrained`."""
    trial = Trial(backbone=backbone, pretrained=source)
    if source is True:
        known, names = get_pretrained_cfg(backbone), ("model.safetensors", "pytorch_model.bin")
        if known is None or not known.has_weights:
            raise TrialError(_why_not(trial, ValueError("timm has none")))
        hub_id = known.hf_hub_id
        if hub_id and not any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in names):
            try:
                HfApi().model_info(hub_id, timeout=10)  # a download would try for most of a minute
            except Exception as error:  # of many kinds: it depends on the hub client's HTTP library
                raise TrialError(_why_not(trial, error)) from error
    elif source:
        build_model(trial)


@dataclass(frozen=True)
class Noted:
    """Names of tensors, of a model and of the file that it was loaded from."""

    missing: set[str] = field(default_factory=set)
    """Of the model, and not in the file."""
    left_over: set[str] = field(default_factory=set)
    """Of the file, and the model has no place for them."""
    no_fractions: set[str] = field(default_factory=set)
    """Of both, and the file has whole numbers where the model has others, as in quantised files: torch takes them."""


@contextmanager
def _noting() -> Iterator[Noted]:
    """Notes how a model and its file differ.

    timm builds and loads in one call, its filters rename what is in a file, and it only logs what did not match.
    """
    noted, hooks, watched = Noted(), [], set[nn.Module]()

    def look(module: nn.Module, given: dict[str, Any], prefix: str, *_: Any) -> None:
        own = {} if prefix else module.state_dict()
        both = ((name, own[name], tensor) for name, tensor in given.items() if name in own)
        noted.no_fractions.update(
            name for name, ours, its in both if ours.is_floating_point() and not its.is_floating_point()
        )

    def note(module: nn.Module, names: Any) -> None:
        noted.missing.update(names.missing_keys)
        noted.left_over.update(names.unexpected_keys)

    def watch(module: nn.Module, name: str, child: nn.Module | None) -> None:
        if module not in watched:  # it is told of each of its parts
            watched.add(module)
            hooks.append(module.register_load_state_dict_pre_hook(look))
            hooks.append(module.register_load_state_dict_post_hook(note))

    hooks.append(register_module_module_registration_hook(watch))
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _misfit(trial: Trial, model: nn.Module, noted: Noted) -> str | None:
    """Why the loaded weights are not this backbone's, all but its classifier, or not finite; None where they are.

    What timm itself has chosen (`pretrained: true`) is only looked at for what is not finite.
    """
    source, problems = trial.pretrained, []
    if isinstance(source, str):
        cfg = get_pretrained_cfg(trial.backbone)
        classifier = (cfg.classifier if cfg is not None else None) or ()
        exempt = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
        # timm's inception_v3 has these in its files alone; a probe's backbone has lost what stood around its classifier
        exempt_left_over = (*exempt, "AuxLogits.") if trial.head == "random" else ("",)
        tensors = [name for name in model.state_dict() if not name.endswith(COUNTER)]
        lacking = [name for name in tensors if name in noted.missing and not name.startswith(exempt)]
        known = {name for name, _ in model.named_buffers()}  # which models made are in older files
        surplus = [
            name
            for name in sorted(noted.left_over - known)
            if not name.startswith(exempt_left_over) and not name.endswith(COUNTER)
        ]
        if lacking:  # a file without a classifier lacks what goes with it, as levit's head.bn
            with torch.device("meta"):
                backbone = timm.create_model(trial.backbone, num_classes=0).state_dict().keys()
            lacking = [name for name in lacking if name in backbone]
        if lacking:
            problems.append(f"{len(lacking)} of its {len(tensors)} tensors are not in the file ({_few(lacking)})")
        if surplus:
            problems.append(f"it has no place for {len(surplus)} of the file's ({_few(surplus)})")
        if odd := sorted(noted.no_fractions):
            problems.append(f"the file has no floating-point numbers in {len(odd)} ({_few(odd)}), as if quantised")
    if problems:
        return (
            f"{source} does not fit {trial.backbone}: {'; '.join(problems)}. "
            "Give the right file, or one for each backbone: pretrained: {backbone: file}"
        )
    if broken := [name for name, values in model.state_dict().items() if not values.isfinite().all()]:
        whose = source if isinstance(source, str) else f"the pretrained weights of {trial.backbone}"
        return f"{whose}: values that are no finite numbers (NaN, infinity) in {_few(broken)}. Give a sound file"
    return None


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _why_not(trial: Trial, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    cause = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]  # torch says in a second line which tensor
    if trial.pretrained is True:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        return (
            f"no pretrained weights for {trial.backbone}: {cause}{offline}. "
            "Give a file (pretrained: weights.safetensors) or train from scratch (pretrained: false)"
        )
    if trial.pretrained:
        if isinstance(error, AttributeError | KeyError | EOFError):  # what holds something else than named tensors
            return f"{trial.pretrained} is no file of weights ({type(error).__name__}: {cause}). Give another"
        return f"{trial.pretrained} does not fit {trial.backbone}: {cause}"
    return f"{trial.backbone} can't be built at {trial.image_size} px: {cause}"

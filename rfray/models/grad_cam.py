"""weights + images + calls -> maps of where each image speaks for its call: Grad-CAM on timm's feature metadata.

Grad-CAM (Selvaraju et al. 2017): the features of the last stage, weighted channel by channel with the mean gradient of
the call's logit, summed, negative values cut off. Which module gives the features, and how many channels they have,
timm knows of every backbone (`feature_info`).
"""

from collections.abc import Callable
from contextlib import ExitStack
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rfray.data.batches import plain_batches
from rfray.data.images import Images
from rfray.models.build import build_model
from rfray.models.bundle import LoadedBundle
from rfray.models.ensemble_inference import Detected
from rfray.models.heatmap_overlay import as_jpeg, laid_out, overlaid, shrunk
from rfray.models.inference import Detector, device_and_type, load_weights
from rfray.spec.trial import Trial
from rfray.store.files import write_whole

AT_ONCE = 8
"""Images that a model explains at once: gradients take several times the memory of a prediction."""
EXPLAINED = 512
"""Longest side, in pixels, of a picture that `draw_evidence` writes."""
SALIENCY_GRID = 14
"""Cells a side into which an input gradient is averaged; pixel by pixel it is a scatter of dots."""


def draw_evidence(bundle: LoadedBundle, seen: Detected, p_fake: np.ndarray, folder: Path, first: int) -> list[str]:
    """Writes a picture of each file: where the members saw evidence for the call, by their share in the vote.

    <number>-<name>.jpg, numbers from `first`; the names are returned, "" of a file that could not be read. `p_fake`
    (B,) is the vote's, and `seen` has its pictures.
    """
    names = [""] * len(seen.paths)
    for number in (number for number, reason in enumerate(seen.reasons) if not reason):
        picture = seen.pictures[number]
        assert picture is not None  # there is no reason why it could not be read
        names[number] = f"{first + number:06d}-{Path(seen.paths[number]).stem[:80]}.jpg"
        write_whole(folder / names[number], evidence_picture(bundle, picture, p_fake[number]))
    return names


def evidence_picture(bundle: LoadedBundle, picture: np.ndarray, p_fake: float) -> bytes:
    """The bytes of a JPEG: (height, width, 3) uint8 RGB, with where the members saw evidence for the call of `p_fake`.

    That is the vote's. Its longest side has at most EXPLAINED pixels.
    """
    ensemble, small = bundle.ensemble, shrunk(picture, EXPLAINED)
    call = torch.tensor([int(p_fake >= ensemble.threshold)])
    covers = [
        share
        * laid_out(
            evidence_of_one(detector, geometry.square(picture), call),
            geometry.seen(picture.shape[1], picture.shape[0]) * small.shape[1] / picture.shape[1],
            *small.shape[:2],
        )
        for share, detector, geometry in zip(ensemble.weights, bundle.detectors, bundle.geometries, strict=True)
    ]
    return as_jpeg(overlaid(small, np.sum(covers, axis=0)))


def evidence_of_one(detector: Detector, square: np.ndarray, call: torch.Tensor) -> np.ndarray:
    """`evidence` of one (S, S, 3) uint8 square for one call, (1,) int64: (S, S) float32; 0 where it is not finite."""
    pixels = torch.tensor(square).permute(2, 0, 1)[None].to(detector.device)
    found = evidence(detector.model, detector.normalise(pixels), call.to(detector.device))[0].cpu().numpy()
    return np.asarray(np.nan_to_num(found))


def evidence_from_file(weights: Path, trial: Trial, images: Images, calls: np.ndarray) -> np.ndarray:
    """`evidence` of a finished trial's weights: (n, S, S) float32 in [0, 1]; `calls` (n,) int are 0 real, 1 fake.

    Raises RunError where the file is damaged or does not fit, ValueError where a gradient is not finite.
    """
    device, _ = device_and_type(trial.precision)
    model, normalise = build_model(trial, load_pretrained=False)
    load_weights(weights, model)
    model.to(device).eval().requires_grad_(False)
    wanted = torch.from_numpy(calls.astype(np.int64)).split(AT_ONCE)
    batches = plain_batches(images, AT_ONCE, pin=False)
    maps = [
        evidence(model, normalise(pixels.to(device)), some.to(device)).cpu()
        for (pixels, _), some in zip(batches, wanted, strict=True)
    ]
    found = torch.cat(maps).numpy()
    if not np.isfinite(found).all():
        raise ValueError("a gradient is not finite")
    return found


def evidence(model: nn.Module, images: torch.Tensor, calls: torch.Tensor) -> torch.Tensor:
    """Where each image speaks for its call: (B, S, S) float32, 1 at its strongest; 0 all over where nothing does.

    `images` are (B, 3, S, S) float32 as the model, in evaluation mode, takes them; `calls` (B,) int64: 0 real, 1 fake.
    Of a backbone without features that have places: `input_gradient` instead of `grad_cam`.
    """
    maps = grad_cam(model, images, calls)
    if maps is None:
        maps = input_gradient(model, images, calls)
    maps = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest == 0, 0, maps / highest)


def grad_cam(model: nn.Module, images: torch.Tensor, calls: torch.Tensor) -> torch.Tensor | None:
    """(B, h, w) float32, >= 0, on the grid of the features; arguments as `evidence`. None where there are no features.

    Taken from the last features whose places matter: in the last block of a vision transformer that classifies by its
    class token alone they don't any more.
    """
    known = [info for info in getattr(model, "feature_info", []) if "module" in info]
    modules = dict(model.named_modules())
    seen: dict[str, torch.Tensor] = {}
    with torch.enable_grad(), ExitStack() as hooks:
        for info in known:
            if info["module"] in modules:
                hooks.enter_context(modules[info["module"]].register_forward_hook(_keep(seen, info["module"])))
        score = _score(model, images.detach().requires_grad_(), calls)
        for info in reversed(known):
            features = seen.get(info["module"])
            if features is None or not features.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(
                score, features, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            places = [_places(part.detach(), info["num_chs"], model) for part in (features, gradient)]
            if places[0] is not None and places[1] is not None and places[1].any():
                weights = places[1].mean((2, 3), keepdim=True)
                return (weights * places[0]).sum(1).relu().float()
    return None


def input_gradient(model: nn.Module, images: torch.Tensor, calls: torch.Tensor) -> torch.Tensor:
    """(B, h, w) float32, >= 0: how much each cell of an image matters to its call (Simonyan et al. 2014).

    Not whether it speaks for the call or against it. Arguments as `evidence`.
    """
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_score(model, pixels, calls), pixels)
    return F.adaptive_avg_pool2d(gradient.abs().sum(1), SALIENCY_GRID).float()


def _score(model: nn.Module, images: torch.Tensor, calls: torch.Tensor) -> torch.Tensor:
    """How much further the logits of the calls are up than those of the other class, summed over the images."""
    logits = model(images)
    return torch.where(calls == 1, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1]).sum()


def _keep(seen: dict[str, torch.Tensor], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, tuple):  # timm's own rule: the features come first
            output = output[0]
        if isinstance(output, list):  # of several branches, the last is the coarsest
            output = output[-1]
        if isinstance(output, torch.Tensor):
            seen[name] = output

    return hook


def _places(features: torch.Tensor, channels: int, model: nn.Module) -> torch.Tensor | None:
    """(B, C, h, w) of features (B, C, h, w), (B, h, w, C) or (B, tokens, C); None where they are no such thing."""
    if features.ndim == 3:
        tokens = features.shape[1]
        for prefix in (getattr(model, "num_prefix_tokens", 0), 0):  # some add the class token further up
            side = isqrt(max(0, tokens - prefix))
            if side and side**2 == tokens - prefix:
                return features[:, prefix:].reshape(len(features), side, side, -1).permute(0, 3, 1, 2)
        return None
    if features.ndim != 4:
        return None
    channels_last = features.shape[3] == channels != features.shape[1]
    return features.permute(0, 3, 1, 2) if channels_last else features

"""model + images + target classes -> heatmaps of the evidence for each target, by Grad-CAM; those over small JPEGs.

Grad-CAM (Selvaraju et al. 2017): the last stage's features, each channel weighted with the mean gradient of the
target's logit, summed, negative values set to 0. timm's `feature_info` names the module of the features, and the number
of their channels.
"""

from contextlib import ExitStack
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from rfray.models.bundle import LoadedBundle
from rfray.store.files import write_whole

QUALITY = 85
"""Of the JPEG encoder, 1 to 100."""
OPACITY = 0.7
"""Of the colour where the heatmap is 1: the picture stays visible below it."""
EXPLAINED = 512
"""Longest side, in pixels, of a picture that `heatmap_jpeg` makes by default."""
SALIENCY_GRID = 14
"""Cells along a side over which an input gradient is averaged; pixel by pixel it is noise."""


def write_heatmaps(
    bundle: LoadedBundle, seen: tuple[pd.DataFrame, list[np.ndarray | None]], folder: Path, first: int
) -> list[str]:
    """Writes `heatmap_jpeg` of each file that `detect` has seen to <number>-<name>.jpg, numbers from `first`.

    Returns the names, "" for a file without a verdict.
    """
    table, pictures = seen
    names = [""] * len(table)
    for row, (path, p_fake, picture) in enumerate(zip(table["path"], table["p_fake"], pictures, strict=True)):
        if picture is not None and not np.isnan(p_fake):
            names[row] = f"{first + row:06d}-{Path(path).stem[:80]}.jpg"
            write_whole(folder / names[row], heatmap_jpeg(bundle, picture, p_fake))
    return names


def heatmap_jpeg(bundle: LoadedBundle, picture: np.ndarray, p_fake: float, longest: int = EXPLAINED) -> bytes:
    """The bytes of a JPEG: the picture and the members' heatmaps over it, weighted with their share in the vote.

    `picture` (height, width, 3) uint8 RGB; `p_fake` is the vote's, and gives the target class.
    """
    ensemble, small = bundle.ensemble, shrink(picture, longest)
    target, (height, width) = torch.tensor([int(p_fake >= ensemble.threshold)]), small.shape[:2]
    total = np.zeros((height, width), np.float32)
    for share, detector, geometry in zip(ensemble.weights, bundle.detectors, bundle.geometries, strict=True):
        pixels = torch.tensor(geometry.square(picture)).permute(2, 0, 1)[None].to(detector.device)
        found = heatmaps(detector.model, detector.normalise(pixels), target)[0].cpu().numpy()
        side = geometry.seen(picture.shape[1], picture.shape[0]) * width / picture.shape[1]
        total += share * place_heatmap(np.nan_to_num(found), side, height, width)
    return encode_jpeg(overlay_heatmap(small, total))


def heatmaps(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, S, S) float32: the evidence for each image's target class, 1 where it is strongest; 0 where there is none.

    `images` are (B, 3, S, S) float32, normalised; `targets` (B,) int: 0 real, 1 fake. The model is in evaluation mode.
    By `grad_cam`, or by `input_gradient` for a backbone without feature maps.
    """
    targets = targets.to(images.device)
    maps = grad_cam(model, images, targets)
    if maps is None:
        maps = input_gradient(model, images, targets)
    maps = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest == 0, 0, maps / highest)


def grad_cam(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """(B, h, w) float32, >= 0, on the grid of the features. None where there are none. Arguments as `heatmaps`.

    From the last features that have a gradient: in a vision transformer that classifies by its class token, the other
    tokens of the last block have none.
    """
    modules, outputs = dict(model.named_modules()), dict[str, torch.Tensor]()
    known = [info for info in getattr(model, "feature_info", []) if info.get("module") in modules]
    with torch.enable_grad(), ExitStack() as hooks:
        for name in [info["module"] for info in known]:
            hooks.enter_context(modules[name].register_forward_hook(partial(_keep, outputs, name)))
        margin = _margin(model, images.detach().requires_grad_(), targets)
        for info in reversed(known):
            features = outputs.get(info["module"])
            if features is None or not features.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(
                margin, features, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            maps, slopes = (_channels_first(part.detach(), info["num_chs"], model) for part in (features, gradient))
            if maps is not None and slopes is not None and slopes.any():
                return (slopes.mean((2, 3), keepdim=True) * maps).sum(1).relu().float()
    return None


def input_gradient(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, h, w) float32, >= 0: how much each cell of an image matters, for or against (Simonyan et al. 2014).

    Arguments as `heatmaps`.
    """
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_margin(model, pixels, targets), pixels)
    return F.adaptive_avg_pool2d(gradient.abs().sum(1), SALIENCY_GRID).float()


def _margin(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The target's logit minus the other class's, summed over the images."""
    logits = model(images)
    return torch.where(targets == 1, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1]).sum()


def _keep(outputs: dict[str, torch.Tensor], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, tuple):  # timm's own rule: the features come first
        output = output[0]
    if isinstance(output, list):  # of several branches, the last is the coarsest
        output = output[-1]
    if isinstance(output, torch.Tensor):
        outputs[name] = output


def _channels_first(features: torch.Tensor, channels: int, model: nn.Module) -> torch.Tensor | None:
    """(B, C, h, w) from (B, C, h, w), (B, h, w, C) or (B, tokens, C); None for any other shape."""
    if features.ndim == 3:
        tokens = features.shape[1]
        for prefix in (getattr(model, "num_prefix_tokens", 0), 0):  # some models add the class token in a later block
            side = isqrt(max(0, tokens - prefix))
            if side and side**2 == tokens - prefix:
                return features[:, prefix:].reshape(len(features), side, side, -1).permute(0, 3, 1, 2)
    if features.ndim != 4:
        return None
    channels_last = features.shape[3] == channels != features.shape[1]
    return features.permute(0, 3, 1, 2) if channels_last else features


def shrink(picture: np.ndarray, longest: int) -> np.ndarray:
    """(height, width, 3) uint8 -> the same picture, its longest side at most `longest` pixels."""
    small = Image.fromarray(picture)
    small.thumbnail((longest, longest))
    return np.asarray(small)


def place_heatmap(heatmap: np.ndarray, side: float, height: int, width: int) -> np.ndarray:
    """(S, S) of a model's input -> (height, width) float32 of the whole picture, 0 where the model saw nothing.

    The model saw the square of `side` pixels around the picture's middle, which may be larger than the picture.
    """
    scale = side / len(heatmap)
    right, down = ((free - side + scale - 1) / 2 for free in (width, height))
    matrix = np.array([[scale, 0, right], [0, scale, down]])
    return np.asarray(cv2.warpAffine(heatmap.astype(np.float32), matrix, (width, height)))


def overlay_heatmap(picture: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) in [0, 1] -> the picture in grey, the heatmap over it in colour."""
    grey, heatmap = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], heatmap.clip(0, 1)
    colours = cv2.applyColorMap((heatmap * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = OPACITY * heatmap[..., None]
    return np.asarray((1 - opacity) * grey + opacity * colours).round().astype(np.uint8)


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(height, width, 3) uint8 RGB -> the bytes of a JPEG file."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return encoded.tobytes()

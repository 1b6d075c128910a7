"""model + images -> p_fake; weights file <-> model; out of memory -> smaller batches."""

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from rfray.data.batches import corrupted_batches, plain_batches
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.geometry import Geometry
from rfray.data.images import Images, PictureSource
from rfray.errors import RunError, first_line
from rfray.models.build import Normalisation, build_model
from rfray.spec.trial import Trial
from rfray.stats.predictions import Predictions
from rfray.store.files import write_whole
from rfray.store.sealed import SEAL, seal

WEIGHTS_METADATA = "rfray"
"""The key in a weights file under which its origin stands, as JSON."""
SLACK = 16_000_000
"""Bytes by which a file and its model may differ, besides a factor of two: names, and what is built only to be replaced
(our choice)."""


@dataclass(frozen=True)
class Predictor:
    """A model on `device` in evaluation mode, with its input and number format."""

    model: nn.Module
    normalise: Normalisation
    device: torch.device
    dtype: torch.dtype
    flip: bool = False
    """Whether a prediction is the mean over the image and its mirror image."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 -> p_fake, (B,) float64 on the device: the second softmax output."""
        return self.views(pixels).mean(0)

    def views(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1 or 2, B): p_fake of the images and, with `flip`, of their mirror images."""
        images = self.normalise(pixels.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = [self.model(view) for view in ([images, images.flip(3)] if self.flip else [images])]  # (B, 2) each
        return torch.softmax(torch.stack(logits).double(), dim=2)[..., 1]


def device_and_type(precision: str) -> tuple[torch.device, torch.dtype]:
    """The device of this process, and a trial's number format: `auto` is bf16 on a GPU that has it, else fp32."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = precision == "bf16" or (precision == "auto" and has_bf16)
    return device, torch.bfloat16 if half else torch.float32


@torch.inference_mode()
def views_of(
    predictor: Predictor, images: Images, batch_size: int, before_batch: Callable[[], None] = lambda: None
) -> np.ndarray:
    """(1 or 2, n) float64: see `Predictor.views`. Puts the model in evaluation mode.

    `before_batch` is called before each batch, and may raise. If memory runs out, it starts again with batches of half
    the size, down to one image; then that error is raised.
    """
    predictor.model.eval()
    while True:
        try:
            scores = [torch.empty(1 + predictor.flip, 0)]
            for pixels, _ in plain_batches(images, batch_size, pin=predictor.device.type == "cuda"):
                before_batch()
                scores.append(predictor.views(pixels).cpu())
            return torch.cat(scores, dim=1).numpy().astype(np.float64)
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        batch_size = batch_size // 2
        give_back()


def predict_from_file(weights: Path, trial: Trial, images: Images) -> Predictions:
    """Predictions with a finished trial's weights.

    Raises RunError where the file is damaged or does not fit, ValueError where an output is not finite.
    """
    views = views_of(load_predictor(weights, trial), images, 2 * trial.batch_size)
    return Predictions(images.ids, images.labels, views.mean(axis=0))


def load_predictor(weights: Path, trial: Trial) -> Predictor:
    """A finished trial's model, ready to predict. Raises RunError where the file is damaged or does not fit."""
    device, dtype = device_and_type(trial.precision)
    model, normalise = build_for(trial, weights)
    load_weights(weights, model)
    return Predictor(model.to(device).eval(), normalise, device, dtype, weights_metadata(weights).get("tta") == "flip")


def build_for(trial: Trial, *weights: Path) -> tuple[nn.Module, Normalisation]:
    """The trial's model, to be filled from files that somebody else may have written.

    Raises TrialError as soon as it takes far more memory than they: then they are not its weights.
    """
    size = sum(file.stat().st_size for file in weights if file.is_file())
    return build_model(trial, load_pretrained=False, most_bytes=2 * size + SLACK)


def predict_corrupted(
    predictors: Sequence[Predictor],
    geometries: Sequence[Geometry],
    source: PictureSource,
    rows: np.ndarray,
    threads: int,
) -> np.ndarray:
    """(T, K, n) float64: p_fake of the n pictures at `rows` under each of K corruptions by each of T predictors.

    Each picture is decoded and corrupted once for all predictors; `geometries` are theirs. `source` has the pictures at
    full resolution.
    """
    different = list(dict.fromkeys(geometries))
    pin = any(predictor.device.type == "cuda" for predictor in predictors)
    batches = corrupted_batches(source, rows, different, threads, pin)
    scores = [scores_of(predictors, geometries, dict(zip(different, batch, strict=True))) for batch in batches]
    p_fake = np.concatenate(scores, axis=1).reshape(len(predictors), len(rows), len(CORRUPTIONS))
    return p_fake.transpose(0, 2, 1)


@torch.inference_mode()
def scores_of(
    predictors: Sequence[Predictor], geometries: Sequence[Geometry], squares: Mapping[Geometry, torch.Tensor]
) -> np.ndarray:
    """(k, b) float64: p_fake of b images by k predictors, given as (b, 3, S, S) uint8 squares for each geometry.

    If memory runs out, they are predicted in halves. A model's output that is not a number is nan.
    """
    pairs = zip(predictors, geometries, strict=True)
    return torch.stack([_in_halves(predictor, squares[geometry]) for predictor, geometry in pairs]).cpu().numpy()


def _in_halves(predictor: Predictor, pixels: torch.Tensor) -> torch.Tensor:
    """p_fake by the predictor, (B,) float64; in halves where memory runs out, down to one image."""
    try:
        return predictor(pixels)
    except (RuntimeError, MemoryError) as error:
        if len(pixels) == 1 or not is_out_of_memory(error):
            raise
    give_back()
    return torch.cat([_in_halves(predictor, half) for half in pixels.chunk(2)])


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes the model's tensors, with `metadata` on their origin. Equal arguments make equal bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # under one key: safetensors writes several keys in a random order
    write_whole(path, seal(save(tensors, {WEIGHTS_METADATA: json.dumps({**metadata, **SEAL}, sort_keys=True)})))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fills `model` from a file that `save_weights` wrote. Raises RunError where that is not possible."""
    try:
        wanted, size = sum(tensor.nbytes for tensor in model.state_dict().values()), path.stat().st_size
        if size > 2 * wanted + SLACK:
            raise RunError(f"{path}: not the weights of this model: {size / 1e6:.0f} MB for {wanted / 1e6:.0f} MB")
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: not the weights of this model: {first_line(error)}") from error


def weights_metadata(path: Path) -> dict[str, str]:
    """The metadata given to `save_weights`; empty where there is no readable file."""
    try:
        with safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {})[WEIGHTS_METADATA])
            return {key: value for key, value in known.items() if key not in SEAL}
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU, or this machine, had no memory left."""
    said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


def give_back() -> None:
    """Returns memory that no object uses any more to the GPU and to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed blocks, and a reused worker would grow from trial to trial
        ctypes.CDLL(None).malloc_trim(0)

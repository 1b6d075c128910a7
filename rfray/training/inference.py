"""weights + images -> `Predictions`; and best.safetensors <-> model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from rfray.config import Trial
from rfray.data.batches import plain_batches
from rfray.data.pixels import Images
from rfray.errors import RunError
from rfray.evaluation.predictions import Predictions
from rfray.files import write_whole
from rfray.training.memory import give_back, is_out_of_memory
from rfray.training.model import Normalisation, build_model


def device_and_type(precision: str) -> tuple[torch.device, torch.dtype]:
    """Where this process computes, and in what: `auto` is bf16 on a GPU that has it, else fp32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = precision == "bf16" or (precision == "auto" and has_bf16)
    return device, torch.bfloat16 if half else torch.float32


@torch.inference_mode()
def predict(
    model: nn.Module,
    normalise: Normalisation,
    images: Images,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Predictions:
    """p_fake of every image: the second softmax output of a model that is on `device`, in evaluation mode.

    Where memory runs out, the batch is halved, down to one image; then that error is raised.
    Raises ValueError where an output is not finite.
    """
    model.eval()
    while True:
        try:
            return Predictions(images.ids, images.labels, _scores(model, normalise, images, batch_size, device, dtype))
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        batch_size = batch_size // 2
        give_back()


def _scores(
    model: nn.Module,
    normalise: Normalisation,
    images: Images,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> np.ndarray:
    """p_fake, (n,) float64."""
    scores = [torch.empty(0)]
    for pixels, _ in plain_batches(images, batch_size, pin=device.type == "cuda"):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(normalise(pixels.to(device, non_blocking=True)))  # (B, 2)
        scores.append(torch.softmax(logits.double(), dim=1)[:, 1])
    return torch.cat([score.cpu() for score in scores]).numpy().astype(np.float64)


def predict_from_file(weights: Path, trial: Trial, images: Images) -> Predictions:
    """Predictions of a finished trial's weights. Raises RunError where the file is damaged or does not fit."""
    device, dtype = device_and_type(trial.precision)
    model, normalise = build_model(trial, load_pretrained=False)
    load_weights(weights, model)
    return predict(model.to(device), normalise, images, 2 * trial.batch_size, device, dtype)


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes the model's tensors; `metadata` says which epoch they are from."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(tensors, dict(metadata)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fills `model` from a file that `save_weights` wrote. Raises RunError where that is not possible."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: not the weights of this model: {str(error).splitlines()[0]}") from error


def weights_metadata(path: Path) -> dict[str, str]:
    """The metadata given to `save_weights`; nothing where there is no readable file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}

"""a trial -> what training it takes here: memory, images a second, and how many images fit at once.

It is trained for two short epochs, just as any trial is, on noise.
"""

import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rfray.data.geometry import Geometry
from rfray.data.images import Images
from rfray.models.inference import device_and_type
from rfray.spec.trial import Trial
from rfray.store.run_dir import TrialDir
from rfray.training.loop import Epoch, Hooks, TrialData, train

STEPS_ON_GPU = 10
"""In each epoch; on a CPU it is one."""


@dataclass(frozen=True)
class Footprint:
    """What one process took to train. See Measured."""

    device: str
    device_memory: int
    memory: int
    host_memory: int
    micro_batch: int
    images_per_second: float


@dataclass(frozen=True)
class _Noise:
    """A source that has one picture, (side, side, 3) uint8."""

    pixels: np.ndarray

    def picture(self, row: int) -> np.ndarray:
        return self.pixels


def footprint(trial: Trial, threads: int, micro_batch: int | None) -> Footprint:
    """Trains the trial's backbone in its batches; call it in a process that has done nothing else yet.

    `micro_batch` is how many images to compute at once, if not a whole batch; it is halved where memory runs out.
    Raises TrialError where not even one image fits.
    """
    device, _ = device_and_type(trial.precision)
    on_gpu = device.type == "cuda"
    count = trial.batch_size * (STEPS_ON_GPU if on_gpu else 1)
    epochs: list[Epoch] = []
    sizes = [min(micro_batch or trial.batch_size, trial.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        data = TrialData(_noise(trial, count), _noise(trial, 2), {})
        simple = {"epochs": 2, "epoch_images": 0, "augmentation": "none", "pretrained": False, "patience": 0}
        short = trial.model_copy(update=simple)
        train(short, data, TrialDir(Path(folder)), "accuracy", threads, Hooks(epochs.append, sizes.append), micro_batch)
    return Footprint(
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        device_memory=torch.cuda.mem_get_info(device)[1] if on_gpu else 0,
        memory=_gpu_memory(device) if on_gpu else 0,
        host_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        micro_batch=sizes[-1],
        images_per_second=epochs[-1].images_per_second,
    )


def _noise(trial: Trial, count: int) -> Images:
    side = trial.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    numbers = np.arange(count)
    ids = numbers.astype(np.str_)
    return Images(_Noise(pixels), Geometry("scale", side, None), numbers, (numbers % 2).astype(np.int8), ids)


def _gpu_memory(device: torch.device) -> int:
    """Bytes: torch's own peak, and what the process takes of the GPU besides, which CUDA needs for itself."""
    free, total = torch.cuda.mem_get_info(device)
    besides = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + max(0, besides)

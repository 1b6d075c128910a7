"""a trial -> `Measured`: the memory that its training takes on this machine, and its speed.

It trains for two short epochs, as any trial does, on images of noise.
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
from rfray.store.records import Measured
from rfray.store.run_dir import TrialDir
from rfray.training.learner import Epoch, Hooks, TrialData
from rfray.training.loop import train

STEPS_ON_GPU = 10
"""Steps in each epoch on a GPU, where the first ones are slower; on a CPU it is one."""


@dataclass(frozen=True)
class _Noise:
    """A source with one picture, (side, side, 3) uint8."""

    pixels: np.ndarray

    def picture(self, row: int) -> np.ndarray:
        return self.pixels


def footprint(trial: Trial, threads: int, micro_batch: int | None) -> Measured:
    """Trains the trial's backbone with the trial's batches, in a process that has done nothing else yet.

    `micro_batch` is the number of images to compute at once, by default a whole batch; it is halved until it fits into
    memory. Raises TrialError where not even one image fits.
    """
    device, _ = device_and_type(trial.precision)
    on_gpu = device.type == "cuda"
    epochs: list[Epoch] = []
    sizes = [min(micro_batch or trial.batch_size, trial.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        data = TrialData(_noise(trial, trial.batch_size * (STEPS_ON_GPU if on_gpu else 1)), _noise(trial, 2), {})
        simple = {"epochs": 2, "epoch_images": 0, "augmentation": "none", "pretrained": False, "patience": 0}
        short, hooks = trial.model_copy(update=simple), Hooks(epochs.append, sizes.append)
        train(short, data, TrialDir(Path(folder)), "accuracy", threads, hooks, micro_batch)
    return Measured(
        setting=trial.digest,
        backbone=trial.backbone,
        image_size=trial.image_size,
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        device_memory=torch.cuda.mem_get_info(device)[1] if on_gpu else 0,
        memory=_gpu_memory(device) if on_gpu else 0,
        host_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        micro_batch=sizes[-1],
        images_per_second=epochs[-1].images_per_second,
    )


def _noise(trial: Trial, count: int) -> Images:
    side, numbers = trial.image_size, np.arange(count)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    geometry, labels = Geometry("scale", side, None), (numbers % 2).astype(np.int8)
    return Images(_Noise(pixels), geometry, numbers, labels, numbers.astype(np.str_))


def _gpu_memory(device: torch.device) -> int:
    """Bytes: torch's own peak, and what CUDA needs for the process besides."""
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) + max(0, total - free - torch.cuda.memory_reserved(device))

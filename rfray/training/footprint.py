"""a trial -> `Measured`: the memory that its training takes on this machine, and its speed.

It trains for two short epochs, as any trial does, on images of noise.
"""

import resource
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    name, device_memory, memory = "cpu", 0, 0
    if on_gpu:
        name, (free, device_memory) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
        # torch's own peak, and what CUDA needs for the process besides
        besides = device_memory - free - torch.cuda.memory_reserved(device)
        memory = torch.cuda.max_memory_reserved(device) + max(0, besides)
    return Measured(
        setting=trial.digest,
        backbone=trial.backbone,
        image_size=trial.image_size,
        device=name,
        device_memory=device_memory,
        memory=memory,
        host_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        micro_batch=sizes[-1],
        images_per_second=epochs[-1].images_per_second,
    )


def _noise(trial: Trial, count: int) -> Images:
    """So many images, all of the same noise."""
    side, numbers = trial.image_size, np.arange(count)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    source: Any = SimpleNamespace(picture=lambda row: pixels)
    geometry, labels = Geometry("scale", side, None), (numbers % 2).astype(np.int8)
    return Images(source, geometry, numbers, labels, numbers.astype(np.str_))

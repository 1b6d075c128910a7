"""A folder of images -> the speed of rfray's training against the same training fed from memory. Needs no Ray."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from benchmarks.figures import Figure, alternate
from benchmarks.pictures import write_pictures
from rfray.spec.sweep import CacheSettings, DataSettings
from rfray.spec.trial import Trial
from rfray.store.run_dir import TrialDir

if TYPE_CHECKING:
    from rfray.data.batches import Batch
    from rfray.data.images import Images
    from rfray.training.learner import Epoch, TrialData

# torch and timm are imported inside the functions: a list of the benchmarks needs neither.

ON_GPU = [
    Trial(backbone=name, pretrained=False, image_size=224, batch_size=64, epochs=2, precision="bf16")
    for name in ("resnet50", "mobilenetv3_large_100")
]
ON_CPU = [Trial(backbone="lcnet_050", pretrained=False, image_size=96, batch_size=32, epochs=2)]
"""The first epoch warms up, the second one counts."""


def throughput(folder: Path, rounds: int = 3, images: int | None = None) -> list[Figure]:
    """Time for one epoch of `images` (by default 8,192 on a GPU, 800 on a CPU), augmentation included."""
    import torch

    gpu = torch.cuda.is_available()
    pictures = write_pictures(folder / "pictures", images or (8192 if gpu else 800))
    outs = (TrialDir(folder / "trials" / f"{number}") for number in count())
    figures = []
    for trial in ON_GPU if gpu else ON_CPU:
        data = _data(pictures, folder / "cache", trial.image_size)
        name = f"{trial.backbone} at {trial.image_size} px, {trial.augmentation}"
        if gpu:
            figures.append(_figure(f"{name}, bf16", trial, data, outs, os.cpu_count() or 1, rounds, 0.85))
            continue
        figures.append(_figure(f"{name}, batches on a free core", trial, data, outs, 1, rounds, 0.92))
        if hasattr(os, "sched_setaffinity"):
            figures.append(_figure(f"{name}, all on one core", trial, data, outs, 1, rounds, None, _on_one_core()))
    return figures


def _figure(
    name: str,
    trial: Trial,
    data: "TrialData",
    outs: Iterator[TrialDir],
    threads: int,
    rounds: int,
    least_ratio: float | None,
    place: AbstractContextManager[None] | None = None,
) -> Figure:
    from rfray.training import step

    def real() -> float:
        return _epoch_seconds(trial, data, next(outs), threads)

    def from_memory() -> float:
        with mock.patch.object(step, "train_batches", _batches_in_memory):
            return real()

    with place or nullcontext():
        seconds, reference_seconds = alternate(real, from_memory, rounds)
    fastest = len(data.train) / np.median(seconds)
    return Figure(
        f"training, {name}",
        "the same from random tensors",
        seconds,
        reference_seconds,
        least_ratio,
        note=f"{fastest:.0f} images/s",
    )


def _data(pictures: Path, cache: Path, side: int) -> "TrialData":
    from rfray.data.catalog import divide, load_images, scan_folder
    from rfray.data.geometry import Geometry
    from rfray.training.learner import TrialData

    settings = DataSettings(
        train=str(pictures),
        test=f"{pictures}-test",
        val=0.1,
        cache=CacheSettings(dir=str(cache)),
        split_by="image",
    )
    geometry = Geometry("scale", side, None)
    images = scan_folder(settings, "train", [geometry]).images
    catalog = divide(images, settings, seed=0, pairs=np.empty((0, 2), int))
    train, val = (load_images(catalog, settings, part, geometry) for part in ("train", "val"))
    return TrialData(train, val, augmentations={})


def _epoch_seconds(trial: Trial, data: "TrialData", out: TrialDir, threads: int) -> float:
    """Seconds of the last epoch, without judging and writing."""
    from rfray.training.learner import Hooks
    from rfray.training.loop import train

    epochs: list[Epoch] = []
    train(trial, data, out, "auc", threads, Hooks(epochs.append))
    return len(data.train) / epochs[-1].images_per_second


def _batches_in_memory(images: "Images", order: np.ndarray, batch_size: int, *_: Any) -> "Iterator[Batch]":
    """Stands in for `train_batches`: as many batches, of random images that lie where the model is."""
    import torch

    from rfray.models.inference import device_and_type

    device, _ = device_and_type("auto")
    side = images.geometry.side
    pixels = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    labels = torch.arange(batch_size, device=device) % 2
    for _ in range(max(1, len(order) // batch_size)):
        yield pixels, labels


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keeps this thread, and those it starts, on one core, as in a sweep with a trial on every core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)

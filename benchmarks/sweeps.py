"""A folder of images -> the same sweep by `rfray tune` and by a plain Ray Tune script, each a command from cold."""

import os
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, alternate, timed
from benchmarks.pictures import write_pictures
from rfray.store.run_dir import RunDir

ROOT = Path(__file__).parent.parent
BACKBONES = ("lcnet_050", "test_resnet", "mobilenetv3_small_050")
SIDE = 96
BATCH_SIZE = 32
SELECT_FRACTION = 0.2
AT_ONCE = 2
PLAIN_WORKERS = 0
"""Processes of each DataLoader of the plain script. The guide has 8 and 2; on two cores, which trials fill, none."""

SWEEP = """
name: benchmark
data: {{train: {pictures}, test: {pictures}-test, val: {val}}}
trial:
  backbone: [{backbones}]
  pretrained: false
  augmentation: flip
  image_size: {side}
  lr: [{lrs}]
  epochs: {epochs}
  batch_size: {batch_size}
  schedule: constant
  warmup: 0.0
  clip_grad: 0.0
augmentations: {{flip: [{{HorizontalFlip: {{p: 0.5}}}}]}}
search: {{algorithm: grid, concurrent: {at_once}}}
resources: {{cpu: 1, gpu: 0}}
"""


def large(
    folder: Path, rounds: int = 3, trials: int = 3, images: int = 600, epochs: int = 2, workers: int = PLAIN_WORKERS
) -> list[Figure]:
    """A sweep in which most of the time goes into training."""
    return [_sweep(folder, rounds, trials, images, epochs, workers, least_ratio=1.6)]


def many(
    folder: Path, rounds: int = 3, trials: int = 6, images: int = 200, epochs: int = 1, workers: int = PLAIN_WORKERS
) -> list[Figure]:
    """A sweep of many short trials, in which most of the time goes into everything else."""
    return [_sweep(folder, rounds, trials, images, epochs, workers, least_ratio=4.0)]


def tune_command(sweep: Path, run: Path) -> list[str]:
    """`rfray tune` by this interpreter; its audit may find what it likes in images that are made by a script."""
    return [sys.executable, "-m", "rfray.cli", "tune", str(sweep), "--run", str(run), "--accept-audit"]


def run_command(command: list[str], cache: Path, log: Path) -> None:
    """Runs a command with `cache` for decoded images; `log` takes what it prints. Raises where it fails."""
    environment = {**os.environ, "RFRAY_CACHE": str(cache)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with log.open("w") as file:
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {ended.returncode}:\n{log.read_text()[-3000:]}")


def _sweep(
    folder: Path, rounds: int, trials: int, images: int, epochs: int, workers: int, least_ratio: float
) -> Figure:
    pictures = write_pictures(folder / "pictures", images)
    lrs = [f"{lr:.6f}" for lr in np.geomspace(3e-4, 3e-3, trials // len(BACKBONES))]
    shared = {"epochs": epochs, "side": SIDE, "batch_size": BATCH_SIZE, "val": SELECT_FRACTION}
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        SWEEP.format(pictures=pictures, backbones=", ".join(BACKBONES), lrs=", ".join(lrs), at_once=AT_ONCE, **shared)
    )
    options = {**shared, "workers": workers, "at_once": AT_ONCE}
    plain = [sys.executable, "-m", "benchmarks.plain_ray_tune", str(pictures)]
    plain_options = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    places = (folder / f"{number}" for number in count())

    def by_rfray() -> float:
        place = next(places)
        place.mkdir()
        seconds = timed(lambda: run_command(tune_command(sweep, place / "run"), place / "cache", place / "log.txt"))
        done = [out for out in RunDir(place / "run").trials() if out.result() is not None]
        assert len(done) == len(lrs) * len(BACKBONES), f"{len(done)} trials in {place}"
        return seconds

    def by_plain_script() -> float:
        place = next(places)
        place.mkdir()
        command = [*plain, str(place), "--backbones", *BACKBONES, "--lrs", *lrs, *plain_options]
        return timed(lambda: run_command(command, place / "cache", place / "log.txt"))

    warm_up(folder)
    return Figure(
        f"sweep of {len(lrs) * len(BACKBONES)} trials, epochs {epochs}, {images} JPEGs of 256 px",
        "plain Ray Tune script" + (f" with {workers} workers a loader" if workers else ""),
        *alternate(by_rfray, by_plain_script, rounds),
        least_ratio=least_ratio,
    )


def warm_up(folder: Path) -> None:
    """Has the system read the libraries of both sides, so that nobody's first start pays for the disk."""
    libraries = "albumentations, ray.tune, sklearn.metrics, timm, torchvision"
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        run_command([sys.executable, "-c", f"import {libraries}"], Path(cache), folder / "warm-up.txt")

"""A small sweep -> what a trial takes under `rfray tune` against the same training called directly; and --help."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, alternate, timed
from benchmarks.pictures import write_pictures
from benchmarks.sweeps import run_command, tune_command
from rfray.data.catalog import load_images
from rfray.data.geometry import geometry_of
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, TrialDir

SWEEP = """
name: benchmark
data: {{train: {pictures}, test: {pictures}-test, cache: {{dir: {cache}}}}}
trial:
  backbone: lcnet_050
  pretrained: false
  image_size: 96
  lr: {{log: [3e-4, 3e-3]}}
  epochs: {epochs}
  batch_size: 32
search: {{trials: {trials}, concurrent: 1}}
resources: {{cpu: 1, gpu: 0}}
"""


@dataclass(frozen=True)
class Times:
    """Seconds of one sweep, one trial after the other in one worker."""

    before: float
    """From the command to the first trial's proposal."""
    trials: list[float]
    """Of each trial, from its proposal or the end of the one before to its own result."""
    beyond: list[float]
    """The part of it outside the trial's epochs."""


def overhead(folder: Path, rounds: int = 3, trials: int = 3, images: int = 600, epochs: int = 1) -> list[Figure]:
    """What comes on top of training in the first trial of a worker, in the later ones, and before them."""
    pictures = write_pictures(folder / "pictures", images)
    sweep = folder / "sweep.yaml"
    sweep.write_text(SWEEP.format(pictures=pictures, cache=folder / "cache", epochs=epochs, trials=trials))
    sweeps: list[Times] = []
    plain: list[float] = []
    for number in range(rounds):
        run = RunDir(folder / f"run-{number}")
        sweeps.append(_sweep(run, sweep, folder))
        if not plain:
            _plain_training(run, folder / "warm-up")  # torch's first steps are slow
        plain.append(_plain_training(run, folder / f"plain-{number}"))
        print(f"  trials {[round(one, 2) for one in sweeps[-1].trials]}, plain {plain[-1]:.2f} s", flush=True)

    def figure(what: str, took: Callable[[Times], float], beyond: Callable[[Times], float]) -> Figure:
        extra = median(beyond(one) for one in sweeps)
        note = f"{extra:.2f} s besides its epochs: {extra / median(plain):.0%} of the plain training"
        return Figure(what, "the same training, called directly", [took(one) for one in sweeps], plain, note=note)

    return [
        figure("a worker's first trial", lambda one: one.trials[0], lambda one: one.beyond[0]),
        figure("its later trials", lambda one: median(one.trials[1:]), lambda one: median(one.beyond[1:])),
        Figure("rfray tune before its first trial", "one plain training", [one.before for one in sweeps], plain),
        Figure("rfray --help", "python -c pass", *alternate(_help, _nothing, max(5, rounds))),
    ]


def _sweep(run: RunDir, sweep: Path, folder: Path) -> Times:
    began = time.time()
    run_command(tune_command(sweep, run.path), folder / "cache", folder / "log.txt")
    first = run.trials()[0].start_file.stat().st_mtime
    ended = sorted((out.result_file.stat().st_mtime, result.seconds) for out, result in _ended(run))
    took = [end - start for start, (end, _) in zip([first, *(end for end, _ in ended)], ended, strict=False)]
    return Times(first - began, took, [whole - epochs for whole, (_, epochs) in zip(took, ended, strict=True)])


def _ended(run: RunDir) -> list[tuple[TrialDir, TrialResult]]:
    return [(out, result) for out in run.trials() if (result := out.result()) is not None]


def _plain_training(run: RunDir, out: Path) -> float:
    """Seconds of the run's first trial, trained in this process from the same decoded images."""
    from rfray.training.learner import Hooks, TrialData
    from rfray.training.loop import train

    sweep, catalog = run.sweep(), run.catalog()
    trial = run.trials()[0].start().trial
    learned, val = (
        load_images(catalog, sweep.data, part, geometry_of(trial, sweep.data.reencode)) for part in ("train", "val")
    )
    data = TrialData(learned, val, sweep.augmentations)
    return timed(lambda: train(trial, data, TrialDir(out), sweep.search.metric, 1, Hooks(lambda epoch: None)))


def _help() -> float:
    return timed(lambda: _quietly("-m", "rfray.cli", "--help"))


def _nothing() -> float:
    return timed(lambda: _quietly("-c", "pass"))


def _quietly(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

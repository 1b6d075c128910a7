"""A trial, its slot and the run folder -> its training in this process, alone or as one of several workers."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfray.cluster.slots import Slot, TrialSlots
from rfray.errors import TrialError
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.records import Fold, write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir, probe_id
from rfray.store.storage import STATES

if TYPE_CHECKING:
    from rfray.training.learner import Epoch, TrialData

# What is heavy (torch, timm, albumentations: 9 s) is imported inside the functions, see trainable.py


@dataclass(frozen=True)
class SweepJob:
    """What every trial of a sweep needs to know besides its setting."""

    run: Path | str
    """Path or address of the run folder."""
    session: str
    """Changes with every start of the sweep."""
    shares: TrialSlots
    """What each trial gets."""
    deadline: float | None = None
    """Where a budget by the clock ends, in seconds since 1970: the nodes' clocks are taken to agree."""
    watches_budget: bool = False
    """Whether the run folder will hold a mark once a budget of GPUs is used up."""


@dataclass(frozen=True)
class TrialJob:
    """What every process that trains a trial needs to know."""

    sweep: SweepJob
    id: str
    trial: Trial
    slot: Slot
    token: str
    """Marks the last start of the trial: only who has it may write to the trial's folder."""

    @property
    def out(self) -> TrialDir:
        """The trial's folder."""
        return RunDir(self.sweep.run).trial(self.id)


class SupersededError(Exception):
    """Another process has taken this trial over, so this one must not write any more."""


class WorkerLostError(Exception):
    """The process of one of a trial's workers has died; with others the trial continues from its last epoch."""


def trial_of(config: dict[str, Any]) -> Trial:
    """The setting in what Ray Tune calls a trial's config."""
    return Trial(**{name: value for name, value in config.items() if name != "id"})


def train_trial(
    job: TrialJob,
    on_epoch: Callable[["Epoch"], None],
    warn: Callable[[str], None],
    wait_for_others: Callable[[], None] = lambda: None,
) -> None:
    """Trains in this process, alone or as one of several workers.

    Args:
        job: The trial.
        on_epoch: Called after each epoch, by the first worker alone; may raise to end the trial.
        warn: Called with sentences that the user should read.
        wait_for_others: Called when the images are there, and returns when they are for all workers.

    Raises TrialError, SupersededError, DiskFullError, and of several workers GroupMemoryError and GroupStoppedError.

    """
    from rfray.training.distributed import this_group
    from rfray.training.learner import Hooks
    from rfray.training.loop import train

    out = job.out
    sweep, data, warnings = trial_data(job.sweep.run, job.trial, out.start().fold)
    for sentence in warnings:
        warn(sentence)
    wait_for_others()

    def report(epoch: "Epoch") -> None:
        out.mirror.push(removing=STATES)
        on_epoch(epoch)

    save, check = partial(_save_micro_batch, out), partial(_check_token, out, job.token)
    hooks = Hooks(report, save, warn, check, time_left(job.sweep))
    micro_batch = out.start().micro_batch or job.slot.micro_batch
    train(job.trial, data, out, sweep.search.metric, job.slot.threads, hooks, micro_batch, this_group())


def time_left(job: SweepJob) -> Callable[[], float] | None:
    """A function that returns the seconds which the budget leaves; None where there is none.

    It is cheap enough to be called between two batches. Of GPUs nobody knows that here: until they are used up, it
    returns infinity.
    """
    if job.deadline is not None:
        deadline = job.deadline
        return lambda: deadline - time.time()
    if not job.watches_budget:
        return None
    run = RunDir(job.run)
    asked, answer = 0.0, inf

    def left() -> float:
        nonlocal asked, answer
        if answer and time.monotonic() - asked >= 1:  # the folder may be far away
            run.mirror.fetch(run.budget_over_file)
            asked, answer = time.monotonic(), 0.0 if run.budget_over_file.exists() else inf
        return answer

    return left


def _save_micro_batch(out: TrialDir, micro_batch: int) -> None:
    """Notes for later starts of the trial how many images fit into memory at once."""
    write_record(out.start_file, out.start().model_copy(update={"micro_batch": micro_batch}), out.mirror)


def _check_token(out: TrialDir, token: str) -> None:
    if out.starts()[-1].token != token:
        raise SupersededError(f"{out.id} was started again elsewhere")


def trial_data(where: Path | str, trial: Trial, fold: Fold | None) -> tuple[Sweep, "TrialData", list[str]]:
    """What a trial learns from and begins with, judged on a fold or else val, and what the user should know of it.

    Raises TrialError where it is to begin with a probe that there is not.
    """
    sweep, data, warnings = sweep_images(where, trial.resize, trial.image_size, fold)
    if trial.head == "random":
        return sweep, data, warnings
    probe = RunDir(where).trial(probe_id(sweep.probe(trial)))
    probe.mirror.pull("result.json", WEIGHTS_FILE)
    result = probe.result()
    if result is None or result.status == "failed":
        why = "was not made" if result is None else f"failed: {result.reason}"
        raise TrialError(f"head: probe, but the probe of {trial.backbone} at {trial.image_size} px {why}")
    weights = probe.weights_file
    if fold is not None:
        weights = probe.fold_weights_file(fold)
        probe.mirror.fetch(weights)
        if not weights.exists():
            raise TrialError(f"head: probe, but no head of {trial.backbone} could be learned without fold {fold[0]}")
    return sweep, replace(data, probe=weights), warnings


@lru_cache(maxsize=4)
def sweep_images(
    run: Path | str, resize: str, side: int, fold: Fold | None = None
) -> tuple[Sweep, "TrialData", list[str]]:
    """The sweep, its images, and warnings.

    Kept for the trials that this process has still to run; the pixels themselves are memory-mapped.
    """
    from rfray.data.catalog import load_images
    from rfray.data.geometry import Geometry
    from rfray.data.images import ImageFiles
    from rfray.data.pixel_cache import no_room_in_cache
    from rfray.data.splits import fold_of
    from rfray.training.learner import TrialData

    folder = RunDir(run)
    folder.mirror.pull("sweep.yaml", "catalog.parquet")
    sweep, catalog = folder.sweep(), folder.catalog()
    if fold is not None:
        catalog = fold_of(catalog, fold, sweep.seed)
    geometry = Geometry(resize, side, sweep.data.reencode)
    train, val = (load_images(catalog, sweep.data, part, geometry) for part in ("train", "val"))
    uncached = any(isinstance(part.source, ImageFiles) for part in (train, val))
    warnings = [f"{socket.gethostname()}: {no_room_in_cache(sweep.data.cache)}"] if uncached else []
    return sweep, TrialData(train, val, sweep.augmentations), warnings

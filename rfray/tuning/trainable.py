"""One setting from Ray Tune -> one trained trial in the run folder: what runs in a trial's processes."""

import os
import socket
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import takewhile
from math import inf, isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rfray.cluster.slots import Slot, TrialSlots
from rfray.errors import DiskFullError, LeaseLostError, TrialError, printable
from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.files import file_digest, is_disk_full, no_room, write_whole
from rfray.store.ownership import work_for
from rfray.store.records import Fold, Start, TrialStart, write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir, probe_id
from rfray.store.storage import STATES

if TYPE_CHECKING:
    from rfray.training.learner import Epoch, TrialData

# What is heavy (torch, timm, albumentations: 9 s) is imported inside the functions. A process counts as started once
# this module is imported, and until then Ray Tune gives its trial to whichever process gets free before.

ATTEMPTS = 2
"""A failing trial is tried this often in all, then recorded with its reason: a reader that stumbled once may go on."""
DEATHS = 4
"""A trial whose process dies this often in one epoch, with nobody restarting the sweep, is recorded as failed: a node
may be lost more than once, but a trial that needs more memory than there is dies each time."""


@dataclass(frozen=True)
class SweepJob:
    """What every trial of a sweep needs to know besides its setting."""

    run: Path | str
    """Path or address of the run folder."""
    session: str
    """Changes with every start of the sweep."""
    holder: str
    """Of a run at an address: what the command holds it by."""
    shares: TrialSlots
    """What each trial gets."""
    deadline: float | None = None
    """Where a budget by the clock ends, in seconds since 1970: the nodes' clocks are taken to agree. For one of GPUs
    inf: the run folder will hold a mark once it is used up."""


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


ENDS_HERE = (DiskFullError, LeaseLostError, SupersededError, WorkerLostError)
"""Errors after which this process does not try again."""


def trial_of(config: dict[str, Any]) -> Trial:
    """The setting in what Ray Tune calls a trial's config."""
    return Trial(**{name: value for name, value in config.items() if name != "id"})


def run_trial(config: dict[str, Any], job: SweepJob) -> None:
    """Trains the trial `config` (id and fields of `Trial`) and reports every epoch to Ray Tune.

    A trial that fails twice leaves error.txt (first line: the reason) in its folder and returns as if it had ended:
    for Ray, only a process that dies is a failure, and Ray starts that one again.
    Raises DiskFullError, LeaseLostError, and WorkerLostError where the process of one of its workers died.
    """
    run = RunDir(job.run)
    work_for(run, job.holder)
    out = run.trial(tune.get_context().get_trial_name())
    trial, token = trial_of(config), uuid.uuid4().hex[:12]
    try:
        out.mirror.pull(removing=STATES)  # another node may have had the trial before
        out.mirror.remove([out.error_file])
        states, starts = out.state_files(), out.starts()
        here = (job.session, str(int(states[0].stem.split("-")[1]) if states else 0))  # and how many epochs are done
        deaths = len(list(takewhile(lambda start: start[:2] == here, reversed(starts))))
        out.write_starts([*starts, Start(*here, socket.gethostname(), str(os.getpid()), token)])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if deaths >= DEATHS:
                    raise TrialError(f"its process died {deaths} times in one epoch (out of memory? see dmesg)")
                _train(TrialJob(job, out.id, trial, job.shares.of(trial), token))
                return
            except Exception as error:
                if isinstance(error, ENDS_HERE) or is_disk_full(error) or not _is_mine(out, token):
                    raise
                if attempt == ATTEMPTS:
                    reason = (str(error).splitlines() or [""])[0]
                    write_whole(out.error_file, f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}")
                    out.mirror.push(removing=STATES)
    except OSError as error:
        if is_disk_full(error):
            raise no_room(out.path, 0) from error
        raise


def _is_mine(out: TrialDir, token: str) -> bool:
    """Whether no other process has the trial now, and its folder is there."""
    return [start.token for start in out.starts()[-1:]] == [token]


def _train(job: TrialJob) -> None:
    if job.slot.workers > 1:
        from rfray.tuning.ddp_trainable import train_ddp

        try:
            train_ddp(job, _report)
        except Exception:
            job.out.mirror.pull(removing=STATES)  # what the first worker has written, on another node maybe
            raise
        return
    warnings: list[str] = []

    def on_epoch(epoch: "Epoch") -> None:
        _report(asdict(epoch), warnings)
        warnings.clear()

    train_trial(job, on_epoch, warnings.append)


def _report(epoch: dict[str, Any], warnings: list[str]) -> None:
    """Reports an epoch (the fields of an Epoch), and what the user should know, to Ray Tune."""
    names = ("best_score", "best_epoch", "train_loss", "lr", "images_per_second", "seconds")
    score = epoch["score"] if epoch["score"] is not None else 0.0  # for the scheduler, undefined is worst
    fixed = {EPOCH: epoch["epoch"], SCORE: score, WARNINGS: "\n".join(map(printable, warnings))}
    tune.report(fixed | {name: epoch[name] for name in names})


def train_trial(
    job: TrialJob,
    on_epoch: Callable[["Epoch"], None],
    warn: Callable[[str], None],
    wait_for_others: Callable[[], None] = lambda: None,
) -> None:
    """Trains in this process, alone or as one of several workers.

    `on_epoch` is called after each epoch, by the first worker alone, and may raise to end the trial; `warn` with
    sentences that the user should read; `wait_for_others` when the images are there: it returns when all have them.
    Raises TrialError, SupersededError, DiskFullError, and of several workers GroupMemoryError and GroupStoppedError.
    """
    from rfray.training.distributed import this_group
    from rfray.training.learner import Hooks
    from rfray.training.loop import train

    out, trial = job.out, job.trial
    start = out.start()
    sweep, data, warnings = sweep_images(job.sweep.run, trial.resize, trial.image_size, start.fold)
    if trial.head == "probe":
        data = replace(data, probe=_probe_weights(RunDir(job.sweep.run), probe_id(sweep.probe(trial)), start))
    for sentence in warnings:
        warn(sentence)
    wait_for_others()

    def report(epoch: "Epoch") -> None:
        out.mirror.push(removing=STATES)
        on_epoch(epoch)

    def save_micro_batch(size: int) -> None:
        write_record(out.start_file, out.start().model_copy(update={"micro_batch": size}), out.mirror)

    def check_token() -> None:
        if not _is_mine(out, job.token):
            raise SupersededError(f"{out.id} was started again elsewhere, or its folder was removed")

    hooks = Hooks(report, save_micro_batch, warn, check_token, _time_left(job.sweep))
    micro_batch = start.micro_batch or job.slot.micro_batch
    threads, group = job.slot.threads, this_group()
    train(trial, data, out, sweep.search.metric, threads, hooks, micro_batch, group, start.keep_epoch)


def _time_left(job: SweepJob) -> Callable[[], float] | None:
    """A function, cheap enough to be called between two batches: how many seconds the budget leaves, if there is one.

    For one of GPUs that is infinity until they are used up, as nobody knows it here.
    """
    if job.deadline is None:
        return None
    end, asked, run = job.deadline, 0.0, RunDir(job.run)

    def left() -> float:
        nonlocal end, asked
        if isinf(end) and time.monotonic() - asked >= 1:  # the folder may be far away
            run.mirror.fetch(run.budget_over_file)
            asked, end = time.monotonic(), 0.0 if run.budget_over_file.exists() else inf
        return end - time.time()

    return left


def _probe_weights(run: RunDir, name: str, start: TrialStart) -> Path:
    """The file of the probe that a trial begins with, judged on a fold or else val. Raises TrialError without it."""
    probe, trial, fold = run.trial(name), start.trial, start.fold
    probe.mirror.pull("result.json", WEIGHTS_FILE)
    result = probe.result()
    if result is None or result.status == "failed":
        why = "was not made" if result is None else f"failed: {result.reason}"
        raise TrialError(f"head: probe, but the probe of {trial.backbone} at {trial.image_size} px {why}")
    if fold is None:
        return probe.weights_file
    weights = probe.fold_weights_file(fold)
    probe.mirror.fetch(weights)
    if not weights.exists() or run.not_vouched(weights):
        why = "is damaged: start anew, and it is learned again" if weights.exists() else "could not be learned"
        raise TrialError(f"head: probe, but the head of {trial.backbone} without fold {fold[0]} {why}")
    return weights


def sweep_images(
    run: Path | str, resize: str, side: int, fold: Fold | None = None
) -> tuple[Sweep, "TrialData", list[str]]:
    """The sweep, its images, and warnings.

    Kept for the trials that this process has still to run; the pixels themselves are memory-mapped.
    """
    folder = RunDir(run)
    folder.mirror.pull("sweep.yaml", "catalog.parquet")
    return _loaded(run, resize, side, fold, file_digest(folder.sweep_file), file_digest(folder.catalog_file))


@lru_cache(maxsize=4)
def _loaded(
    run: Path | str, resize: str, side: int, fold: Fold | None, *made_of: str
) -> tuple[Sweep, "TrialData", list[str]]:
    """`made_of`: the digests of the two files; the Ray of a notebook has its processes for more than one sweep."""
    from rfray.data.catalog import load_images
    from rfray.data.geometry import Geometry
    from rfray.data.images import ImageFiles, no_room_in_cache
    from rfray.data.rotations import judged_on
    from rfray.training.learner import TrialData

    folder = RunDir(run)
    sweep, catalog = folder.sweep(), folder.catalog()
    if fold is not None:
        catalog = judged_on(catalog, fold, sweep)
    geometry = Geometry(resize, side, sweep.data.reencode)
    train, val = (load_images(catalog, sweep.data, part, geometry) for part in ("train", "val"))
    uncached = any(isinstance(part.source, ImageFiles) for part in (train, val))
    warnings = [f"{socket.gethostname()}: {no_room_in_cache(sweep.data.cache)}"] if uncached else []
    return sweep, TrialData(train, val, sweep.augmentations, training_images=folder.training_images()), warnings

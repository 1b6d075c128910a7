"""one setting from Ray Tune -> one trained trial in the run folder: what runs in a trial's process."""

import os
import shutil
import socket
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rfray.cluster.slots import TrialSlots
from rfray.errors import DiskFullError, TrialError
from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.files import is_disk_full, no_room, replace_text
from rfray.store.records import Fold, Start, write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir, probe_id
from rfray.store.storage import STATES
from rfray.store.tables import read_catalog

if TYPE_CHECKING:
    from rfray.training.loop import Epoch, TrialData

# What is heavy (torch, timm, albumentations: 9 s) is imported inside the functions. A process counts as started once
# this module is imported, and until then Ray Tune gives its trial to whichever process gets free before.

POINTER = "trial.txt"
"""What a Ray checkpoint of ours holds: the id of the trial whose folder has the state."""
ATTEMPTS = 2
"""A failing trial is tried this often in all, then recorded with its reason."""
DEATHS = 4
"""A trial whose process dies this often in one epoch, with nobody restarting the sweep, is recorded as failed."""


@dataclass(frozen=True)
class Job:
    """What every trial of a sweep needs to know besides its setting."""

    run: Path | str
    """Path or address of the run folder."""
    session: str
    """Changes with every start of the sweep."""
    shares: TrialSlots
    """What each trial gets."""
    checkpoints: bool
    """Whether the scheduler pauses or clones trials, and so wants a Ray checkpoint with every report."""
    deadline: float | None = None
    """Where a budget by the clock ends, in seconds since 1970: the nodes' clocks are taken to agree."""
    watches_budget: bool = False
    """Whether the run folder will say that a budget of GPUs is used up."""


class SupersededError(Exception):
    """Another process has taken this trial over, so this one must not write any more."""


class GroupLostError(Exception):
    """One of the workers that train this trial together has died, and it goes on with others from its last epoch."""


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains the trial `config` (id and fields of `Trial`) and reports every epoch to Ray Tune.

    A trial that fails twice leaves error.txt (first line: the reason) in its folder and returns as if it had ended:
    for Ray, only a process that dies is a failure, and it starts that one again (GroupLostError says that a worker's
    process has). Raises DiskFullError.
    """
    run = RunDir(job.run)
    out = run.trial(tune.get_context().get_trial_name())
    trial = trial_of(config)
    try:
        out.mirror.pull(removing=STATES)  # another node may have had the trial before
        out.mirror.remove([out.error_file])
        _take_over(run, out, trial)
        token, fruitless = _sign_in(out, job.session)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if fruitless >= DEATHS:
                    raise TrialError(f"its process died {fruitless} times in one epoch (out of memory? see dmesg)")
                _attempt(out, trial, job, token)
                return
            except Exception as error:
                if isinstance(error, DiskFullError | SupersededError | GroupLostError) or is_disk_full(error):
                    raise
                if out.starts()[-1].token != token:
                    raise  # another process has the trial now
                if attempt == ATTEMPTS:
                    reason = (str(error).splitlines() or [""])[0]
                    replace_text(out.error_file, f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}")
                    out.mirror.push(removing=STATES)
    except OSError as error:
        if is_disk_full(error):
            raise no_room(out.path, 0) from error
        raise


def trial_of(config: dict[str, Any]) -> Trial:
    """The setting in what Ray Tune calls a trial's config."""
    return Trial(**{name: value for name, value in config.items() if name != "id"})


def time_left(job: Job) -> Callable[[], float] | None:
    """What says how many seconds the budget leaves; None where there is none. To ask it between two batches is cheap.

    Of GPUs nobody knows that here: until they are used up, there is no end.
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


def _attempt(out: TrialDir, trial: Trial, job: Job, token: str) -> None:
    slot = job.shares.of(trial)
    report = partial(_report, out, job)
    if slot.workers > 1:
        from rfray.tuning.ddp_trainable import Order, train_together

        try:
            train_together(Order(job, out.id, trial, slot, token), report)
        except Exception:
            out.mirror.pull(removing=STATES)  # what the first worker has written, on another node maybe
            raise
        return
    from rfray.training.loop import Hooks, train

    sweep, data, warnings = data_of(job.run, trial, out.start().fold)
    say = list(warnings)

    def on_epoch(epoch: "Epoch") -> None:
        out.mirror.push(removing=STATES)
        said = say.copy()
        say.clear()
        report(asdict(epoch), said)

    hooks = Hooks(on_epoch, partial(remember, out), say.append, partial(check_in, out, token), time_left(job))
    train(trial, data, out, sweep.search.metric, slot.threads, hooks, out.start().micro_batch or slot.micro_batch)


def _report(out: TrialDir, job: Job, epoch: dict[str, Any], said: list[str]) -> None:
    """Tells Ray Tune of an epoch (the fields of an Epoch), and what the user should know."""
    metrics = {
        EPOCH: epoch["epoch"],
        SCORE: epoch["score"] if epoch["score"] is not None else 0.0,  # for the scheduler, undefined is worst
        WARNINGS: "\n".join(said),
        **{
            name: epoch[name]
            for name in ("best_score", "best_epoch", "train_loss", "lr", "images_per_second", "seconds")
        },
    }
    if not job.checkpoints:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, POINTER).write_text(out.id)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def remember(out: TrialDir, micro_batch: int) -> None:
    """Notes for later starts of the trial how many images fit into memory at once."""
    write_record(out.start_file, out.start().model_copy(update={"micro_batch": micro_batch}), out.mirror)


def check_in(out: TrialDir, token: str) -> None:
    """Raises SupersededError where the trial's folder is not any more to be written by who signed in with `token`."""
    if out.starts()[-1].token != token:
        raise SupersededError(f"{out.id} was started again elsewhere")


def _sign_in(out: TrialDir, session: str) -> tuple[str, int]:
    """Notes that this process trains the trial from here on.

    Returns the token that says so, and how often in a row processes of this session have died without getting further.
    """
    states = out.state_files()
    done = int(states[0].stem.split("-")[1]) if states else 0
    starts = out.starts()
    fruitless = 0
    while fruitless < len(starts) and starts[-1 - fruitless][:2] == (session, str(done)):
        fruitless += 1
    token = uuid.uuid4().hex[:12]
    out.write_starts([*starts, Start(session, str(done), socket.gethostname(), str(os.getpid()), token)])
    return token, fruitless


def data_of(where: Path | str, trial: Trial, fold: Fold | None) -> tuple[Sweep, "TrialData", list[str]]:
    """What a trial learns from and begins with, judged on a fold or else val, and what the user should know of it.

    Raises TrialError where it is to begin with a probe that there is not.
    """
    sweep, data, warnings = images_of(where, trial.resize, trial.image_size, fold)
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
def images_of(
    run: Path | str, resize: str, side: int, fold: Fold | None = None
) -> tuple[Sweep, "TrialData", list[str]]:
    """Kept for the trials that this process has still to run; the pixels themselves are memory-mapped."""
    from rfray.data.catalog import load_images
    from rfray.data.geometry import Geometry
    from rfray.data.images import ImageFiles
    from rfray.data.pixel_cache import no_room_in_cache
    from rfray.data.splits import fold_of
    from rfray.training.loop import TrialData

    folder = RunDir(run)
    folder.mirror.pull("sweep.yaml", "catalog.parquet")
    sweep, catalog = folder.sweep(), read_catalog(folder)
    if fold is not None:
        catalog = fold_of(catalog, fold, sweep.seed)
    geometry = Geometry(resize, side, sweep.data.reencode)
    train, val = (load_images(catalog, sweep.data, part, geometry) for part in ("train", "val"))
    uncached = any(isinstance(part.source, ImageFiles) for part in (train, val))
    warnings = [f"{socket.gethostname()}: {no_room_in_cache(sweep.data.cache)}"] if uncached else []
    return sweep, TrialData(train, val, sweep.augmentations), warnings


def _take_over(run: RunDir, out: TrialDir, trial: Trial) -> None:
    """Where the scheduler told this trial to go on as a copy of another, copies that one's files."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        donor = run.trial(Path(folder, POINTER).read_text())
    if donor.id == out.id:
        return
    donor.mirror.pull(removing=STATES)
    if not donor.state_files():
        return
    for state in out.state_files():
        state.unlink()
    # the donor trains on meanwhile: what is copied belongs together if its state is still the same one afterwards
    while True:
        newest = donor.state_files()[0]
        with suppress(FileNotFoundError):
            for file in (donor.history_file, donor.weights_file, donor.predictions_file("val")):
                if file.exists():
                    shutil.copyfile(file, out.path / file.name)
            if newest.exists():
                shutil.copyfile(newest, out.path / newest.name)  # the last: the loop makes the rest agree with it
                break
    write_record(out.start_file, out.start().model_copy(update={"trial": trial}), out.mirror)
    out.mirror.push(removing=STATES)

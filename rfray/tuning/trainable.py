"""One setting from Ray Tune -> one trained trial in the run folder: what runs in a trial's process."""

import os
import socket
import traceback
import uuid
from dataclasses import asdict
from typing import Any

from ray import tune

from rfray.errors import DiskFullError, TrialError
from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
from rfray.store.files import is_disk_full, no_room, write_whole
from rfray.store.records import Start
from rfray.store.run_dir import RunDir, TrialDir
from rfray.store.storage import STATES
from rfray.tuning.trial_job import SupersededError, SweepJob, TrialJob, WorkerLostError, train_trial, trial_of

# What is heavy (torch, timm, albumentations: 9 s) is imported inside the functions. A process counts as started once
# this module is imported, and until then Ray Tune gives its trial to whichever process gets free before.

ATTEMPTS = 2
"""A failing trial is tried this often in all, then recorded with its reason: a reader that stumbled once may go on."""
DEATHS = 4
"""A trial whose process dies this often in one epoch, with nobody restarting the sweep, is recorded as failed: a node
may be lost more than once, but a trial that needs more memory than there is dies each time."""


def run_trial(config: dict[str, Any], job: SweepJob) -> None:
    """Trains the trial `config` (id and fields of `Trial`) and reports every epoch to Ray Tune.

    A trial that fails twice leaves error.txt (first line: the reason) in its folder and returns as if it had ended:
    for Ray, only a process that dies is a failure, and Ray starts that one again.
    Raises DiskFullError, and WorkerLostError where the process of one of its workers died.
    """
    out = RunDir(job.run).trial(tune.get_context().get_trial_name())
    trial = trial_of(config)
    try:
        out.mirror.pull(removing=STATES)  # another node may have had the trial before
        out.mirror.remove([out.error_file])
        token, deaths = _register_start(out, job.session)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if deaths >= DEATHS:
                    raise TrialError(f"its process died {deaths} times in one epoch (out of memory? see dmesg)")
                _train(TrialJob(job, out.id, trial, job.shares.of(trial), token))
                return
            except Exception as error:
                if isinstance(error, DiskFullError | SupersededError | WorkerLostError) or is_disk_full(error):
                    raise
                if out.starts()[-1].token != token:
                    raise  # another process has the trial now
                if attempt == ATTEMPTS:
                    reason = (str(error).splitlines() or [""])[0]
                    write_whole(out.error_file, f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}")
                    out.mirror.push(removing=STATES)
    except OSError as error:
        if is_disk_full(error):
            raise no_room(out.path, 0) from error
        raise


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

    def on_epoch(epoch: Any) -> None:
        new = warnings.copy()
        warnings.clear()
        _report(asdict(epoch), new)

    train_trial(job, on_epoch, warnings.append)


def _report(epoch: dict[str, Any], warnings: list[str]) -> None:
    """Reports an epoch (the fields of an Epoch), and what the user should know, to Ray Tune."""
    names = ("best_score", "best_epoch", "train_loss", "lr", "images_per_second", "seconds")
    score = epoch["score"] if epoch["score"] is not None else 0.0  # for the scheduler, undefined is worst
    fixed = {EPOCH: epoch["epoch"], SCORE: score, WARNINGS: "\n".join(warnings)}
    tune.report(fixed | {name: epoch[name] for name in names})


def _register_start(out: TrialDir, session: str) -> tuple[str, int]:
    """Notes that this process trains the trial from here on.

    Returns the token of this start, and how often in a row processes of this session have died without getting further.
    """
    states = out.state_files()
    done = int(states[0].stem.split("-")[1]) if states else 0
    starts = out.starts()
    deaths = 0
    while deaths < len(starts) and starts[-1 - deaths][:2] == (session, str(done)):
        deaths += 1
    token = uuid.uuid4().hex[:12]
    out.write_starts([*starts, Start(session, str(done), socket.gethostname(), str(os.getpid()), token)])
    return token, deaths

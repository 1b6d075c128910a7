"""one setting from Ray Tune -> one trained trial in the run folder: what runs in a trial's process."""

import shutil
import tempfile
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray import tune

from rfray.config import Sweep, Trial
from rfray.data.catalog import load_images
from rfray.run import RunDir, TrialDir
from rfray.search.strategies import EPOCH, SCORE
from rfray.training.loop import Epoch, TrialData, train

POINTER = "trial.txt"
"""What a Ray checkpoint of ours holds: the id of the trial whose folder has the state."""


@dataclass(frozen=True)
class Job:
    """What every trial of a sweep needs to know besides its setting."""

    run: Path
    threads: int
    checkpoints: bool
    """Whether the scheduler pauses or clones trials, and so wants a Ray checkpoint with every report."""


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains the trial `config` (id and fields of `Trial`) and reports every epoch to Ray Tune.

    Leaves error.txt (first line: the reason) in the trial's folder and raises where the trial fails.
    """
    run = RunDir(job.run)
    out = run.trial(tune.get_context().get_trial_name())
    trial = Trial(**{name: value for name, value in config.items() if name != "id"})
    _take_over(run, out, trial)
    out.error_file.unlink(missing_ok=True)
    sweep, data = _images(job.run, trial.image_size)

    def report(epoch: Epoch) -> None:
        metrics = {
            EPOCH: epoch.epoch,
            SCORE: epoch.score if epoch.score is not None else 0.0,  # for the scheduler, undefined is worst
            "best_score": epoch.best_score,
            "best_epoch": epoch.best_epoch,
            "train_loss": epoch.train_loss,
            "lr": epoch.lr,
            "images_per_second": epoch.images_per_second,
            "seconds": epoch.seconds,
        }
        if not job.checkpoints:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, POINTER).write_text(out.id)
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    try:
        train(trial, data, out, sweep.search.metric, job.threads, report)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        name = type(error).__name__
        out.error_file.write_text(f"{name}: {reason}\n\n{traceback.format_exc()}")
        raise


@lru_cache(maxsize=4)
def _images(run: Path, side: int) -> tuple[Sweep, TrialData]:
    """Kept for the trials that this process has still to run; the pixels themselves are memory-mapped."""
    folder = RunDir(run)
    sweep, catalog = folder.sweep(), folder.read_catalog()
    fit, select = (load_images(catalog, sweep.data, part, side) for part in ("fit", "select"))
    return sweep, TrialData(fit, select, sweep.augmentations)


def _take_over(run: RunDir, out: TrialDir, trial: Trial) -> None:
    """Where the scheduler told this trial to go on as a copy of another, copies that one's files."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        donor = run.trial(Path(folder, POINTER).read_text())
    if donor.id == out.id:
        return
    # the state last: the loop makes the rest agree with it
    for name in ("history_file", "weights_file", "state_file"):
        shutil.copyfile(getattr(donor, name), getattr(out, name))
    shutil.copyfile(donor.predictions_file("select"), out.predictions_file("select"))
    out.write_start(out.start().model_copy(update={"trial": trial}))

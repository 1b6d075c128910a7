"""trial + images -> best.safetensors, predictions-val.parquet, history.csv and the state: the training of one trial.

After every epoch all of it is on disk, so that a trial that is killed at any moment resumes from its last epoch.

Several processes (a `Group`) may train one trial: each takes its share of every batch, gradients are averaged, and the
first process writes the files. The results equal those of one process, except for random draws (augmentation, dropout)
and for batch normalisation on CPUs.
"""

import gc
import time
from functools import partial

import torch

from rfray.errors import TrialError
from rfray.models.inference import give_back
from rfray.spec.trial import Trial
from rfray.stats.metrics import metric
from rfray.store.run_dir import TrialDir
from rfray.training.checkpoint import complete_files, read_resumable_state, write_epoch
from rfray.training.distributed import ALONE, Group
from rfray.training.learner import Epoch, Hooks, Learner, TrialData, seed_everything
from rfray.training.step import OutOfTimeError, train_epoch, validate


def train(
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    val_metric: str,
    threads: int,
    hooks: Hooks,
    micro_batch: int | None = None,
    group: Group = ALONE,
) -> None:
    """Trains until the last epoch, or until `patience` runs out; resumes from the state in `out` where there is one.

    `threads` is the number of CPU threads of the model, and of those that make batches. `micro_batch` is the number of
    images to compute at once where a whole batch is known not to fit into memory; it is halved until it fits.
    Every process of a `group` calls it with the same arguments.

    Raises:
        TrialError: the model can't be built, the loss is not finite, the val metric is undefined in every epoch, or
            not even one image fits into memory.
        DiskFullError: there is no room for an epoch's files.
        GroupMemoryError: a process of the group ran out of memory, and all have to begin again.
        GroupStoppedError: the first process of the group has raised.

    """
    torch.set_num_threads(threads)
    gc.freeze()  # what exists already (modules above all) need not be searched when the trial's memory is given back
    learner = None
    try:
        state = group.broadcast(read_resumable_state(out, hooks.on_damage) if group.is_first else None)
        learner = Learner(trial, data, hooks, threads, micro_batch, group, state)
        del state
        last = learner.last
        best = validate(learner) if last is not None and last.best_epoch == last.epoch else None
        group.on_first(partial(complete_files, out, learner, best))
        del best
        if last is not None:
            # reported again: this process, or the one that it reports to, may have died before
            group.on_first(partial(hooks.on_epoch, last))
        for epoch in range(last.epoch + 1 if last else 1, trial.epochs * learner.epochs_of_a_pass + 1):
            if last is not None and trial.patience and last.epoch - (last.best_epoch or 0) >= trial.patience:
                break
            try:
                last = _run_epoch(learner, out, val_metric, epoch)
            except OutOfTimeError:
                return
            group.on_first(partial(hooks.on_epoch, last))
        if last is None or last.best_epoch is None:
            raise TrialError(f"the val metric {val_metric} is undefined in every epoch")
    finally:
        # the process goes on with the next trial: nothing of this one may stay in memory
        learner = None
        give_back()


def _run_epoch(learner: Learner, out: TrialDir, val_metric: str, epoch: int) -> Epoch:
    """Trains for one epoch, validates and writes its files. Raises OutOfTimeError where the epoch has to be dropped."""
    group, hooks, last, began = learner.group, learner.hooks, learner.last, time.perf_counter()
    seed_everything(learner.trial.seed, epoch, group)
    train_loss, images, waited = train_epoch(learner, epoch)
    training_seconds = time.perf_counter() - began

    def check_time() -> None:
        # not in a group, whose processes may have different numbers of batches
        if group.size == 1 and hooks.ends_within(0, group):
            raise OutOfTimeError

    validated = validate(learner, check_time)
    learner.validation_seconds = time.perf_counter() - began - training_seconds
    score = group.broadcast(metric(val_metric, validated.predictions))  # all processes decide by the same number
    best = last.best_score if last else None
    better = score is not None and (best is None or score > best)
    learner.last = record = Epoch(
        epoch=epoch,
        train_loss=train_loss,
        score=score,
        best_score=score if better else best,
        best_epoch=epoch if better else last.best_epoch if last else None,
        lr=learner.optimizer.param_groups[-1]["lr"],
        seconds=time.perf_counter() - began,
        images_per_second=images / training_seconds,
        wait_share=waited / training_seconds,
        ended=time.time(),
    )

    group.on_first(partial(write_epoch, out, learner, record, val_metric, validated if better else None))
    return record

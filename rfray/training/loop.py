"""trial + images -> best.safetensors, predictions-val.parquet, history.csv and the state: the training of one trial.

After every epoch all of it is on disk, so that a trial that is killed at any moment resumes from its last epoch.

Several processes (a `Group`) may train one trial: each takes its share of every batch, gradients are averaged, and the
first process writes the files. The results equal those of one process, except for random draws (augmentation, dropout)
and for batch normalisation on CPUs.
"""

import gc
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rfray.data.geometry import Geometry
from rfray.data.images import Images
from rfray.errors import TrialError
from rfray.models.inference import device_and_type, give_back
from rfray.spec.trial import Trial
from rfray.stats.metrics import metric
from rfray.store.records import Measured
from rfray.store.run_dir import TrialDir
from rfray.training.checkpoint import complete_files, read_resumable_state, write_epoch
from rfray.training.distributed import ALONE, Group
from rfray.training.learner import Epoch, Hooks, Learner, TrialData, seed_everything
from rfray.training.step import OutOfTimeError, train_epoch, validate

STEPS_ON_GPU = 10
"""Steps in each epoch of `footprint` on a GPU, where the first ones are slower; on a CPU it is one."""


def train(
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    val_metric: str,
    threads: int,
    hooks: Hooks,
    micro_batch: int | None = None,
    group: Group = ALONE,
    keep_epoch: int | None = None,
) -> None:
    """Trains until the last epoch, or until `patience` runs out; resumes from the state in `out` where there is one.

    With a `keep_epoch` (from 1) it ends after that one and keeps its weights, whatever the val metric says of it.

    `threads` is the number of CPU threads of the model, and of those that make batches. `micro_batch` is the number of
    images to compute at once where a whole batch is known not to fit into memory; it is halved until it fits.
    Every process of a `group` calls it with the same arguments.
    Raises TrialError where the model can't be built, the loss is not finite, the val metric is undefined in every epoch
    or not even one image fits into memory; DiskFullError; in a group GroupMemoryError where a process ran out of memory
    and all have to begin again, GroupStoppedError where the first process has raised.
    """
    torch.set_num_threads(threads)
    gc.freeze()  # what exists already (modules above all) need not be searched when the trial's memory is given back
    learner = None
    try:
        state = group.broadcast(read_resumable_state(out, hooks.on_damage) if group.rank == 0 else None)
        learner = Learner(trial, data, hooks, threads, micro_batch, group, state)
        del state
        last = learner.last
        best = validate(learner) if last is not None and last.best_epoch == last.epoch else None
        group.on_first(partial(complete_files, out, learner, best))
        del best
        if last is not None:
            # reported again: this process, or the one that it reports to, may have died before
            group.on_first(partial(hooks.on_epoch, last))
        for epoch in range(last.epoch + 1 if last else 1, (keep_epoch or trial.epochs * learner.epochs_of_a_pass) + 1):
            impatient = trial.patience and keep_epoch is None
            if last is not None and impatient and last.epoch - (last.best_epoch or 0) >= trial.patience:
                break
            try:
                last = _run_epoch(learner, out, val_metric, epoch, keep_epoch)
            except OutOfTimeError:
                return
            group.on_first(partial(hooks.on_epoch, last))
        if last is None or last.best_epoch is None:
            raise TrialError(f"the val metric {val_metric} is undefined in every epoch")
    finally:
        # the process goes on with the next trial: nothing of this one may stay in memory
        learner = None
        give_back()


def _run_epoch(learner: Learner, out: TrialDir, val_metric: str, epoch: int, keep_epoch: int | None) -> Epoch:
    """Trains for one epoch, validates and writes its files. Raises OutOfTimeError where the epoch has to be dropped."""
    group, last, began = learner.group, learner.last, time.perf_counter()
    seed_everything(learner.trial.seed, epoch, group)
    train_loss, images, waited = train_epoch(learner, epoch)
    training_seconds = time.perf_counter() - began
    validated = validate(learner, in_time=True)
    learner.validation_seconds = time.perf_counter() - began - training_seconds
    score = group.broadcast(metric(val_metric, validated.predictions))  # all processes decide by the same number
    best, best_epoch = (last.best_score, last.best_epoch) if last else (None, None)
    better = score is not None and (best is None or score > best) if keep_epoch is None else epoch == keep_epoch
    if better:
        best, best_epoch = score, epoch
    learner.last = record = Epoch(
        epoch=epoch,
        train_loss=train_loss,
        score=score,
        best_score=best,
        best_epoch=best_epoch,
        lr=learner.optimizer.param_groups[-1]["lr"],
        seconds=time.perf_counter() - began,
        images_per_second=images / training_seconds,
        wait_share=waited / training_seconds,
        ended=time.time(),
    )
    group.on_first(partial(write_epoch, out, learner, record, val_metric, validated if better else None))
    return record


def footprint(trial: Trial, threads: int, micro_batch: int | None) -> Measured:
    """The memory that a trial's training takes on this machine, and its speed, by two short epochs on images of noise.

    It is called in a process that has done nothing else yet. `micro_batch` is the number of images to compute at once,
    by default a whole batch; it is halved until it fits into memory. Raises TrialError where not even one image fits.
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
        name = torch.cuda.get_device_name(device)
        free, device_memory = torch.cuda.mem_get_info(device)
        besides = device_memory - free - torch.cuda.memory_reserved(device)  # what CUDA needs besides torch's own peak
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

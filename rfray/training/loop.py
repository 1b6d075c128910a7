"""trial + images -> best.safetensors, predictions-select.parquet, history.csv, state.pt: what one trial does.

After every epoch all of it is on disk, in an order that a later start can make whole again, so that a trial that is
killed at any moment goes on from its last epoch.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from rfray.config import Trial
from rfray.data.augment import Policy, Spec, build_policy
from rfray.data.batches import WaitTime, epoch_order, fit_batches
from rfray.data.pixels import Images
from rfray.errors import TrialError
from rfray.evaluation.metrics import metric
from rfray.evaluation.predictions import Predictions, predictions_metadata, write_predictions
from rfray.files import replacing
from rfray.run import TrialDir
from rfray.training.inference import device_and_type, predict, save_weights, weights_metadata
from rfray.training.model import Normalisation, build_model
from rfray.training.optim import make_optimizer, make_schedule


@dataclass(frozen=True)
class TrialData:
    """What a trial learns from and is judged on."""

    fit: Images
    select: Images
    augmentations: Mapping[str, Spec]
    """The sweep's own policies."""


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's batches."""
    score: float | None
    """The select metric after this epoch, in [0, 1]; None where it is undefined."""
    best_score: float | None
    best_epoch: int | None
    lr: float
    """Learning rate at the end of the epoch."""
    seconds: float
    """Time for the epoch, judging and writing included."""
    images_per_second: float
    """Fit images per second of training."""
    wait_share: float
    """Share of the training time in which the model waited for images."""


@dataclass
class Learner:
    """Everything that changes while a trial trains, and what changes it."""

    model: nn.Module
    average: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    normalise: Normalisation
    criterion: nn.Module
    mix: Mixup | None
    policies: list[Policy | None]
    """The augmentation, once for each thread that makes batches."""
    device: torch.device
    dtype: torch.dtype

    @property
    def judged(self) -> nn.Module:
        """The model that is judged and kept: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.model


def train(
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    select_metric: str,
    threads: int,
    on_epoch: Callable[[Epoch], None],
) -> None:
    """Trains until the last epoch, or until `patience` runs out; goes on from `out.state_file` where there is one.

    `on_epoch` is called once an epoch, when its files are written; it may raise to end the trial early.
    `threads` is the number of CPU threads for the model, and of those that make batches.
    Raises TrialError: the model can't be built, the loss is not finite, the select metric is undefined throughout.
    """
    torch.set_num_threads(threads)
    learner = None
    try:
        learner, start = _prepare(trial, data, out, select_metric, threads)
        last = start
        for epoch in range((start.epoch if start else 0) + 1, trial.epochs + 1):
            if last is not None and _out_of_patience(trial, last):
                break
            last = _one_epoch(learner, trial, data, out, select_metric, epoch, last)
            on_epoch(last)
        if last is not None and last is start:
            on_epoch(last)  # nothing was left to do: say again how it stood
        if last is None or last.best_epoch is None:
            raise TrialError(f"the select metric {select_metric} is undefined in every epoch")
    finally:
        # the process lives on for the next trial: nothing of this one may stay in memory
        learner = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _prepare(
    trial: Trial, data: TrialData, out: TrialDir, select_metric: str, threads: int
) -> tuple[Learner, Epoch | None]:
    _seed_everything(trial.seed, 0)
    device, dtype = device_and_type(trial.precision)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    resumed = out.state_file.exists()
    model, normalise = build_model(trial, load_pretrained=not resumed)
    model.to(device)
    optimizer = make_optimizer(trial, model)
    learner = Learner(
        model=model,
        average=ModelEmaV3(model, decay=trial.ema, use_warmup=True) if trial.ema else None,
        optimizer=optimizer,
        schedule=make_schedule(trial, optimizer, _steps_per_epoch(trial, data.fit)),
        normalise=normalise,
        criterion=_criterion(trial, data.fit.labels).to(device),
        mix=_mix(trial),
        policies=[build_policy(trial.augmentation, data.augmentations, trial.image_size) for _ in range(threads)],
        device=device,
        dtype=dtype,
    )
    if not resumed:
        out.history_file.unlink(missing_ok=True)
        return learner, None
    last = _restore(learner, out)
    if last.best_epoch == last.epoch and not _best_files_are_of(out, last):
        _write_best(learner.judged, trial, _judge(learner, trial, data.select), out, last)
    return learner, last


def _one_epoch(
    learner: Learner,
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    select_metric: str,
    epoch: int,
    last: Epoch | None,
) -> Epoch:
    began = time.perf_counter()
    _seed_everything(trial.seed, epoch)
    wait = WaitTime()
    train_loss = _learn(learner, trial, data, epoch, wait)
    learned = time.perf_counter() - began
    predictions = _judge(learner, trial, data.select)
    score = metric(select_metric, predictions)
    best = last.best_score if last else None
    better = score is not None and (best is None or score > best)
    record = Epoch(
        epoch=epoch,
        train_loss=train_loss,
        score=score,
        best_score=score if better else best,
        best_epoch=epoch if better else last.best_epoch if last else None,
        lr=learner.optimizer.param_groups[-1]["lr"],
        seconds=time.perf_counter() - began,
        images_per_second=len(data.fit) / learned,
        wait_share=wait.seconds / learned,
    )
    _write_history(out, record, select_metric)
    _write_state(learner, out, record)
    if better:
        _write_best(learner.judged, trial, predictions, out, record)
    return record


def _learn(learner: Learner, trial: Trial, data: TrialData, epoch: int, wait: WaitTime) -> float:
    """Moves the model through one epoch; mean loss. Raises TrialError where the loss is not finite."""
    model, device = learner.model, learner.device
    model.train()
    order = epoch_order(data.fit.labels, trial.class_balance == "sampling", trial.seed, epoch)
    steps = _steps_per_epoch(trial, data.fit)
    total = torch.zeros((), device=device)
    batches = fit_batches(
        data.fit, order, trial.batch_size, learner.policies, (trial.seed, epoch), device.type == "cuda", wait
    )
    for number, (pixels, labels) in enumerate(batches):
        learner.schedule.step_update((epoch - 1) * steps + number)
        images = learner.normalise(pixels.to(device, non_blocking=True))  # (B, 3, S, S)
        targets = labels.to(device, non_blocking=True)  # (B,), or (B, 2) once mixed
        if learner.mix is not None:
            even = len(images) - len(images) % 2  # timm mixes an image with its mirror place in the batch
            images, targets = learner.mix(images[:even], targets[:even])
        with torch.autocast(device.type, learner.dtype, enabled=learner.dtype != torch.float32):
            logits = model(images)  # (B, 2)
        loss = learner.criterion(logits.float(), targets)
        loss.backward()
        if trial.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), trial.clip_grad)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        if learner.average is not None:
            learner.average.update(model, step=(epoch - 1) * steps + number)
        total += loss.detach()
    mean = float(total) / steps
    if not math.isfinite(mean):
        raise TrialError(f"the loss is {mean} in epoch {epoch} (lr {trial.lr:g}, {trial.optimizer})")
    return mean


def _judge(learner: Learner, trial: Trial, select: Images) -> Predictions:
    try:
        return predict(learner.judged, learner.normalise, select, 2 * trial.batch_size, learner.device, learner.dtype)
    except ValueError as error:
        raise TrialError(f"the model's outputs are not finite (lr {trial.lr:g}): {error}") from error


def _seed_everything(seed: int, epoch: int) -> None:
    """The global generators that torch (dropout), timm (mixup) and drop path draw from."""
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)


def _steps_per_epoch(trial: Trial, fit: Images) -> int:
    return max(1, len(fit) // trial.batch_size)


def _criterion(trial: Trial, labels: np.ndarray) -> nn.Module:
    weights = None
    if trial.class_balance == "weights":
        counts = np.bincount(labels, minlength=2)
        weights = torch.tensor(len(labels) / (2 * counts), dtype=torch.float32)
    # where images are mixed, timm smooths the labels on the way
    smoothing = 0.0 if trial.mixup or trial.cutmix else trial.label_smoothing
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)


def _mix(trial: Trial) -> Mixup | None:
    if not (trial.mixup or trial.cutmix):
        return None
    return Mixup(
        mixup_alpha=trial.mixup, cutmix_alpha=trial.cutmix, label_smoothing=trial.label_smoothing, num_classes=2
    )


def _out_of_patience(trial: Trial, last: Epoch) -> bool:
    return bool(trial.patience) and last.epoch - (last.best_epoch or 0) >= trial.patience


def _restore(learner: Learner, out: TrialDir) -> Epoch:
    state: dict[str, Any] = torch.load(out.state_file, map_location=learner.device, weights_only=True)
    learner.model.load_state_dict(state["model"])
    if learner.average is not None and state["average"] is not None:
        learner.average.module.load_state_dict(state["average"])
    # the optimizer's memory is taken over, its settings (lr, decay) are this trial's: pbt changes them on the way
    settings = [
        {key: value for key, value in group.items() if key != "params"} for group in learner.optimizer.param_groups
    ]
    learner.optimizer.load_state_dict(state["optimizer"])
    for group, setting in zip(learner.optimizer.param_groups, settings, strict=True):
        group.update(setting)
    return Epoch(**state["epoch"])


def _write_state(learner: Learner, out: TrialDir, record: Epoch) -> None:
    state = {
        "epoch": asdict(record),
        "model": learner.model.state_dict(),
        "average": learner.average.module.state_dict() if learner.average is not None else None,
        "optimizer": learner.optimizer.state_dict(),
    }
    with replacing(out.state_file) as temporary:
        torch.save(state, temporary)


def _write_history(out: TrialDir, record: Epoch, select_metric: str) -> None:
    row = asdict(record)
    row[f"select_{select_metric}"] = row.pop("score")
    del row["best_score"], row["best_epoch"]
    history = out.history()
    if len(history):
        history = history[history["epoch"] < record.epoch]
    rows = pd.concat([history, pd.DataFrame([row])]) if len(history) else pd.DataFrame([row])
    with replacing(out.history_file) as temporary:
        rows.to_csv(temporary, index=False)


def _origin(record: Epoch) -> dict[str, str]:
    return {"epoch": str(record.best_epoch), "score": repr(record.best_score)}


def _write_best(model: nn.Module, trial: Trial, predictions: Predictions, out: TrialDir, record: Epoch) -> None:
    origin = {**_origin(record), "trial": trial.model_dump_json()}
    save_weights(out.weights_file, model, origin)
    write_predictions(out.predictions_file("select"), predictions, origin)


def _best_files_are_of(out: TrialDir, record: Epoch) -> bool:
    found = (weights_metadata(out.weights_file), predictions_metadata(out.predictions_file("select")))
    return all(_origin(record).items() <= metadata.items() for metadata in found)

"""the learner and its images -> a model that has learned for one epoch, and what it predicts for val then.

Shapes: B images in this process's share of a batch, S their side in pixels.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from timm.utils import distribute_bn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rfray.data.batches import WaitTime, WorkerShare, epoch_order, train_batches
from rfray.errors import GroupMemoryError, TrialError, first_line
from rfray.models.inference import Predictor, give_back, is_out_of_memory, views_of
from rfray.stats.paired_tests import improves_auc
from rfray.stats.predictions import Predictions
from rfray.training.learner import Learner


class OutOfTimeError(Exception):
    """The trial's time has ended, and this epoch can't be finished."""


@dataclass(frozen=True)
class Validated:
    """Predictions on val, and what made them."""

    predictions: Predictions
    flip: bool
    """Whether each prediction is the mean over the image and its mirror image."""
    model: nn.Module
    averaged: bool = False
    """Whether its weights are the mean of those after each epoch (`trial.swa`)."""


def train_epoch(learner: Learner, epoch: int) -> tuple[float, int, float]:
    """Trains for one epoch (from 1), or for as much of it as there is time for.

    Returns the mean loss, the number of images, and the seconds spent waiting for them.
    Raises TrialError where the loss is not finite or not even one image fits into memory, OutOfTimeError where there is
    no time for a single batch, and in a group GroupMemoryError where a micro-batch did not fit into memory.
    """
    trial, train, group = learner.trial, learner.data.train, learner.group
    began, steps, images, loss = time.perf_counter(), 0, 0, torch.zeros((), device=learner.device)
    balanced, size, mixed = trial.class_balance == "sampling", trial.batch_size, learner.mixup is not None
    order = epoch_order(train.labels, balanced, trial.seed, epoch, learner.epochs_of_a_pass)
    wait, share = WaitTime(), WorkerShare(group.rank, group.size, in_pairs=mixed)
    pin = learner.device.type == "cuda"
    batches = train_batches(train, order, size, learner.policies, (trial.seed, epoch), pin, wait, share)
    learner.model.train()
    for number, (pixels, labels) in enumerate(batches):
        # to predict val takes less time than to learn from so many images
        validations = (2 if trial.swa == "auto" else 1) * len(learner.data.val)
        bound = validations * (time.perf_counter() - began) / images if images else 0.0
        known = learner.validation_seconds
        if learner.hooks.ends_within(bound if known is None else 1.25 * known, group):
            if not images:
                raise OutOfTimeError
            break
        whole = train.labels[order[number * size : (number + 1) * size]]
        if mixed:
            whole = whole[: len(whole) // 2 * 2]  # timm mixes pairs
        loss += _step(learner, pixels, labels, whole, (epoch - 1) * learner.steps_per_epoch + number)
        steps, images = steps + 1, images + len(whole)
    if group.size > 1:
        dist.all_reduce(loss)
        for model in dict.fromkeys((learner.model, learner.current)):
            distribute_bn(model, group.size, reduce=True)
    if learner.swa is not None:
        learner.swa.update_parameters(learner.current)
    mean = float(loss) / steps
    if not math.isfinite(mean):
        raise TrialError(f"the loss is {mean} in epoch {epoch} (lr {trial.lr:g}, {trial.optimizer})")
    return mean, images, wait.seconds


def _step(learner: Learner, pixels: torch.Tensor, labels: torch.Tensor, whole: np.ndarray, number: int) -> torch.Tensor:
    """Step `number` of the trial (from 0); this share's part of the batch's mean loss.

    `pixels` are (B, 3, S, S) uint8, `labels` (B,) int64, and `whole` the labels of the batch that they are a share of.
    Halves the micro-batch until it fits into memory. A group has to begin again with the smaller one, as the other
    processes already wait for this one's gradients.
    """
    learner.schedule.step_update(number)
    images = learner.normalise(pixels.to(learner.device, non_blocking=True))  # (B, 3, S, S) float32
    targets = labels.to(learner.device, non_blocking=True)
    if learner.mixup is not None:
        images, targets = learner.mixup(images, targets)  # targets (B, 2)
    while True:
        try:
            loss = _accumulate(learner, images, targets, whole)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = first_line(error)
            if learner.micro_batch == 1:
                raise TrialError(f"out of memory with one image at a time: {cause}") from None
        learner.optimizer.zero_grad()
        give_back()
        learner.micro_batch = max(1, min(learner.micro_batch, len(images)) // 2)
        learner.hooks.on_micro_batch(learner.micro_batch)
        if learner.group.size > 1:
            raise GroupMemoryError(f"out of memory in worker {learner.group.rank}: {cause}")
    if learner.trial.clip_grad:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.trial.clip_grad)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.ema is not None:
        learner.ema.update(learner.model, step=number)
    return loss


def _accumulate(learner: Learner, images: torch.Tensor, targets: torch.Tensor, whole: np.ndarray) -> torch.Tensor:
    """Forward and backward passes over the micro-batches; the sum of their losses.

    The loss is the mean over the whole batch: each micro-batch's sum, divided by the weight of all the batch's images.
    All processes of a group have as many micro-batches. None is empty; none is larger than `learner.micro_batch` unless
    the last share, the smallest, has too few images.
    """
    model, mixed, size, weights = learner.wrapped, targets.ndim == 2, learner.group.size, learner.class_weights
    weight = float(len(whole)) if weights is None or mixed else float(weights[whole].sum())
    class_weights = None if weights is None else torch.from_numpy(weights).to(images.device)
    smoothing = 0.0 if mixed else learner.trial.label_smoothing  # timm smooths labels as it mixes them
    first, last = (len(WorkerShare(rank, size, mixed).of(whole)) for rank in (0, size - 1))
    count = min(last, -(-first // learner.micro_batch))
    total = torch.zeros((), device=images.device)
    micro_batches = zip(torch.tensor_split(images, count), torch.tensor_split(targets, count), strict=True)
    for number, (inputs, wanted) in enumerate(micro_batches, start=1):
        # a group averages its gradients once, in the last backward pass
        with model.no_sync() if isinstance(model, DistributedDataParallel) and number < count else nullcontext():
            with torch.autocast(learner.device.type, learner.dtype, enabled=learner.dtype != torch.float32):
                logits = model(inputs)  # (b, 2)
            loss = nn.functional.cross_entropy(
                logits.float(), wanted, weight=class_weights, reduction="sum", label_smoothing=smoothing
            )
            loss = loss / weight
            (loss * size).backward()  # DDP averages the gradients of the shares, which have to be summed
        total += loss.detach()
    return total


def validate(learner: Learner, in_time: bool = False) -> Validated:
    """Predicts val with the weights that the trial would keep now; decides `swa: auto` and `tta: auto`.

    Raises TrialError where the model's outputs are not finite, and OutOfTimeError if it has to be done `in_time`.
    """
    trial, val, group = learner.trial, learner.data.val, learner.group
    bounds = np.linspace(0, len(val), group.size + 1).astype(int)  # each process predicts its part of val
    part = val.at(slice(bounds[group.rank], bounds[group.rank + 1]))

    def check_time() -> None:
        # not in a group, whose processes may have different numbers of batches
        if in_time and group.size == 1 and learner.hooks.ends_within(0, group):
            raise OutOfTimeError

    def by(model: nn.Module, averaged: bool = False) -> Validated:
        predictor = Predictor(model, learner.normalise, learner.device, learner.dtype, flip=trial.tta != "none")
        views = group.gather(views_of(predictor, part, 2 * trial.batch_size, check_time))  # (1 or 2, n)
        mean = views.mean(axis=0)
        flip = trial.tta == "flip" or (trial.tta == "auto" and improves_auc(val.labels, views[0], mean, val.groups))
        try:
            return Validated(Predictions(val.ids, val.labels, mean if flip else views[0]), flip, model, averaged)
        except ValueError as error:
            raise TrialError(f"the model's outputs are not finite (lr {trial.lr:g}): {error}") from error

    averaged = None if learner.swa is None else by(learner.swa.module, averaged=True)
    if averaged is not None and trial.swa == "epochs":
        return averaged
    plain = by(learner.current)
    better = averaged and improves_auc(val.labels, plain.predictions.p_fake, averaged.predictions.p_fake, val.groups)
    return averaged if averaged and better else plain

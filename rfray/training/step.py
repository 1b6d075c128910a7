"""a batch -> one step of the optimizer; the batches of an epoch -> its mean loss, and a model that has learned.

Shapes: B images in this process's share of a batch, S their side in pixels.
"""

import math
import time

import numpy as np
import torch
from torch import nn

from rfray.data.batches import WaitTime, WorkerShare, epoch_order, train_batches
from rfray.errors import GroupMemoryError, TrialError
from rfray.models.inference import give_back, is_out_of_memory
from rfray.training.distributed import Group
from rfray.training.learner import Hooks, Learner


class OutOfTimeError(Exception):
    """The trial's time has ended, and this epoch can't be finished."""


def train_epoch(learner: Learner, epoch: int, hooks: Hooks, wait: WaitTime) -> tuple[float, int]:
    """Trains for one epoch (from 1), or for as much of it as there is time for; mean loss, and number of images.

    Adds the time spent waiting for images to `wait`.

    Raises:
        TrialError: the loss is not finite, or not even one image fits into memory.
        OutOfTimeError: there is no time for a single batch.
        GroupMemoryError: a micro-batch did not fit into memory, in a group.

    """
    trial, train, group = learner.trial, learner.data.train, learner.group
    began, steps, images = time.perf_counter(), 0, 0
    balanced, size, mixed = trial.class_balance == "sampling", trial.batch_size, learner.mixup is not None
    order = epoch_order(train.labels, balanced, trial.seed, epoch, learner.data.epochs_of_a_pass(trial))
    pin, share = learner.device.type == "cuda", WorkerShare(group.rank, group.size, in_pairs=mixed)
    batches = train_batches(train, order, size, learner.policies, (trial.seed, epoch), pin, wait, share)
    loss = torch.zeros((), device=learner.device)
    learner.model.train()
    for number, (pixels, labels) in enumerate(batches):
        if hooks.ends_within(_seconds_to_validate(learner, images, began), group):
            if not images:
                raise OutOfTimeError
            break
        whole = train.labels[order[number * size : (number + 1) * size]]
        if mixed:
            whole = whole[: len(whole) // 2 * 2]  # timm mixes pairs
        loss += _step(learner, pixels, labels, whole, (epoch - 1) * learner.steps_per_epoch + number, hooks)
        steps, images = steps + 1, images + len(whole)
    for model in [learner.model] if learner.ema is None else [learner.model, learner.ema.module]:
        group.average_buffers(model.buffers())
    if learner.swa is not None:
        learner.swa.update_parameters(learner.current)
    mean = float(group.sum(loss)) / steps
    if not math.isfinite(mean):
        raise TrialError(f"the loss is {mean} in epoch {epoch} (lr {trial.lr:g}, {trial.optimizer})")
    return mean, images


def _seconds_to_validate(learner: Learner, images: int, began: float) -> float:
    """The duration of the last validation and a quarter; before the first one, an upper bound.

    That is the time to learn from so many images, which takes longer than to predict them.
    """
    if learner.validation_seconds is not None:
        return 1.25 * learner.validation_seconds
    times = 2 if learner.trial.swa == "auto" else 1
    return times * len(learner.data.val) * (time.perf_counter() - began) / images if images else 0.0


def _step(
    learner: Learner, pixels: torch.Tensor, labels: torch.Tensor, whole: np.ndarray, number: int, hooks: Hooks
) -> torch.Tensor:
    """Step `number` of the trial (from 0); this share's part of the batch's mean loss.

    `pixels` are (B, 3, S, S) uint8, `labels` (B,) int64, and `whole` the labels of the batch that they are a share of.
    """
    learner.schedule.step_update(number)
    images = learner.normalise(pixels.to(learner.device, non_blocking=True))  # (B, 3, S, S) float32
    targets = labels.to(learner.device, non_blocking=True)
    if learner.mixup is not None:
        images, targets = learner.mixup(images, targets)  # targets (B, 2)
    loss = _backward(learner, images, targets, whole, hooks)
    if learner.trial.clip_grad:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.trial.clip_grad)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.ema is not None:
        learner.ema.update(learner.model, step=number)
    return loss


def _backward(
    learner: Learner, images: torch.Tensor, targets: torch.Tensor, whole: np.ndarray, hooks: Hooks
) -> torch.Tensor:
    """Adds a batch's gradients to the model's; halves the micro-batch until it fits into memory.

    A group has to begin again with the smaller one, as the other processes already wait for this one's gradients.
    """
    while True:
        try:
            return _accumulate(learner, images, targets, whole)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = str(error).splitlines()[0]
            if learner.micro_batch == 1:
                raise TrialError(f"out of memory with one image at a time: {cause}") from None
        learner.optimizer.zero_grad()
        give_back()
        learner.micro_batch = max(1, min(learner.micro_batch, len(images)) // 2)
        hooks.on_micro_batch(learner.micro_batch)
        if learner.group.size > 1:
            raise GroupMemoryError(f"out of memory in worker {learner.group.rank}: {cause}")


def _accumulate(learner: Learner, images: torch.Tensor, targets: torch.Tensor, whole: np.ndarray) -> torch.Tensor:
    """Forward and backward passes over the micro-batches; the sum of their losses.

    The loss is the mean over the whole batch: each micro-batch's sum, divided by the weight of all the batch's images.
    """
    mixed, group, weights = targets.ndim == 2, learner.group, learner.class_weights
    weight = float(len(whole)) if weights is None or mixed else float(weights[whole].sum())
    class_weights = None if weights is None else torch.from_numpy(weights).to(images.device)
    smoothing = 0.0 if mixed else learner.trial.label_smoothing  # timm smooths labels as it mixes them
    count = _micro_batches(len(whole), group, mixed, learner.micro_batch)
    total = torch.zeros((), device=images.device)
    micro_batches = zip(torch.tensor_split(images, count), torch.tensor_split(targets, count), strict=True)
    for number, (inputs, wanted) in enumerate(micro_batches, start=1):
        with group.gradient_sync(learner.wrapped, now=number == count):
            with torch.autocast(learner.device.type, learner.dtype, enabled=learner.dtype != torch.float32):
                logits = learner.wrapped(inputs)  # (b, 2)
            loss = nn.functional.cross_entropy(
                logits.float(), wanted, weight=class_weights, reduction="sum", label_smoothing=smoothing
            )
            loss = loss / weight
            (loss * group.size).backward()  # DDP averages the gradients of the shares, which have to be summed
        total += loss.detach()
    return total


def _micro_batches(batch: int, group: Group, in_pairs: bool, micro_batch: int) -> int:
    """Number of micro-batches in each process's share of a batch: the same in all processes of the group.

    No micro-batch is empty; none is larger than `micro_batch` unless the last share, the smallest, has too few images.
    """
    first, last = (WorkerShare(rank, group.size, in_pairs).of(np.arange(batch)) for rank in (0, group.size - 1))
    return min(len(last), -(-len(first) // micro_batch))

"""trial + model -> timm's optimizer and learning-rate schedule."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from rfray.config import Trial
from rfray.training.staged import Staged

RUNG = 3
"""Factor between two epochs at which the schedule `rungs` has come down: 1, 3, 9, 27, …"""


class Rungs(Scheduler):
    """A cosine from the peak to nearly 0 up to each of the epochs 1, 3, 9, 27, … and up to the last one.

    Whoever stops after one of them has a model that has come to rest. The warm-up is at the beginning alone.
    """

    def __init__(
        self, optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float, warmup_lr: float
    ) -> None:
        """`warmup` is a number of steps, in which the rate rises from `warmup_lr` to the optimizer's own."""
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self._ends = [epoch * steps_per_epoch for epoch in (*rungs(epochs), epochs)]
        self._warmup, self._warmup_lr = warmup, warmup_lr

    def _get_lr(self, t: int) -> list[float]:
        if t < self._warmup:
            return [self._warmup_lr + (peak - self._warmup_lr) * t / self._warmup for peak in self.base_values]
        began = max((end for end in self._ends if end <= t), default=0)
        ends = min((end for end in self._ends if end > t), default=t + 1)
        share = (1 + math.cos(math.pi * (t - began) / (ends - began))) / 2
        return [peak * share for peak in self.base_values]


def rungs(epochs: int) -> list[int]:
    """The epochs before the last one at which the schedule `rungs` has come down: powers of three."""
    found = [1]
    while found[-1] < epochs:
        found.append(found[-1] * RUNG)
    return found[:-1]


def _timms(trial: Trial, optimizer: Optimizer, steps_per_epoch: int, **arguments: Any) -> Scheduler:
    schedule, _ = create_scheduler_v2(
        optimizer,
        num_epochs=trial.epochs,
        decay_epochs=max(1, trial.epochs // 3),
        warmup_epochs=trial.warmup * trial.epochs,  # timm multiplies it by the steps
        warmup_lr=trial.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **arguments,
    )
    assert schedule is not None
    return schedule


def _rungs(trial: Trial, optimizer: Optimizer, steps_per_epoch: int) -> Scheduler:
    steps = trial.warmup * trial.epochs * steps_per_epoch
    return Rungs(optimizer, trial.epochs, steps_per_epoch, steps, trial.lr / 100)


SCHEDULES: dict[str, Callable[[Trial, Optimizer, int], Scheduler]] = {
    "cosine": partial(_timms, sched="cosine"),
    "rungs": _rungs,
    "poly": partial(_timms, sched="poly"),
    "tanh": partial(_timms, sched="tanh"),
    "step": partial(_timms, sched="step", decay_rate=0.1),
    "constant": partial(_timms, sched="step", decay_rate=1.0),
}
"""Name -> what makes it of a trial, its optimizer and the steps of an epoch. `step` falls to a tenth after each third
of the epochs."""


def optimizer_names() -> list[str]:
    """The optimizers that timm can make with torch alone and that step from a plain gradient."""
    names = [str(name) for name in list_optimizers()]
    return [name for name in names if not name.startswith(("bnb", "fused")) and name != "adahessian"]


def make_optimizer(trial: Trial, model: nn.Module) -> Optimizer:
    """timm's optimizer over the model's parameters, with layer-wise decay where it is asked for."""
    options = {"opt": trial.optimizer, "lr": trial.lr, "weight_decay": trial.weight_decay}
    optimizer: Optimizer
    if trial.layer_decay == 1:
        optimizer = create_optimizer_v2(model, **options)
    elif isinstance(model, Staged):  # timm knows the layers of the backbone; the head is one more, above them
        layers = param_groups_layer_decay(model.backbone, trial.weight_decay, layer_decay=trial.layer_decay)
        optimizer = create_optimizer_v2([*layers, {"params": list(model.head.parameters())}], **options)
    else:
        optimizer = create_optimizer_v2(model, layer_decay=trial.layer_decay, **options)
    return optimizer


def make_schedule(trial: Trial, optimizer: Optimizer, steps_per_epoch: int) -> Scheduler:
    """timm's schedule, to be moved on once a step by `step_update(steps done so far)`."""
    return SCHEDULES[trial.schedule](trial, optimizer, steps_per_epoch)

"""trial + model -> timm's optimizer and learning-rate schedule."""

from collections.abc import Mapping
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from rfray.models.multiscale_head import MultiscaleModel
from rfray.spec.trial import Trial

SCHEDULES: dict[str, Mapping[str, Any]] = {
    "cosine": {"sched": "cosine"},
    "poly": {"sched": "poly"},
    "tanh": {"sched": "tanh"},
    "step": {"sched": "step", "decay_rate": 0.1},
    "constant": {"sched": "step", "decay_rate": 1.0},
}
"""Name -> arguments of timm's create_scheduler_v2. `step` falls to a tenth after each third of the epochs."""


def optimizer_names() -> list[str]:
    """The optimizers of timm that need nothing but torch and a plain gradient."""
    names = [str(name) for name in list_optimizers()]
    return [name for name in names if not name.startswith(("bnb", "fused")) and name != "adahessian"]


def make_optimizer(trial: Trial, model: nn.Module) -> Optimizer:
    """timm's optimizer over the model's parameters, with layer-wise learning rates where the trial asks for them."""
    options = {"opt": trial.optimizer, "lr": trial.lr, "weight_decay": trial.weight_decay}
    parameters: Any = model
    if trial.layer_decay != 1 and isinstance(model, MultiscaleModel):
        # timm knows the layers of the backbone; the head is one more layer, above them
        layers = param_groups_layer_decay(model.backbone, trial.weight_decay, layer_decay=trial.layer_decay)
        parameters = [*layers, {"params": list(model.head.parameters())}]
    elif trial.layer_decay != 1:
        options["layer_decay"] = trial.layer_decay
    optimizer: Optimizer = create_optimizer_v2(parameters, **options)
    return optimizer


def make_schedule(trial: Trial, optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> Scheduler:
    """timm's schedule for so many epochs. Call `step_update` with the number of steps so far before each step."""
    schedule, _ = create_scheduler_v2(
        optimizer,
        num_epochs=epochs,
        decay_epochs=max(1, epochs // 3),
        warmup_epochs=trial.warmup * epochs,  # timm multiplies it by the steps
        warmup_lr=trial.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **SCHEDULES[trial.schedule],
    )
    assert schedule is not None
    return schedule

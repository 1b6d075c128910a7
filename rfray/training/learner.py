"""a trial, its images and maybe a saved state -> `Learner`: model, optimizer and schedule, ready for an epoch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from rfray.data.augment import PolicySpec, build_policy
from rfray.data.images import Images
from rfray.errors import TrialError
from rfray.models.build import MultiscaleModel, build_model
from rfray.models.inference import device_and_type, load_weights
from rfray.spec.trial import Trial, epochs_of_a_pass
from rfray.training.distributed import Group

SCHEDULES: dict[str, Mapping[str, Any]] = {
    "cosine": {"sched": "cosine"},
    "poly": {"sched": "poly"},
    "tanh": {"sched": "tanh"},
    "step": {"sched": "step", "decay_rate": 0.1},
    "constant": {"sched": "step", "decay_rate": 1.0},
}
"""Name -> arguments of timm's create_scheduler_v2. `step` falls to a tenth after one and after two
thirds of the steps."""


@dataclass(frozen=True)
class TrialData:
    """The images of one trial."""

    train: Images
    val: Images
    augmentations: Mapping[str, PolicySpec]
    """The sweep's own policies."""
    probe: Path | None = None
    """The weights that a trial with `head: probe` starts from."""
    training_images: int = 0
    """How many images train and val of the sweep have, where some of them take no part here; 0: none besides these."""

    @property
    def class_weights(self) -> np.ndarray:
        """(2,) float32: the weight of each class in the loss, as scikit-learn's `balanced`."""
        return (len(self.train) / (2 * np.bincount(self.train.labels, minlength=2))).astype(np.float32)


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: a row of history.csv, and the best epoch so far."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's batches (over whole batches where several processes train)."""
    score: float | None
    """The val metric after this epoch, in [0, 1]; None where it is undefined."""
    best_score: float | None
    best_epoch: int | None
    lr: float
    """Learning rate at the end of the epoch."""
    seconds: float
    """Duration of the epoch with its validation."""
    images_per_second: float
    """Train images per second, without validation."""
    wait_share: float
    """Share of the training time in which the model waited for images, in [0, 1]."""
    ended: float
    """Seconds since 1970 at the end of validation. They put the epochs of all trials in order."""


@dataclass(frozen=True)
class Hooks:
    """Functions of the caller that training calls on its way."""

    on_epoch: Callable[[Epoch], None]
    """Called after an epoch's files are written, and with the epoch that a resumed trial continues from.

    May raise to end the trial. In a group, only the first process calls it.
    """
    on_micro_batch: Callable[[int], None] = lambda size: None
    """Called with the new micro-batch size after the old one did not fit into memory."""
    on_damage: Callable[[str], None] = lambda what: None
    """Called with a sentence that names a damaged file and what happens to the trial."""
    before_writing: Callable[[], None] = lambda: None
    """Called before an epoch's files are written. Raises where another process owns the folder by now."""
    time_left: Callable[[], float] | None = None
    """Seconds until the trial has to end, asked for between batches. An epoch that would last longer is shortened, so
    that there is time for its validation. If there is no time for one batch, the trial ends without that epoch."""

    def ends_within(self, seconds: float, group: Group) -> bool:
        """Whether the time ends so soon, by the clock of the group's first process."""
        return self.time_left is not None and bool(group.broadcast(self.time_left() <= seconds))


class Learner:
    """What training changes, and what changes it."""

    def __init__(
        self,
        trial: Trial,
        data: TrialData,
        hooks: Hooks,
        threads: int,
        micro_batch: int | None,
        group: Group,
        state: Mapping[str, Any] | None,
    ) -> None:
        """At the start of the trial, or at the `state` that `state_dict` returned.

        Raises TrialError where the model can't be built, or a batch has too few images for the group.
        """
        self.trial, self.data, self.hooks, self.group = trial, data, hooks, group
        self.epochs_of_a_pass = epochs_of_a_pass(
            data.training_images or len(data.train) + len(data.val), trial.epoch_images
        )
        images, self.mixup = len(data.train) // self.epochs_of_a_pass, None
        count, what = min(trial.batch_size, images), "images"
        if trial.mixup or trial.cutmix:
            self.mixup = Mixup(trial.mixup, trial.cutmix, label_smoothing=trial.label_smoothing, num_classes=2)
            count, what = count // 2, "pairs of images (mixup, cutmix)"
        if count < group.size:
            raise TrialError(f"a batch has {count} {what}, too few for {group.size} workers, which share it")
        seed_everything(trial.seed, 0, group)
        self.device, self.dtype = device_and_type(trial.precision)
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        model, self.normalise = build_model(trial, load_pretrained=state is None and data.probe is None)
        if state is None and data.probe is not None:
            load_weights(data.probe, model)
        self.model: nn.Module = model.to(self.device)
        if group.size > 1 and self.device.type == "cuda":
            # over the whole batch; on CPUs, where torch can't, every process normalises over its own share
            self.model = convert_sync_batchnorm(self.model)
        self.optimizer = make_optimizer(trial, self.model)
        self.steps_per_epoch = max(1, images // trial.batch_size)
        self.schedule = make_schedule(trial, self.optimizer, trial.epochs * self.epochs_of_a_pass, self.steps_per_epoch)
        self.ema = ModelEmaV3(self.model, decay=trial.ema, use_warmup=True) if trial.ema else None
        # the model with its present weights, or with their exponential moving average where the trial asks for it
        self.current: nn.Module = self.model if self.ema is None else self.ema.module
        # stochastic weight averaging (Izmailov et al. 2018): the mean of `current` at the ends of all epochs so far
        self.swa = AveragedModel(self.model, use_buffers=True) if trial.swa != "none" else None
        self.validation_seconds: float | None = None  # duration of the last one in this process
        self.last: Epoch | None = None
        self.history: list[dict[str, float | None]] = []  # the rows of history.csv
        self.best_files: dict[str, str] = {}  # name -> SHA-256 of the best epoch's files, to find damaged ones
        parts = {"model": self.model, "swa": self.swa, "optimizer": self.optimizer, "ema": self.ema and self.current}
        self._parts: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
        if state is not None:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.last, self.history, self.best_files = Epoch(**state["last"]), state["history"], state["best_files"]
        # training runs through it: DDP begins with the first process's weights, and averages gradients over the group
        self.wrapped = self.model
        if group.size > 1:
            self.wrapped = DistributedDataParallel(self.model, broadcast_buffers=False, find_unused_parameters=True)
        # an augmentation for each thread that makes batches
        self.policies = [build_policy(trial.augmentation, data.augmentations, trial.image_size) for _ in range(threads)]
        # images that this process computes at once: gradients accumulate over the micro-batches of a batch
        self.micro_batch = min(micro_batch or trial.batch_size, trial.batch_size)
        self.class_weights = data.class_weights if trial.class_balance == "weights" else None

    def state_dict(self) -> dict[str, Any]:
        """All that the learner needs to continue exactly from here: tensors and numbers."""
        assert self.last is not None
        progress = {"last": asdict(self.last), "history": self.history, "best_files": self.best_files}
        return {name: part.state_dict() for name, part in self._parts.items()} | progress


def seed_everything(seed: int, epoch: int, group: Group) -> None:
    """Seeds the global generators of torch (weights, dropout, drop path) and numpy (timm's mixup) for one epoch.

    In a group, all processes share numpy's seed. They share torch's only for `epoch` 0, when the weights are drawn.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed((state + group.rank) % 2**32 if epoch else state)
    np.random.seed(state)


def optimizer_names() -> list[str]:
    """The optimizers of timm that need nothing but torch and a plain gradient."""
    return [str(name) for name in list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian"])]


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
    schedule: Scheduler = create_scheduler_v2(
        optimizer,
        num_epochs=epochs,
        decay_epochs=epochs / 3,  # timm counts in steps
        warmup_epochs=trial.warmup * epochs,  # timm multiplies it by the steps
        warmup_lr=trial.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **SCHEDULES[trial.schedule],
    )[0]
    return schedule

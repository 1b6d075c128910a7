"""a trial, its images and maybe a saved state -> `Learner`: model, optimizer and schedule, ready for an epoch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rfray.data.augment import PolicySpec, build_policy
from rfray.data.images import Images
from rfray.errors import TrialError
from rfray.models.build import build_model
from rfray.models.inference import device_and_type, load_weights
from rfray.spec.trial import Trial, epochs_of_a_pass
from rfray.training.distributed import Group
from rfray.training.optim import make_optimizer, make_schedule


@dataclass(frozen=True)
class TrialData:
    """The images of one trial."""

    train: Images
    val: Images
    augmentations: Mapping[str, PolicySpec]
    """The sweep's own policies."""
    probe: Path | None = None
    """The weights that a trial with `head: probe` starts from."""

    def epochs_of_a_pass(self, trial: Trial) -> int:
        """Number of epochs, each with a validation, in one pass over the train images."""
        return epochs_of_a_pass(len(self.train) + len(self.val), trial.epoch_images)


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
    """WorkerShare of the training time in which the model waited for images, in [0, 1]."""
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
        group: Group,
        threads: int,
        micro_batch: int | None,
        state: Mapping[str, Any] | None,
    ) -> None:
        """At the start of the trial, or at the `state` that `state_dict` returned.

        Raises TrialError where the model can't be built, or a batch has too few images for the group.
        """
        self.trial, self.data, self.group = trial, data, group
        mixes, epochs = trial.mixup or trial.cutmix, data.epochs_of_a_pass(trial)
        images = len(data.train) // epochs
        _check_shares(min(trial.batch_size, images), bool(mixes), group)
        self.mixup = (
            Mixup(trial.mixup, trial.cutmix, label_smoothing=trial.label_smoothing, num_classes=2) if mixes else None
        )
        seed_everything(trial.seed, 0, group)
        self.device, self.dtype = device_and_type(trial.precision)
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        model, self.normalise = build_model(trial, load_pretrained=state is None and data.probe is None)
        if state is None and data.probe is not None:
            load_weights(data.probe, model)
        self.model: nn.Module = group.sync_batch_norm(model.to(self.device))
        self.optimizer = make_optimizer(trial, self.model)
        self.steps_per_epoch = max(1, images // trial.batch_size)
        self.schedule = make_schedule(trial, self.optimizer, trial.epochs * epochs, self.steps_per_epoch)
        self.ema = ModelEmaV3(self.model, decay=trial.ema, use_warmup=True) if trial.ema else None
        # stochastic weight averaging (Izmailov et al. 2018): the mean of `current` at the ends of all epochs so far
        self.swa = AveragedModel(self.model, use_buffers=True) if trial.swa != "none" else None
        self.validation_seconds: float | None = None  # duration of the last one in this process
        self.last: Epoch | None = None
        self.history: list[dict[str, float | None]] = []  # the rows of history.csv
        self.best_files: dict[str, str] = {}  # name -> SHA-256 of the best epoch's files, to find damaged ones
        if state is not None:
            for name, part in self._stateful().items():
                part.load_state_dict(state[name])
            self.last, self.history, self.best_files = Epoch(**state["last"]), state["history"], state["best_files"]
        # in a group, the model in DDP: training runs through it
        self.wrapped = group.wrap(self.model)
        # an augmentation for each thread that makes batches
        self.policies = [build_policy(trial.augmentation, data.augmentations, trial.image_size) for _ in range(threads)]
        # images that this process computes at once: gradients accumulate over the micro-batches of a batch
        self.micro_batch = min(micro_batch or trial.batch_size, trial.batch_size)
        self.class_weights: np.ndarray | None = None  # (2,) float32, as scikit-learn's `balanced`
        if trial.class_balance == "weights":
            counts = np.bincount(data.train.labels, minlength=2)
            self.class_weights = (len(data.train) / (2 * counts)).astype(np.float32)

    @property
    def current(self) -> nn.Module:
        """The model with its present weights, or with their exponential moving average where the trial asks for it."""
        return self.ema.module if self.ema is not None else self.model

    def state_dict(self) -> dict[str, Any]:
        """All that the learner needs to continue exactly from here: tensors and numbers."""
        assert self.last is not None
        progress = {"last": asdict(self.last), "history": self.history, "best_files": self.best_files}
        return {name: part.state_dict() for name, part in self._stateful().items()} | progress

    def _stateful(self) -> dict[str, Any]:
        parts = {"model": self.model, "swa": self.swa, "optimizer": self.optimizer}
        parts["ema"] = self.ema and self.ema.module
        return {name: part for name, part in parts.items() if part is not None}


def seed_everything(seed: int, epoch: int, group: Group) -> None:
    """Seeds the global generators of torch (weights, dropout, drop path) and numpy (timm's mixup) for one epoch.

    In a group, all processes share numpy's seed. They share torch's only for `epoch` 0, when the weights are drawn.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed((state + group.rank) % 2**32 if epoch else state)
    np.random.seed(state)


def _check_shares(batch: int, in_pairs: bool, group: Group) -> None:
    """Raises TrialError where a process of the group would have no image of a batch."""
    count, what = (batch // 2, "pairs of images (mixup, cutmix)") if in_pairs else (batch, "images")
    if count < group.size:
        raise TrialError(f"a batch has {count} {what}, too few for {group.size} workers: each takes a share of it")

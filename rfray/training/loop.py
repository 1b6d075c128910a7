"""trial + images -> best.safetensors, predictions-val.parquet, history.csv, state.pt: what one trial does.

After every epoch all of it is on disk, in an order that a later start can make whole again, so that a trial that is
killed at any moment goes on from its last epoch.

Several processes may train one trial together, a `Group`: each takes its share of every batch, they average the
gradients, and the first of them writes. It comes to the same as in one process, but for what chance draws
(augmentation, dropout) and for batch normalisation on CPUs.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rfray.data.augment import Policy, PolicySpec, build_policy
from rfray.data.batches import WaitTime, WorkerShare, epoch_order, train_batches
from rfray.data.images import Images
from rfray.errors import GroupMemoryError, TrialError
from rfray.models.build import Normalisation, build_model
from rfray.models.inference import Detector, device_and_type, load_weights, save_weights, views_of
from rfray.models.memory import give_back, is_out_of_memory
from rfray.spec.trial import Trial, epochs_of_a_pass
from rfray.stats.metrics import metric
from rfray.stats.paired_tests import improves_auc
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.files import file_digest
from rfray.store.run_dir import TrialDir
from rfray.training.checkpoint import read_state, write_history, write_state
from rfray.training.distributed import ALONE, Group
from rfray.training.optim import make_optimizer, make_schedule


@dataclass(frozen=True)
class TrialData:
    """What a trial learns from and is judged on."""

    train: Images
    val: Images
    augmentations: Mapping[str, PolicySpec]
    """The sweep's own policies."""
    probe: Path | None = None
    """The weights that a trial with `head: probe` starts from."""

    def epochs_of_a_pass(self, trial: Trial) -> int:
        """How often the trial is judged in a pass over the train images."""
        return epochs_of_a_pass(len(self.train) + len(self.val), trial.epoch_images)


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's batches, whole ones where several processes train."""
    score: float | None
    """The val metric after this epoch, in [0, 1]; None where it is undefined."""
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
    ended: float
    """Seconds since 1970: when the epoch was judged, by which the epochs of all trials can be put in order."""


@dataclass(frozen=True)
class Judged:
    """What a trial says of val after an epoch."""

    predictions: Predictions
    flip: bool
    """Whether the mirror images were looked at, too."""
    model: nn.Module
    """What was judged."""


@dataclass(frozen=True)
class Hooks:
    """What a trial tells, and asks of, whoever started it."""

    on_epoch: Callable[[Epoch], None]
    """Called once an epoch, when its files are written, and with the epoch that a trial goes on from.

    May raise to end the trial early. In a group, the first process alone calls it.
    """
    on_micro_batch: Callable[[int], None] = lambda size: None
    """Called with how many images are computed at once from now on, because more did not fit into memory."""
    on_damage: Callable[[str], None] = lambda what: None
    """Called with a sentence that names a damaged file and says what becomes of the trial."""
    before_writing: Callable[[], None] = lambda: None
    """Called before an epoch's files are written; raises where the folder is no longer this process's to write."""
    time_left: Callable[[], float] | None = None
    """Asked between two batches: seconds until the trial has to end. An epoch that would last longer is shortened, so
    that what it has learned is judged in time. One without time for that is given up, and the trial ends with what it
    has; where that is nothing, its folder stays as that of a trial that has not begun."""


class OutOfTimeError(Exception):
    """The time that there was has ended in the middle of an epoch."""


@dataclass
class Learner:
    """Everything that changes while a trial trains, and what changes it."""

    group: Group
    model: nn.Module
    trained: nn.Module
    """The model, or what it is trained through in a group."""
    average: ModelEmaV3 | None
    swa: AveragedModel | None
    """The mean of what was `current` after each epoch so far."""
    micro_batch: int
    """Images that this process computes at once; a batch's gradients are accumulated over as many as it takes."""
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    normalise: Normalisation
    class_weights: np.ndarray | None
    """(2,) float32, or None for 1 each."""
    label_smoothing: float
    mix: Mixup | None
    policies: list[Policy | None]
    """The augmentation, once for each thread that makes batches."""
    device: torch.device
    dtype: torch.dtype
    history: list[dict[str, float | None]]
    """The rows of history.csv."""
    best_files: dict[str, str]
    """Name -> SHA-256 of the best epoch's files, by which damage is noticed."""
    judging: float | None = None
    """Seconds that it took to judge the epoch before; None where this process has not judged one yet."""

    @property
    def current(self) -> nn.Module:
        """The model as it is now: the one averaged over steps where there is one."""
        return self.average.module if self.average is not None else self.model


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
    """Trains until the last epoch, or until `patience` runs out; goes on from the state in `out` where there is one.

    `threads` is the number of CPU threads for the model, and of those that make batches. `micro_batch` is how many
    images to compute at once, where a whole batch is known not to fit into memory; it is halved when they don't.
    Every process of a `group` calls it with the same arguments.
    Raises TrialError: the model can't be built, the loss is not finite, the val metric is undefined throughout,
    not even one image fits into memory. Raises DiskFullError. In a group also GroupMemoryError: images did not fit
    into a process's memory, and all have to begin again; and GroupStoppedError where the first process has raised.
    """
    torch.set_num_threads(threads)
    gc.freeze()  # what is there already, modules above all, need not be searched when the trial gives its memory back
    learner = None
    try:
        learner, start = _prepare(trial, data, out, threads, micro_batch, hooks.on_damage, group)
        last = start
        if last is not None:
            # say again how it stood: who was told may have died, or this process before it told
            group.first(partial(hooks.on_epoch, last))
        for epoch in range((start.epoch if start else 0) + 1, trial.epochs * data.epochs_of_a_pass(trial) + 1):
            if last is not None and _out_of_patience(trial, last):
                break
            try:
                last = _one_epoch(learner, trial, data, out, val_metric, epoch, last, hooks)
            except OutOfTimeError:
                return
            group.first(partial(hooks.on_epoch, last))
        if last is None or last.best_epoch is None:
            raise TrialError(f"the val metric {val_metric} is undefined in every epoch")
    finally:
        # the process lives on for the next trial: nothing of this one may stay in memory
        learner = None
        give_back()


def _prepare(
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    threads: int,
    micro_batch: int | None,
    on_damage: Callable[[str], None],
    group: Group,
) -> tuple[Learner, Epoch | None]:
    _seed_everything(trial.seed, 0, group)
    device, dtype = device_and_type(trial.precision)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    mix = _mix(trial)
    _check_shares(trial, data, group, in_pairs=mix is not None)
    # the first alone reads it, so that all go on from the same; it travels on the CPU
    state = _whole_state(out, device if group.size == 1 else "cpu", on_damage) if group.is_first else None
    state = group.of_first(state)
    model, normalise = build_model(trial, load_pretrained=state is None and data.probe is None)
    if state is None and data.probe is not None:
        load_weights(data.probe, model)
    model = group.with_batch_norm(model.to(device))
    optimizer = make_optimizer(trial, model)
    average = ModelEmaV3(model, decay=trial.ema, use_warmup=True) if trial.ema else None
    learner = Learner(
        group=group,
        model=model,
        trained=model,
        average=average,
        swa=AveragedModel(model, use_buffers=True) if trial.swa != "none" else None,
        micro_batch=min(micro_batch or trial.batch_size, trial.batch_size),
        optimizer=optimizer,
        schedule=make_schedule(
            trial, optimizer, trial.epochs * data.epochs_of_a_pass(trial), _steps_per_epoch(trial, data)
        ),
        normalise=normalise,
        class_weights=_class_weights(trial, data.train.labels),
        label_smoothing=trial.label_smoothing,
        mix=mix,
        policies=[build_policy(trial.augmentation, data.augmentations, trial.image_size) for _ in range(threads)],
        device=device,
        dtype=dtype,
        history=state["history"] if state is not None else [],
        best_files=state["best_files"] if state is not None else {},
    )
    last = _restore(learner, state) if state is not None else None
    learner.trained = group.wrapped(model)
    # the best epoch's files come after the state, so that they may be missing or half there
    judged = _judge(learner, trial, data.val) if last and last.best_epoch == last.epoch else None

    def write() -> None:
        if last is None:
            out.history_file.unlink(missing_ok=True)
            return
        write_history(out, learner.history)
        if judged is not None:
            _write_best(learner, trial, judged, out, last)

    group.first(write)
    return learner, last


def _check_shares(trial: Trial, data: TrialData, group: Group, in_pairs: bool) -> None:
    """Raises TrialError where some of the group would have no image."""
    whole = min(trial.batch_size, _images_per_epoch(trial, data)) // (2 if in_pairs else 1)
    if whole < group.size:
        what = "pairs of images (mixup, cutmix)" if in_pairs else "images"
        raise TrialError(f"a batch has {whole} {what}, too few for {group.size} workers: each takes a share of it")


def _one_epoch(
    learner: Learner,
    trial: Trial,
    data: TrialData,
    out: TrialDir,
    val_metric: str,
    epoch: int,
    last: Epoch | None,
    hooks: Hooks,
) -> Epoch:
    began = time.perf_counter()
    group = learner.group
    _seed_everything(trial.seed, epoch, group)
    wait = WaitTime()
    train_loss, images = _learn(learner, trial, data, epoch, wait, hooks)
    learned = time.perf_counter() - began

    def check() -> None:
        # the processes of a group may have different numbers of batches to judge
        if group.size == 1 and _ends_within(0, group, hooks):
            raise OutOfTimeError

    judged = _judge(learner, trial, data.val, check)
    learner.judging = time.perf_counter() - began - learned
    # decisions follow from it, the same ones everywhere
    score = group.of_first(metric(val_metric, judged.predictions))
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
        images_per_second=images / learned,
        wait_share=wait.seconds / learned,
        ended=time.time(),
    )

    def write() -> None:
        hooks.before_writing()
        learner.history.append(_row(record, val_metric))
        write_history(out, learner.history)
        _write_state(learner, out, record)
        if better:
            _write_best(learner, trial, judged, out, record)

    group.first(write)
    return record


def _learn(
    learner: Learner, trial: Trial, data: TrialData, epoch: int, wait: WaitTime, hooks: Hooks
) -> tuple[float, int]:
    """Moves the model through one epoch, or as much of it as there is time for; mean loss, and how many images it saw.

    Raises TrialError where the loss is not finite, OutOfTimeError where there is time for nothing.
    """
    began, steps_done, images_seen = time.perf_counter(), 0, 0
    model, device, group = learner.model, learner.device, learner.group
    model.train()
    balanced = trial.class_balance == "sampling"
    order = epoch_order(data.train.labels, balanced, trial.seed, epoch, data.epochs_of_a_pass(trial))
    steps = _steps_per_epoch(trial, data)
    total = torch.zeros((), device=device)
    # timm mixes an image with its mirror place in the batch
    share = WorkerShare(group.rank, group.size, in_pairs=learner.mix is not None)
    batches = train_batches(
        data.train, order, trial.batch_size, learner.policies, (trial.seed, epoch), device.type == "cuda", wait, share
    )
    for number, (pixels, labels) in enumerate(batches):
        if _ends_within(_seconds_to_judge(learner, trial, data, images_seen, began), group, hooks):
            if not images_seen:
                raise OutOfTimeError
            break
        learner.schedule.step_update((epoch - 1) * steps + number)
        images = learner.normalise(pixels.to(device, non_blocking=True))  # (B, 3, S, S)
        targets = labels.to(device, non_blocking=True)  # (B,), or (B, 2) once mixed
        if learner.mix is not None:
            images, targets = learner.mix(images, targets)
        whole = data.train.labels[order[number * trial.batch_size : (number + 1) * trial.batch_size]]
        if learner.mix is not None:
            whole = whole[: len(whole) // 2 * 2]
        steps_done, images_seen = steps_done + 1, images_seen + len(whole)
        total += _backward(learner, images, targets, whole, hooks)
        if trial.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), trial.clip_grad)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        if learner.average is not None:
            learner.average.update(model, step=(epoch - 1) * steps + number)
    for judged in (model, *([] if learner.average is None else [learner.average.module])):
        group.even_out(judged.buffers())
    if learner.swa is not None:
        learner.swa.update_parameters(learner.current)
    mean = float(group.sum(total)) / steps_done
    if not math.isfinite(mean):
        raise TrialError(f"the loss is {mean} in epoch {epoch} (lr {trial.lr:g}, {trial.optimizer})")
    return mean, images_seen


def _ends_within(seconds: float, group: Group, hooks: Hooks) -> bool:
    """Whether the time of the group's first process ends so soon: all of the group go by that."""
    return hooks.time_left is not None and bool(group.of_first(hooks.time_left() <= seconds))


def _seconds_to_judge(learner: Learner, trial: Trial, data: TrialData, images_seen: int, began: float) -> float:
    """What judging took the last time, or else at the most takes: an image less than to learn from it."""
    if learner.judging is not None:
        return 1.25 * learner.judging
    if not images_seen:
        return 0.0
    times = 2 if trial.swa == "auto" else 1
    return times * len(data.val) * (time.perf_counter() - began) / images_seen


def _backward(
    learner: Learner, images: torch.Tensor, targets: torch.Tensor, whole: np.ndarray, hooks: Hooks
) -> torch.Tensor:
    """Adds a batch's gradients to the model's; this share's part of its mean loss.

    `images` are (B, 3, S, S) float32, `targets` (B,) labels or (B, 2) shares; `whole` are the labels of the batch that
    they are a share of. Halves the micro-batch until it fits into memory; in a group, which can't do that by itself in
    the middle of a batch, GroupMemoryError is raised then. Raises TrialError where not even one image fits.
    """
    while True:
        try:
            return _accumulate(learner, images, targets, whole)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
            if learner.micro_batch == 1:
                raise TrialError(f"out of memory with one image at a time: {said}") from None
        learner.optimizer.zero_grad()
        give_back()
        learner.micro_batch = max(1, min(learner.micro_batch, len(images)) // 2)
        hooks.on_micro_batch(learner.micro_batch)
        if learner.group.size > 1:
            raise GroupMemoryError(f"out of memory in worker {learner.group.rank}: {said}")


def _accumulate(learner: Learner, images: torch.Tensor, targets: torch.Tensor, whole: np.ndarray) -> torch.Tensor:
    # the mean over the whole batch: each part's sum over what all of it weighs
    mixed = targets.ndim == 2
    group, weights = learner.group, learner.class_weights
    weight = float(len(whole)) if weights is None or mixed else float(weights[whole].sum())
    class_weights = None if weights is None else torch.from_numpy(weights).to(images.device)
    parts = _parts(len(whole), group, mixed, learner.micro_batch)
    total = torch.zeros((), device=images.device)
    for number, (part, wanted) in enumerate(
        zip(torch.tensor_split(images, parts), torch.tensor_split(targets, parts), strict=True), start=1
    ):
        with group.averaging(learner.trained, number == parts):
            with torch.autocast(learner.device.type, learner.dtype, enabled=learner.dtype != torch.float32):
                logits = learner.trained(part)  # (b, 2)
            loss = nn.functional.cross_entropy(
                logits.float(),
                wanted,
                weight=class_weights,
                reduction="sum",
                # where images are mixed, timm has smoothed the labels on the way
                label_smoothing=0.0 if mixed else learner.label_smoothing,
            )
            loss = loss / weight
            (loss * group.size).backward()  # the gradients of the group are averaged, and are to be a sum
        total += loss.detach()
    return total


def _parts(batch: int, group: Group, in_pairs: bool, micro_batch: int) -> int:
    """Into how many parts every share of a batch is divided: the same number in all processes of a group.

    None is empty, and none larger than the micro-batch, unless both can't be had.
    """
    shares = [WorkerShare(rank, group.size, in_pairs) for rank in (0, group.size - 1)]
    largest, smallest = (len(share.of(np.arange(batch))) for share in shares)
    return min(smallest, -(-largest // micro_batch))


def _judge(learner: Learner, trial: Trial, val: Images, before_batch: Callable[[], None] = lambda: None) -> Judged:
    """What the trial would hand over now."""
    if learner.swa is None:
        return _judged(learner, learner.current, trial, val, before_batch)
    mean = _judged(learner, learner.swa.module, trial, val, before_batch)
    if trial.swa == "epochs":
        return mean
    plain = _judged(learner, learner.current, trial, val, before_batch)
    return mean if improves_auc(val.labels, plain.predictions.p_fake, mean.predictions.p_fake) else plain


def _judged(learner: Learner, model: nn.Module, trial: Trial, val: Images, before_batch: Callable[[], None]) -> Judged:
    group = learner.group
    of = Detector(model, learner.normalise, learner.device, learner.dtype, flip=trial.tta != "none")
    bounds = np.linspace(0, len(val), group.size + 1).astype(int)
    mine = val.at(slice(bounds[group.rank], bounds[group.rank + 1]))
    seen = views_of(of, mine, 2 * trial.batch_size, before_batch)
    views = np.stack([group.gather(view, bounds, learner.device) for view in seen])
    both = views.mean(axis=0)
    flip = trial.tta == "flip" or (trial.tta == "auto" and improves_auc(val.labels, views[0], both))
    try:
        return Judged(Predictions(val.ids, val.labels, both if flip else views[0]), flip, model)
    except ValueError as error:
        raise TrialError(f"the model's outputs are not finite (lr {trial.lr:g}): {error}") from error


def _seed_everything(seed: int, epoch: int, group: Group) -> None:
    """The global generators: torch's (weights, dropout, drop path) and numpy's (timm's mixup).

    In a group, numpy's is the same in all processes, and torch's each one's own once the weights are made.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed((state + group.rank) % 2**32 if epoch else state)
    np.random.seed(state)


def _steps_per_epoch(trial: Trial, data: TrialData) -> int:
    return max(1, _images_per_epoch(trial, data) // trial.batch_size)


def _images_per_epoch(trial: Trial, data: TrialData) -> int:
    return len(data.train) // data.epochs_of_a_pass(trial)


def _class_weights(trial: Trial, labels: np.ndarray) -> np.ndarray | None:
    if trial.class_balance != "weights":
        return None
    return (len(labels) / (2 * np.bincount(labels, minlength=2))).astype(np.float32)


def _mix(trial: Trial) -> Mixup | None:
    if not (trial.mixup or trial.cutmix):
        return None
    return Mixup(
        mixup_alpha=trial.mixup, cutmix_alpha=trial.cutmix, label_smoothing=trial.label_smoothing, num_classes=2
    )


def _out_of_patience(trial: Trial, last: Epoch) -> bool:
    return bool(trial.patience) and last.epoch - (last.best_epoch or 0) >= trial.patience


def _restore(learner: Learner, state: dict[str, Any]) -> Epoch:
    learner.model.load_state_dict(state["model"])
    if learner.average is not None and state["average"] is not None:
        learner.average.module.load_state_dict(state["average"])
    if learner.swa is not None and state["swa"] is not None:
        learner.swa.load_state_dict(state["swa"])
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
        "swa": learner.swa.state_dict() if learner.swa is not None else None,
        "optimizer": learner.optimizer.state_dict(),
        "history": learner.history,
        "best_files": learner.best_files,
    }
    write_state(out, record.epoch, state)


def _row(record: Epoch, val_metric: str) -> dict[str, float | None]:
    row = asdict(record)
    row[f"val_{val_metric}"] = row.pop("score")
    del row["best_score"], row["best_epoch"]
    return row


def _write_best(learner: Learner, trial: Trial, judged: Judged, out: TrialDir, record: Epoch) -> None:
    origin = {"epoch": str(record.best_epoch), "score": repr(record.best_score), "trial": trial.model_dump_json()}
    origin["tta"] = "flip" if judged.flip else "none"
    save_weights(out.weights_file, judged.model, origin)
    weights = file_digest(out.weights_file)
    val = out.predictions_file("val")
    write_predictions(val, judged.predictions, {**origin, "weights": weights})
    learner.best_files = {out.weights_file.name: weights, val.name: file_digest(val)}


def _whole_state(out: TrialDir, device: torch.device | str, on_damage: Callable[[str], None]) -> dict[str, Any] | None:
    """The state to go on from; None where there is none, or the best epoch's files that belong to it are damaged."""
    state = read_state(out, device, on_damage)
    if state is None or state["epoch"]["best_epoch"] == state["epoch"]["epoch"]:
        return state
    for name, digest in state["best_files"].items():
        file = out.path / name
        if not file.exists() or file_digest(file) != digest:
            on_damage(f"{file} is damaged: its content does not match its digest; the trial starts over")
            return None
    return state

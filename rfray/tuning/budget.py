"""`search.budget` + budget.json + how long epochs took -> how much time is left, and whether an epoch fits into it."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil
from statistics import mean
from threading import Event, Thread
from typing import Any

from ray.tune import Stopper

from rfray.cluster.ray_internals import free_groups
from rfray.cluster.slots import Packing, TrialSlots
from rfray.errors import RunError, SweepError
from rfray.progress.metric_keys import EPOCH
from rfray.spec.budget_defaults import Budget
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range, Trial, epochs_of_a_pass
from rfray.store.files import write_whole
from rfray.store.records import Spent, find_record, write_record
from rfray.store.run_dir import RunDir
from rfray.tuning.callbacks import SweepCallback
from rfray.tuning.trainable import trial_of

SHUTDOWN_SECONDS = 6.0
"""Seconds before the end of a budget by the clock at which the last trial stops. Measured on two cores: Ray Tune then
ends the trials' processes, records are written, left-over files are removed, and Ray shuts down."""
FOR_FINALISTS = 0.4
"""Share of a budget that the search leaves for training finalists without each source (our choice: of three sources
two are left to train without, each as long as the trial was in the search; with less, they have fewer epochs)."""
RECORD_EVERY = 3.0
"""Seconds between two records of what was used: a start that is killed loses no more than that (our choice)."""
RECENT = 5
"""So many of the last epochs of a backbone are averaged, as the machine may have become busier (our choice)."""
SMALLEST_PART = 0.25
"""The smallest part of an epoch that a trial goes on for, where the clock would cut the epoch short (our choice)."""
FORWARD = 1 / 3
"""To predict an image takes so much of the time to learn from it: the backward pass takes twice the forward one."""
MIN_IMAGES_ON_CPU, MIN_IMAGES_ON_GPU = 1_000, 5_000
"""Fewest images of an epoch (our choice): to begin, judge and write an epoch takes seconds, however short it is."""
ROOM = 3
"""A budget that was used up by starting should be so many times as large (our choice): another start, and as long again
for training."""
GRACE = 1.5
"""Seconds that trials have to cut their epoch short once the budget is used up (our choice). A process that is still
importing torch, or is in the middle of a large batch, is ended from outside: its last whole epoch is on the disk."""

Kind = tuple[str, int]
"""Backbone and image size: with the same ones, epochs take about as long."""


class Account:
    """What all starts of a sweep have used of its budget, by the clock and of GPUs."""

    def __init__(self, run: RunDir, budget: Budget, began: float) -> None:
        """`began` is when this command's process started, in seconds since 1970.

        Raises RunError where budget.json is damaged.
        """
        self._run, self._budget, self._began = run, budget, began
        self._earlier = find_record(run.budget_file, Spent, run.mirror) or Spent()
        self._reserved = 0.0  # seconds that trials can't have yet
        self._released = 0.0  # GPU seconds of trials that hold no GPU any more
        self._held: dict[str, tuple[float, float]] = {}  # trial -> since when, how many GPUs

    @property
    def deadline(self) -> float | None:
        """When trials must have stopped, in seconds since 1970; None for a budget of GPUs."""
        if self._budget.of_gpus:
            return None
        return self._began + self._budget.seconds - self._earlier.clock - SHUTDOWN_SECONDS - self._reserved

    def reserve(self, share: float) -> None:
        """Keeps this share of the budget back from trials; 0 lets them have it."""
        self._reserved = share * self._budget.seconds
        if not self.is_over():
            self._run.mirror.remove([self._run.budget_over_file])

    def spent(self) -> Spent:
        """What all starts have used until now."""
        now = time.time()
        in_use = sum((now - since) * gpus for since, gpus in list(self._held.values()))
        return Spent(clock=self._earlier.clock + now - self._began, gpus=self._earlier.gpus + self._released + in_use)

    def left(self, more_gpus: float = 0.0) -> float:
        """Seconds until the budget is used up, if `more_gpus` GPUs are used besides those in use now."""
        if (deadline := self.deadline) is not None:
            return deadline - time.time()
        left = self._budget.seconds - self._reserved - self.spent().gpus
        gpus = more_gpus + sum(gpus for _, gpus in list(self._held.values()))
        return left / gpus if gpus else left

    def is_over(self) -> bool:
        """Whether trials have to stop."""
        return self.left() <= 0

    def hold(self, trial: str, gpus: float) -> None:
        """The trial with this id has got so many GPUs."""
        self._held.setdefault(trial, (time.time(), gpus))

    def release(self, trial: str) -> None:
        """The trial with this id holds no GPU any more."""
        since, gpus = self._held.pop(trial, (0.0, 0.0))
        self._released += (time.time() - since) * gpus

    def record(self) -> None:
        """Writes budget.json, and, once a budget of GPUs is used up, the file by which trials know it."""
        write_record(self._run.budget_file, self.spent(), self._run.mirror)
        if self._budget.of_gpus and self.is_over() and not self._run.budget_over_file.exists():
            write_whole(self._run.budget_over_file, "")
            self._run.mirror.send(self._run.budget_over_file)
            if not self.is_over():  # another thread has let trials have the rest
                self._run.mirror.remove([self._run.budget_over_file])


class Forecast:
    """How long epochs and starts of trials are expected to take, by backbone and image size; 0 s where unknown."""

    def __init__(self, run: RunDir) -> None:
        """Begins with the epochs that earlier starts have recorded in the run folder."""
        self._epochs, self._starts = (defaultdict[Kind, deque[float]](partial(deque, maxlen=RECENT)) for _ in range(2))
        self._started: dict[str, float] = {}  # trial -> when, until its first epoch
        self._judged: dict[str, int] = {}  # trial -> epochs
        found: list[tuple[float, Kind, float]] = []
        for out in (*run.trials(), *run.repeats()):
            history = out.history()
            self._judged[out.id] = len(history)
            if len(history):
                kind = _kind(out.start().trial)
                found += [(ended, kind, took) for ended, took in history[["ended", "seconds"]].itertuples(index=False)]
        for _, kind, took in sorted(found):
            self._epochs[kind].append(took)

    def started(self, name: str) -> None:
        """The trial with this id has got its resources."""
        self._started[name] = time.time()

    def judged(self, name: str, trial: Trial, epoch: int, seconds: float) -> None:
        """The trial has reported an epoch that took so long; one that was started again may repeat its last."""
        is_new = epoch > self._judged.get(name, 0)
        if is_new:
            self._judged[name] = epoch
            self._epochs[_kind(trial)].append(seconds)
        if name in self._started:
            took = time.time() - self._started.pop(name) - (seconds if is_new else 0.0)
            self._starts[_kind(trial)].append(max(0.0, took))

    def seconds(self, kind: Kind, epochs: float, starts: bool = False) -> float:
        """Seconds of so many epochs, and of the time from getting resources to the first batch."""
        return epochs * mean(self._epochs[kind] or [0.0]) + (mean(self._starts[kind] or [0.0]) if starts else 0.0)


@dataclass(frozen=True)
class Meter:
    """Whether epochs of a trial still fit into what is left of the budget."""

    account: Account
    forecast: Forecast
    shares: TrialSlots
    """What each trial gets."""

    def has_time(self, trial: Trial, epochs: float = 1, runs: bool = False) -> bool:
        """Whether so many epochs of a trial are expected to end in time; one that `runs` has its resources already."""
        slot = self.shares.of(trial)
        left = self.account.left(more_gpus=0 if runs else slot.gpu * slot.workers)
        return left > 0 and left >= self.forecast.seconds(_kind(trial), epochs, starts=not runs)

    def can_go_on(self, trial: Trial, runs: bool = False) -> bool:
        """Whether a trial that has begun can use what is left: for an epoch or, by the clock, a part of one."""
        return self.has_time(trial, 1 if self.account.deadline is None else SMALLEST_PART, runs)

    def cost(self, trainings: Sequence[tuple[Trial, int]], at_once: int) -> float:
        """What trainings of so many epochs each are expected to take of the budget, with so many at once."""
        seconds = [self.forecast.seconds(_kind(trial), epochs, starts=True) for trial, epochs in trainings]
        if self.account.deadline is None:
            slots = [self.shares.of(trial) for trial, _ in trainings]
            return sum(slot.gpu * slot.workers * took for slot, took in zip(slots, seconds, strict=True))
        return max(seconds, default=0.0) * ceil(len(seconds) / at_once)

    def has_time_for_any(self, sweep: Sweep, epochs: int = 1) -> bool:
        """Whether there is time for so many epochs of the sweep's fastest backbone, as far as is known."""
        sizes = sweep.trial.choices("image_size")
        fastest = 0.0
        if not isinstance(sizes[0], Range):  # of a range not all sizes are known
            kinds = product(sweep.trial.choices("backbone"), sizes)
            fastest = min(self.forecast.seconds(kind, epochs) for kind in kinds)
        return (left := self.account.left()) > 0 and left >= fastest


class BudgetCallback(SweepCallback, Stopper):
    """Counts the GPUs that trials hold and the seconds of epochs, and says which trials stop for lack of time."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._over_since: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial stops after this epoch. One that the deadline falls into is cut short by the trial."""
        return not self._meter.can_go_on(trial_of(result["config"]), runs=True)

    def stop_all(self) -> bool:
        """Whether the budget is used up, and GRACE is over, too; Ray Tune asks ten times a second."""
        if self._over_since is None and self._meter.account.is_over():
            self._over_since = time.time()
        return self._over_since is not None and time.time() - self._over_since >= GRACE

    def on_trial_start(self, trial: Any, **info: Any) -> None:
        """Counts the trial's GPUs from now on."""
        slot = self._meter.shares.of(trial_of(trial.config))
        self._meter.account.hold(str(trial), slot.gpu * slot.workers)
        self._meter.forecast.started(str(trial))

    def on_trial_result(self, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Remembers how long the epoch took."""
        self._meter.forecast.judged(str(trial), trial_of(trial.config), result[EPOCH], result["seconds"])

    def on_step_end(self, **info: Any) -> None:
        """Ends the processes of trials that Ray Tune has just stopped: it would wait for them, for up to 15 s."""
        if self.stop_all():
            free_groups("trials")
            for trial in info["trials"]:
                self._meter.account.release(str(trial))

    def on_trial_complete(self, trial: Any, **info: Any) -> None:
        """Counts the trial's GPUs no longer."""
        self._meter.account.release(str(trial))

    on_trial_recover = on_trial_complete  # its process has died, and is started again


@contextmanager
def budget_meter(run: RunDir, sweep: Sweep, shares: TrialSlots, began: float) -> Iterator[Meter | None]:
    """The meter of a sweep with a budget; what is used is recorded as long as the block lasts. None without a budget.

    A start for which nothing is left uses nothing. `began` is as in `Account`.
    """
    if sweep.budget is None:
        yield None
        return
    run.mirror.remove([run.budget_over_file])
    account = Account(run, sweep.budget, began)
    meter = Meter(account, Forecast(run), shares)
    if account.is_over():
        yield meter
        return
    account.reserve(FOR_FINALISTS if sweep.judges_unseen and sweep.search.finalists else 0.0)
    ended = Event()

    def keep_recording() -> None:
        while not ended.wait(RECORD_EVERY):
            account.record()

    recording = Thread(target=keep_recording, daemon=True)
    recording.start()
    try:
        yield meter
    finally:
        ended.set()
        recording.join()
        account.record()
        run.mirror.remove([run.budget_over_file])


def with_short_epochs(run: RunDir, sweep: Sweep, shares: TrialSlots) -> Sweep:
    """The sweep, where it has a budget and does not give `epoch_images`, with long passes divided into epochs.

    An epoch has as many images as it is judged by: settings can be compared early, and most time is spent on training.
    Trials that there are, on other resources maybe, go on being compared: new ones have epochs as long as theirs.
    """
    if sweep.budget is None or sweep.trial.choices("epoch_images") != [0]:
        return sweep
    count = run.catalog()["part"].value_counts()
    smallest = MIN_IMAGES_ON_GPU if any(slot.gpu for slot in shares.kinds) else MIN_IMAGES_ON_CPU
    size = max(int(count["val"]), smallest)
    if epochs_of_a_pass(int(count["train"] + count["val"]), size) == 1:
        size = 0
    for out in reversed(run.trials()):
        with suppress(RunError):  # it is written anew, as the others are
            size = out.start().trial.epoch_images
    return sweep.with_trial(epoch_images=size) if size else sweep


def check_budget(file: SweepFile, shares: TrialSlots, began: float | None = None) -> None:
    """Raises SweepError for a budget of GPUs where trials get none, and one by the clock too short for a batch.

    That is known as far as time has passed since `began` (seconds since 1970; given where there is no trial yet), and
    with `resources: auto` the speed was measured.
    """
    search, budget = file.sweep.search, file.sweep.budget
    if budget is not None and budget.of_gpus and not all(slot.gpu for slot in shares.kinds):
        allowed = "a time by the clock (90s, 12m, 1.5h), as trials get no GPU here"
        raise SweepError(file.not_allowed(("search", "budget"), search.budget, allowed))
    if budget is None or budget.of_gpus or began is None:
        return
    begun, measured = time.time() - began, shares.measured if isinstance(shares, Packing) else []
    batch = min((one.micro_batch / one.images_per_second for one in measured), default=0.0)
    if budget.seconds <= begun + SHUTDOWN_SECONDS + batch:
        least = as_budget(ROOM * (begun + SHUTDOWN_SECONDS + batch))
        allowed = (
            f"more, {least} say: starting took {begun:.0f} s, ending takes {SHUTDOWN_SECONDS:.0f} s, so no epoch fits"
        )
        raise SweepError(file.not_allowed(("search", "budget"), search.budget, allowed))


def check_epoch(file: SweepFile, run: RunDir, meter: Meter, seconds: float) -> None:
    """Raises SweepError where what is left of a budget is less than the sweep's shortest epoch takes, even cut short.

    Not once a trial was judged, nor where an earlier start has used all of it up. `seconds`: what the fastest backbone
    takes to learn from an image with one thread; so many as a trial has are at most so many times as fast. With
    `resources: auto` the cluster was measured, and that counts; else nothing is known of GPUs.
    """
    slots, account, trials = meter.shares.kinds, meter.account, run.trials()
    if trials and (account.is_over() or any(out.history_file.exists() for out in trials)):
        return
    measured = meter.shares.measured if isinstance(meter.shares, Packing) else []
    if any(slot.gpu for slot in slots) and not measured:
        return
    of_gpus, spent = account.deadline is None, account.spent()
    fastest = min((1 / one.images_per_second for one in measured), default=seconds / max(one.threads for one in slots))
    seconds = fastest / max(one.workers for one in slots)
    count = run.catalog()["part"].value_counts()
    train, val = int(count["train"]), int(count["val"])
    sizes = with_short_epochs(run, file.sweep, meter.shares).trial.ends("epoch_images")
    images = train // max(epochs_of_a_pass(train + val, size) for size in sizes)
    needed = seconds * ((1 if of_gpus else SMALLEST_PART) * images + FORWARD * val)
    gpus = min(slot.gpu * slot.workers for slot in slots)
    if needed <= (left := account.left(more_gpus=gpus)):
        return
    least = ROOM * (spent.gpus + needed * gpus if of_gpus else spent.clock + SHUTDOWN_SECONDS + needed)
    shortest = "an epoch" if of_gpus else f"even {SMALLEST_PART} of an epoch"
    allowed = (
        f"more, {as_budget(least, of_gpus)} say: {shortest} of {images:,} images, judged by {val:,}, takes "
        f"at least {needed:.0f} s at {1 / seconds:.3g} images a second, measured with the fastest backbone; "
        f"{max(left, 0):.0f} s are left"
    )
    raise SweepError(file.not_allowed(("search", "budget"), file.sweep.search.budget, allowed))


def as_budget(seconds: float, of_gpus: bool = False) -> str:
    """So many seconds or a little more, as `search.budget` has them: 90s, 4m, 8gpu-m."""
    unit = "gpu-" if of_gpus else ""
    return f"{ceil(seconds)}{unit}s" if seconds <= 90 else f"{ceil(seconds / 60)}{unit}m"


def enough(run: RunDir, budget: Budget) -> str:
    """A budget with which a run whose starts have judged nothing comes to an epoch, by what they have used."""
    spent = find_record(run.budget_file, Spent, run.mirror) or Spent()
    return as_budget(ROOM * max(budget.seconds, spent.gpus if budget.of_gpus else spent.clock), budget.of_gpus)


def _kind(trial: Trial) -> Kind:
    return trial.backbone, trial.image_size

"""search.budget + budget.json + what epochs have taken -> whether there is time for another one.

The command measures: its own time by the clock, and for how long each trial has had its GPUs. A trial is told by the
scheduler's answer to each epoch that there is no time for another one. One that the end falls into is shortened where
the trial knows when that is, by the clock; else it is given up.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from statistics import mean
from threading import Event, Thread
from typing import Any

from ray.tune import Stopper

from rfray.cluster.placement_groups import free_trials
from rfray.cluster.slots import TrialSlots
from rfray.errors import SweepError
from rfray.progress.metric_keys import EPOCH
from rfray.spec.budget_defaults import Budget
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range, Trial, epochs_of_a_pass
from rfray.store.files import replace_text
from rfray.store.records import Spent, find_record, write_record
from rfray.store.run_dir import RunDir
from rfray.store.tables import read_catalog
from rfray.tuning.callbacks import SweepCallback
from rfray.tuning.strategies import planned_trials

MARGIN = 6.0
"""Seconds before the end of a budget by the clock at which the last trial stops: after it Ray Tune ends the trials'
processes, records and left-overs are brought in order, and Ray itself is shut down."""
GRACE = 1.5
"""Seconds that trials then have to give up their epoch; whoever has not (a process that is still importing torch, say,
or in the middle of a large batch) is ended from outside: its last whole epoch is on the disk."""
EVERY = 3.0
"""Seconds between two records of what was used: a killed start loses no more of it."""
REMEMBERED = 5
"""Epochs of a backbone by which the next one is foreseen: the machine may have got busier."""
WORTHWHILE = 0.25
"""The least part of an epoch that a trial goes on for, where the clock would shorten it."""
WITHOUT, WITH_GPUS = 1_000, 5_000
"""Fewest images of an epoch: of fewer there is little to be learned, and to begin, judge and write takes long."""

Kind = tuple[str, int]
"""Backbone and image size, by which epochs take alike."""


class Meter(SweepCallback):
    """Knows what was used of a budget, and what epochs take."""

    def __init__(self, run: RunDir, budget: Budget, shares: TrialSlots, began: float) -> None:
        """`began` is when the command's process did, in seconds since 1970."""
        self._run = run
        self._budget = budget
        self._shares = shares
        self._began = began
        self._earlier = find_record(run.budget_file, Spent, run.mirror) or Spent()
        self._gpus_given_back = 0.0
        self._holding: dict[str, tuple[float, float]] = {}  # trial -> since when, how many GPUs
        self._started: dict[str, float] = {}  # trial -> when, until its first epoch
        self._over_since: float | None = None
        self._seen: dict[str, int] = {}  # trial -> epochs
        self._epochs: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._starts: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._recall()

    @property
    def deadline(self) -> float | None:
        """When trials must have stopped, in seconds since 1970; None where a budget of GPUs decides."""
        if self._budget.of_gpus:
            return None
        return self._began + self._budget.seconds - self._earlier.clock - MARGIN

    @property
    def was_used_up(self) -> bool:
        """Whether earlier starts have left nothing."""
        used = self._earlier.gpus if self._budget.of_gpus else self._earlier.clock + MARGIN
        return used >= self._budget.seconds

    def spent(self) -> Spent:
        """By all starts until now."""
        now = time.time()
        held = sum((now - since) * gpus for since, gpus in list(self._holding.values()))
        return Spent(
            clock=self._earlier.clock + now - self._began, gpus=self._earlier.gpus + self._gpus_given_back + held
        )

    def is_over(self) -> bool:
        """Whether trials have to stop."""
        return self._left(0) <= 0

    def has_time(self, trial: Trial, epochs: int = 1) -> bool:
        """Whether so many epochs of a new trial are expected to end in time."""
        return self._fits(trial, epochs, runs=False)

    def can_go_on(self, trial: Trial, runs: bool = False) -> bool:
        """Whether a trial that has begun can use what is left, for an epoch or, by the clock, a part of one.

        One that `runs` has its slot already.
        """
        return self._fits(trial, 1 if self._budget.of_gpus else WORTHWHILE, runs)

    def _fits(self, trial: Trial, epochs: float, runs: bool) -> bool:
        slot, kind = self._shares.of(trial), _kind(trial)
        left = self._left(0 if runs else slot.gpu * slot.workers)
        expected = epochs * mean(self._epochs[kind]) if self._epochs[kind] else 0.0
        if not runs and self._starts[kind]:
            expected += mean(self._starts[kind])
        return left > 0 and expected <= left

    def has_time_for_any(self, sweep: Sweep, epochs: int = 1) -> bool:
        """Whether there is time for so many epochs of the sweep's quickest backbone, as far as is known."""
        sizes = sweep.trial.axes().get("image_size", sweep.trial.choices("image_size"))
        expected = 0.0
        if not isinstance(sizes, Range):  # of which not all are known
            kinds = product(sweep.trial.choices("backbone"), sizes)
            expected = min(mean(self._epochs[kind]) if self._epochs[kind] else 0.0 for kind in kinds)
        return 0 < self._left(0) >= expected * epochs

    def record(self) -> None:
        """Writes down what was used, and tells trials where that is all there was of GPUs."""
        write_record(self._run.budget_file, self.spent(), self._run.mirror)
        if self._budget.of_gpus and self.is_over() and not self._run.budget_over_file.exists():
            replace_text(self._run.budget_over_file, "")  # by which all trials know it, on whatever node
            self._run.mirror.send(self._run.budget_over_file)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial gets its slot."""
        now, slot = time.time(), self._shares.of(_setting(trial.config))
        self._started[str(trial)] = now
        self._holding.setdefault(str(trial), (now, slot.gpu * slot.workers))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch is done, or said again."""
        name, kind, now = str(trial), _kind(_setting(trial.config)), time.time()
        is_new = result[EPOCH] > self._seen.get(name, 0)
        if is_new:
            self._seen[name] = result[EPOCH]
            self._epochs[kind].append(result["seconds"])
        if name in self._started:
            took = now - self._started.pop(name) - (result["seconds"] if is_new else 0.0)
            self._starts[kind].append(max(0.0, took))

    def must_end(self) -> bool:
        """Whether trials that still run are to be ended from outside."""
        if self._over_since is None and self.is_over():
            self._over_since = time.time()
        return self._over_since is not None and time.time() - self._over_since >= GRACE

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ends the processes of trials that Ray Tune has just stopped: it would wait for them, for up to 15 s."""
        if self.must_end():
            free_trials()
            for name in list(self._holding):
                self.paused(name)

    def paused(self, name: str) -> None:
        """A trial gives its slot back."""
        since, gpus = self._holding.pop(name, (0.0, 0.0))
        self._gpus_given_back += (time.time() - since) * gpus

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended."""
        self.paused(str(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process has died."""
        self.paused(str(trial))

    def _left(self, more_gpus: float) -> float:
        """Seconds until the end by the clock; of GPUs, as long as those do that are in use, and so many more."""
        if (deadline := self.deadline) is not None:
            return deadline - time.time()
        left = self._budget.seconds - self.spent().gpus
        rate = more_gpus + sum(gpus for _, gpus in self._holding.values())
        return left / rate if rate else left

    def _recall(self) -> None:
        """Takes in what the epochs of earlier starts took."""
        found = []
        for out in (*self._run.trials(), *self._run.repeats()):
            history = out.history()
            self._seen[out.id] = len(history)
            if len(history):
                kind = _kind(out.start().trial)
                found += [(ended, kind, took) for ended, took in history[["ended", "seconds"]].itertuples(index=False)]
        for _, kind, took in sorted(found):
            self._epochs[kind].append(took)


class OutOfTime(Stopper):
    """Ends a trial for which there is no time for another epoch."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """After each epoch."""
        return not self._meter.can_go_on(_setting(result["config"]), runs=True)

    def stop_all(self) -> bool:
        """When trials have had their time to end by themselves; asked ten times a second."""
        return self._meter.must_end()

    def __reduce__(self) -> tuple[Callable[[], Stopper], tuple[()]]:
        """Pickles, for Ray's snapshot, as one that stops nothing."""
        return _Never, ()


class _Never(Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False


@contextmanager
def metered(run: RunDir, sweep: Sweep, shares: TrialSlots, began: float) -> Iterator[Meter | None]:
    """The meter of a sweep with a budget, which writes down what is used as long as the block lasts; None without one.

    A start for which nothing is left uses nothing.
    """
    budget = sweep.budget
    if budget is None:
        yield None
        return
    run.mirror.remove([run.budget_over_file])
    meter = Meter(run, budget, shares, began)
    if meter.was_used_up:
        yield meter
        return
    ended = Event()

    def record() -> None:
        while not ended.wait(EVERY):
            meter.record()

    writer = Thread(target=record, daemon=True)
    writer.start()
    try:
        yield meter
    finally:
        ended.set()
        writer.join()
        meter.record()
        run.mirror.remove([run.budget_over_file])


def paced(run: RunDir, sweep: Sweep, shares: TrialSlots) -> Sweep:
    """The sweep with a budget whose passes over many images are divided into epochs, unless it says by itself how.

    An epoch has as many images as it is judged by: settings are told apart early, and most time is spent learning.
    """
    if sweep.budget is None or sweep.trial.choices("epoch_images") != [0]:
        return sweep
    count = read_catalog(run)["part"].value_counts()
    size = max(int(count["val"]), WITH_GPUS if any(slot.gpu for slot in shares.kinds) else WITHOUT)
    if epochs_of_a_pass(int(count["train"] + count["val"]), size) == 1:
        return sweep
    return sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"epoch_images": size})})


def check_budget(file: SweepFile, shares: TrialSlots) -> None:
    """Raises SweepError for a budget of GPUs where trials get none, and one that leaves no time for finalists."""
    text, finalists, budget = file.sweep.search.budget, file.sweep.search.finalists, file.sweep.budget
    if budget is not None and finalists and planned_trials(file.sweep) is None:
        allowed = "0; or together with search.trials, as there would be new trials until the budget is used up"
        raise SweepError(file.not_allowed(("search", "finalists"), finalists, allowed))
    if budget is not None and budget.of_gpus and not all(slot.gpu for slot in shares.kinds):
        allowed = "a time by the clock (90s, 12m, 1.5h), as trials get no GPU here"
        raise SweepError(file.not_allowed(("search", "budget"), text, allowed))


def _kind(trial: Trial) -> Kind:
    return trial.backbone, trial.image_size


def _setting(config: dict[str, Any]) -> Trial:
    return Trial(**{name: value for name, value in config.items() if name != "id"})

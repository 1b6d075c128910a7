"""Ray Tune's events -> a sweep's `Account` and `Forecast`; and back: which trials must stop for lack of time."""

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper
from ray.tune.stopper import NoopStopper

from rfray.cluster.placement_groups import free_trials
from rfray.progress.metric_keys import EPOCH
from rfray.tuning.budget import Meter
from rfray.tuning.callbacks import SweepCallback
from rfray.tuning.trial_job import trial_of

GRACE = 1.5
"""Seconds that trials have to cut their epoch short once the budget is used up (our choice). A process that is still
importing torch, or is in the middle of a large batch, is ended from outside: its last whole epoch is on the disk."""


class OutOfTime(Stopper):
    """Stops each trial that has no time for another epoch, and after GRACE all that still run."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._over_since: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial stops after this epoch. One that the deadline falls into is cut short by the trial."""
        return not self._meter.can_go_on(trial_of(result["config"]), runs=True)

    def stop_all(self) -> bool:
        """Whether GRACE is over, too; Ray Tune asks ten times a second."""
        if self._over_since is None and self._meter.account.is_over():
            self._over_since = time.time()
        return self._over_since is not None and time.time() - self._over_since >= GRACE

    def __reduce__(self) -> tuple[Callable[[], Stopper], tuple[()]]:
        """Pickles, for Ray's snapshot, as a stopper that stops nothing: rfray never reads the snapshot."""
        return NoopStopper, ()


class BudgetCallback(SweepCallback):
    """Counts the GPUs that trials hold, and the seconds that their epochs take."""

    def __init__(self, meter: Meter, out_of_time: OutOfTime) -> None:
        self._meter = meter
        self._out_of_time = out_of_time

    def on_trial_start(self, trial: Any, **info: Any) -> None:
        """Counts the trial's GPUs from now on."""
        slot = self._meter.shares.of(trial_of(trial.config))
        self._meter.account.hold(str(trial), slot.gpu * slot.workers)
        self._meter.forecast.started(str(trial))

    def on_trial_result(self, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Remembers how long the epoch took."""
        self._meter.forecast.judged(str(trial), trial_of(trial.config), result[EPOCH], result["seconds"])

    def on_step_end(self, trials: list[Any], **info: Any) -> None:
        """Ends the processes of trials that Ray Tune has just stopped: it would wait for them, for up to 15 s."""
        if self._out_of_time.stop_all():
            free_trials()
            for trial in trials:
                self._meter.account.release(str(trial))

    def on_trial_complete(self, trial: Any, **info: Any) -> None:
        """Counts the trial's GPUs no longer."""
        self._meter.account.release(str(trial))

    on_trial_recover = on_trial_complete  # its process has died, and is started again

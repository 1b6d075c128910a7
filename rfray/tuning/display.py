"""Ray Tune's events -> ours, for the view of this terminal, or as lines of a job's output for one elsewhere."""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from rfray.progress.events import (
    EpochDone,
    Event,
    SweepBegan,
    TrialBegan,
    TrialEnded,
    TrialPaused,
    Warned,
    inside_job,
    print_event,
)
from rfray.progress.live import View
from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
from rfray.spec.sweep import Sweep
from rfray.spec.trial import epochs_of
from rfray.store.records import TrialResult
from rfray.tuning.callbacks import Follower


class Display(Follower):
    """Tells how the sweep goes; `ended` is told of every result once it is on disk."""

    def __init__(
        self,
        sweep: Sweep,
        planned: int | None,
        training_images: int,
        earlier: list[TrialResult],
        console: Console,
        until: float | None,
    ) -> None:
        """`planned` trials, where that is known, and `until` when, in seconds since 1970, if a budget says so."""
        self._training_images = training_images
        self._began = SweepBegan(
            name=sweep.name,
            metric=sweep.search.metric,
            planned=planned,
            until=until,
            earlier=[result.score for result in earlier],
        )
        self._axes = list(sweep.trial.axes())
        self._settings: dict[str, str] = {}
        self._warned: set[str] = set()
        self._view = View(console, "Ctrl-C stops, the same command goes on")
        self._tell: Callable[[Event], None] = print_event if inside_job() else self._view.show

    def setup(self, **info: Any) -> None:
        """Starts the live table."""
        self._tell(self._began)

    def close(self) -> None:
        """Leaves the table as it is and gives the terminal back."""
        self._view.close()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        self._settings[str(trial)] = setting = self._setting(trial)
        self._tell(TrialBegan(id=str(trial), setting=setting, epochs=epochs_of(trial.config, self._training_images)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch is done."""
        for warning in set(str(result.get(WARNINGS) or "").splitlines()) - self._warned:
            self._warned.add(warning)
            self._tell(Warned(text=warning))
        if self._settings.get(str(trial)) != self._setting(trial):  # pbt has changed it
            self.on_trial_start(iteration, trials, trial)
        self._tell(
            EpochDone(
                id=str(trial),
                epoch=result[EPOCH],
                score=result[SCORE],
                best=result.get("best_score"),
                images_per_second=result["images_per_second"],
            )
        )

    def paused(self, name: str) -> None:
        """A trial has paused."""
        self._tell(TrialPaused(id=name))

    def ended(self, result: TrialResult) -> None:
        """A trial's result is on disk."""
        self._tell(
            TrialEnded(
                id=result.id,
                reason=result.reason,
                score=result.score,
                best_epoch=result.best_epoch,
                epochs=result.epochs,
            )
        )

    def _setting(self, trial: Any) -> str:
        return " ".join(f"{axis}={_short(trial.config[axis])}" for axis in self._axes)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).rsplit("/", 1)[-1]

"""Ray Tune's events -> rfray's own, shown in this terminal, or printed as lines where the command runs as a job."""

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
from rfray.tuning.callbacks import SweepCallback


class Display(SweepCallback):
    """Shows how the sweep goes; `ended` is to be called with every result once it is on disk."""

    def __init__(
        self,
        sweep: Sweep,
        planned: int | None,
        training_images: int,
        earlier: list[TrialResult],
        console: Console,
        until: float | None,
    ) -> None:
        """`planned` trials, where that is known, and `until` when, in seconds since 1970, if a budget sets that."""
        self._training_images = training_images
        self._began = SweepBegan(
            name=sweep.name,
            metric=sweep.search.metric,
            planned=planned,
            until=until,
            earlier=[result.score for result in earlier],
        )
        self._axes = list(sweep.trial.axes())
        self._warned: set[str] = set()
        self._view = View(console, "Ctrl-C stops, the same command goes on")
        self._emit: Callable[[Event], None] = print_event if inside_job() else self._view.show

    def setup(self, **info: Any) -> None:
        """Starts the live table."""
        self._emit(self._began)

    def close(self) -> None:
        """Leaves the table as it is and gives the terminal back."""
        self._view.close()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        setting = " ".join(f"{axis}={_short(trial.config[axis])}" for axis in self._axes)
        self._emit(TrialBegan(id=str(trial), setting=setting, epochs=epochs_of(trial.config, self._training_images)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch is done; a warning is shown once, whichever trials have it."""
        for warning in set(str(result.get(WARNINGS) or "").splitlines()) - self._warned:
            self._warned.add(warning)
            self._emit(Warned(text=warning))
        self._emit(
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
        self._emit(TrialPaused(id=name))

    def ended(self, result: TrialResult) -> None:
        """A trial's result is on disk."""
        fields = result.model_dump(include={"id", "reason", "score", "best_epoch", "epochs"})
        self._emit(TrialEnded(**fields))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).rsplit("/", 1)[-1]

"""Ray Tune's events -> a live table on a terminal, or plain lines (one an epoch) in a log."""

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rfray.config import Sweep
from rfray.run import TrialResult
from rfray.search.follower import Follower
from rfray.search.messages import EPOCH, SCORE, WARNINGS

SHOWN_ENDED = 8
"""Ended trials that stay in the live table: the best ones."""
AROUND = 8
"""Lines of the live table that are no trials."""


@dataclass
class Row:
    """What is shown of one trial."""

    id: str
    setting: str
    epochs: int
    epoch: int = 0
    score: float | None = None
    best: float | None = None
    images_per_second: float | None = None
    state: str = "starting"
    shown_epochs: set[int] = field(default_factory=set)


class Display(Follower):
    """Shows how the sweep goes; `ended` is told of every result once it is on disk."""

    def __init__(self, sweep: Sweep, planned: int, earlier: list[TrialResult], console: Console) -> None:
        self._sweep = sweep
        self._planned = planned
        self._console = console
        self._axes = list(sweep.trial.axes())
        self._rows: dict[str, Row] = {}  # of trials that run
        self._best: list[Row] = []  # of those that have ended since the start, the best ones
        self._seen, self._epochs_asked = 0, 0
        self._ended = [(result.id, result.score) for result in earlier]
        self._failed = sum(result.status == "failed" for result in earlier)
        self._began = time.monotonic()
        self._epochs_seen = 0
        self._warned: set[str] = set()
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=2) if console.is_terminal else None
        )

    def setup(self, **info: Any) -> None:
        """Starts the live table."""
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Leaves the table as it is and gives the terminal back."""
        if self._live is not None:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        row = self._row(trial)
        row.state = "training"

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch is done."""
        for warning in set(str(result.get(WARNINGS) or "").splitlines()) - self._warned:
            self._warned.add(warning)
            self._say(f"Warning: {warning}")
        row = self._row(trial)
        row.epoch, row.score, row.best = result[EPOCH], result[SCORE], result.get("best_score")
        row.images_per_second = result.get("images_per_second")
        if row.epoch in row.shown_epochs:
            return
        row.shown_epochs.add(row.epoch)
        self._epochs_seen += 1
        if self._live is None:
            self._say(
                f"trial {row.id} epoch {row.epoch}/{row.epochs} select {self._sweep.search.metric} "
                f"{_number(row.score)} best {_number(row.best)} {row.images_per_second:.0f} images/s{self._left()}"
            )

    def ended(self, result: TrialResult) -> None:
        """A trial's result is on disk."""
        self._ended.append((result.id, result.score))
        row = self._rows.pop(result.id, None)
        if row is not None:
            row.state = (
                "failed" if result.status == "failed" else "done" if row.epoch >= row.epochs else "stopped early"
            )
            self._best = sorted([*self._best, row], key=lambda row: -(row.best or 0))[:SHOWN_ENDED]
        if result.status == "failed":
            self._failed += 1
            self._say(f"trial {result.id} failed: {result.reason}")
        elif self._live is None:
            self._say(
                f"trial {result.id} ended after {result.epochs} epochs: select {result.metric} {_number(result.score)} "
                f"(epoch {result.best_epoch}); {len(self._ended)} of {self._planned} trials done"
            )

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _row(self, trial: Any) -> Row:
        name, config = str(trial), trial.config
        if name not in self._rows:
            self._rows[name] = Row(name, "", config["epochs"])
            self._seen += 1
            self._epochs_asked += config["epochs"]
        setting = " ".join(f"{axis}={_short(config[axis])}" for axis in self._axes)
        self._rows[name].setting = setting
        return self._rows[name]

    def _left(self) -> str:
        """An estimate from the epochs so far: as if every trial to come ran through all its epochs."""
        if not self._epochs_seen:
            return ""
        per_epoch = (time.monotonic() - self._began) / self._epochs_seen
        running = list(self._rows.values())
        to_come = max(0, self._planned - len(self._ended) - len(running))
        epochs = sum(row.epochs - row.epoch for row in running) + to_come * self._epochs_asked / self._seen
        return f", about {_duration(epochs * per_epoch)} left"

    def _table(self) -> Table:
        best = max((score for _, score in self._ended if score is not None), default=None)
        failed = f", {self._failed} failed" if self._failed else ""
        table = Table(
            title=f"{self._sweep.name}: {len(self._ended)} of {self._planned} trials done{failed}{self._left()}",
            title_justify="left",
        )
        for name in ("trial", "setting", "epoch", f"select {self._sweep.search.metric}", "best", "images/s", "state"):
            table.add_column(name, justify="right" if name in ("epoch", "best", "images/s") else "left")
        running = list(self._rows.values())
        shown = running[: max(1, self._console.height - SHOWN_ENDED - AROUND)]
        for row in [*shown, *self._best]:
            table.add_row(
                Text(row.id),
                Text(row.setting),
                f"{row.epoch}/{row.epochs}",
                _number(row.score),
                Text(_number(row.best), style="bold" if best is not None and row.best == best else ""),
                f"{row.images_per_second:.0f}" if row.images_per_second else "",
                row.state,
            )
        unseen = f"{len(running) - len(shown)} more are running; " if len(running) > len(shown) else ""
        table.caption = f"{unseen}best so far: {_number(best)}; Ctrl-C stops, the same command goes on"
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).rsplit("/", 1)[-1]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

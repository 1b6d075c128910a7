"""A sweep's events -> a live table on a terminal, or plain lines (one an epoch) in a log."""

from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rfray.progress.events import EpochDone, Event, SweepBegan, TrialBegan, TrialEnded, TrialPaused, Warned
from rfray.progress.phases import literal, repeating, say

SHOWN_ENDED, AROUND = 8, 8
"""Lines of the live table: ended trials that stay in it, which are the best ones; and those that are no trials."""


@dataclass
class TrialRow:
    """What is shown of one trial."""

    id: str
    setting: str
    epochs: int
    epoch: int = 0
    score: float | None = None
    best: float | None = None
    images_per_second: float | None = None
    state: str = "training"
    shown_epochs: set[int] = field(default_factory=set)


class View:
    """Shows how a sweep goes, wherever it runs; `hint` says below the table what Ctrl-C does."""

    def __init__(self, console: Console, hint: str) -> None:
        self._console, self._hint = console, hint
        self._sweep = SweepBegan(name="", metric="", planned=None, earlier=[])  # until one has begun
        self._live: Live | None = None
        self._waiting = ExitStack()  # in a log, until a line of a trial
        self._rows: dict[str, TrialRow] = {}  # of trials that run, or are paused
        self._best: list[TrialRow] = []  # of those that have ended since the start, the best ones
        self._scores: list[float | None] = []
        self._seen = self._epochs_asked = self._epochs_seen = 0
        self._now = 0.0

    def show(self, event: Event) -> None:
        """Takes an event into the table, or says it."""
        self._now = event.at
        match event:
            case SweepBegan():
                self._sweep, self._scores = event, list(event.earlier)
                if self._console.is_terminal:
                    self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2)
                    self._live.start()
                else:
                    waiting = repeating(self._console, lambda seconds: f"Waiting for the first epoch: {seconds:.0f} s")
                    self._waiting.enter_context(waiting)
            case TrialBegan():
                if event.id not in self._rows:
                    self._rows[event.id] = TrialRow(event.id, event.setting, event.epochs)
                    self._seen += 1
                    self._epochs_asked += event.epochs
                self._rows[event.id].setting, self._rows[event.id].state = event.setting, "training"
            case EpochDone():
                row = self._rows[event.id]
                row.epoch, row.score, row.best = event.epoch, event.score, event.best
                row.images_per_second = event.images_per_second
                if row.epoch not in row.shown_epochs:
                    row.shown_epochs.add(row.epoch)
                    self._epochs_seen += 1
                    self._log(
                        f"trial {row.id} epoch {row.epoch}/{row.epochs} val {self._sweep.metric} {_number(row.score)} "
                        f"best {_number(row.best)} {event.images_per_second:.0f} images/s{self._left()}"
                    )
            case TrialPaused():
                row = self._rows[event.id]
                row.state = "paused"
                self._log(f"trial {row.id} paused after epoch {row.epoch}: others go first")
            case TrialEnded():
                self._scores.append(event.score)
                if (ended := self._rows.pop(event.id, None)) is not None:
                    early = "budget ended" if event.by_budget else "stopped early"
                    ended.state = "failed" if event.reason else early if ended.epoch < ended.epochs else "done"
                    self._best = sorted([*self._best, ended], key=lambda row: -(row.best or 0))[:SHOWN_ENDED]
                if event.reason:
                    self.say(f"trial {event.id} failed: {event.reason}")
                else:
                    self._log(
                        f"trial {event.id} ended after {event.epochs} epochs: val {self._sweep.metric} "
                        f"{_number(event.score)} (epoch {event.best_epoch}); {self._done()}"
                    )
            case Warned():
                self.say(f"Warning: {event.text}")

    def say(self, text: str) -> None:
        """Prints a line (above the table)."""
        self._waiting.close()
        say(self._console, text)

    def close(self) -> None:
        """Leaves the table as it is and gives the terminal back."""
        self._waiting.close()
        if self._live is not None:
            self._live.stop()

    def _log(self, text: str) -> None:
        """Prints a line where there is no table."""
        if self._live is None:
            self.say(text)

    def _done(self) -> str:
        of = "" if self._sweep.planned is None else f" of {self._sweep.planned}"
        return f"{len(self._scores)}{of} trials done"

    def _left(self) -> str:
        """Until a budget ends; or an estimate from the epochs so far, as if every trial ran through all its epochs."""
        left = [] if self._sweep.until is None else [max(0.0, self._sweep.until - self._now)]
        if self._epochs_seen and self._sweep.planned is not None:
            per_epoch = (self._now - self._sweep.at) / self._epochs_seen
            to_come = max(0, self._sweep.planned - len(self._scores) - len(self._rows))
            epochs = sum(row.epochs - row.epoch for row in self._rows.values())
            left.append((epochs + to_come * self._epochs_asked / self._seen) * per_epoch)
        return f", about {_duration(min(left))} left" if left else ""

    def _table(self) -> Table:
        best = max((score for score in self._scores if score is not None), default=None)
        failures = self._scores.count(None)
        failed = f", {failures} failed" if failures else ""
        title = f"{self._sweep.name}: {self._done()}{failed}{self._left()}"
        table = Table("trial", "setting", title=literal(title), title_justify="left")
        for name in ("epoch", f"val {self._sweep.metric}", "best", "images/s", "state"):
            table.add_column(literal(name), justify="right" if name in ("epoch", "best", "images/s") else "left")
        running = [row for row in self._rows.values() if row.state != "paused"]
        paused, room = len(self._rows) - len(running), max(1, self._console.height - SHOWN_ENDED - AROUND)
        for row in [*running[:room], *self._best]:
            table.add_row(
                literal(row.id),
                literal(row.setting),
                f"{row.epoch}/{row.epochs}",
                _number(row.score),
                Text(_number(row.best), style="bold" if best is not None and row.best == best else ""),
                f"{row.images_per_second:.0f}" if row.images_per_second else "",
                row.state,
            )
        unseen = f"{len(running) - room} more are running; " if len(running) > room else ""
        unseen += f"{paused} are paused; " if paused else ""
        table.caption = f"{unseen}best so far: {_number(best)}; {self._hint}"
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

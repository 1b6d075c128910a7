"""What is shown of a sweep, however many trials it has."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from rfray.config import Sweep
from rfray.run import TrialResult
from rfray.search.display import SHOWN_ENDED, Display
from rfray.search.messages import EPOCH, SCORE

SWEEP = Sweep.model_validate(
    {"name": "s", "data": {"source": "demo"}, "trial": {"backbone": "a", "lr": [0.1, 0.2], "epochs": 4}}
)


class Trial(SimpleNamespace):
    def __str__(self) -> str:
        return str(self.id)


def trial(number: int) -> Trial:
    return Trial(id=f"{number:05d}", config={"epochs": 4, "lr": 0.1})


def result(number: int, score: float) -> TrialResult:
    setting = SWEEP.trial.trial({"lr": 0.1})
    record = {
        "metric": "auc",
        "score": score,
        "best_epoch": 1,
        "epochs": 1,
        "seconds": 1.0,
        "node": "here",
        "files": {},
    }
    return TrialResult(id=f"{number:05d}", position=number, status="ok", trial=setting, **record)


@pytest.fixture
def display() -> Display:
    terminal = Console(file=StringIO(), force_terminal=True, width=120, height=30)
    return Display(SWEEP, planned=2000, earlier=[], console=terminal)


def text(display: Display) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(display._table())
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_thousand_ended_trials_are_the_best_eight(display: Display) -> None:
    for number in range(1000):
        display.on_trial_result(0, [], trial(number), {EPOCH: 1, SCORE: number / 1000, "best_score": number / 1000})
        display.ended(result(number, number / 1000))
    shown = text(display)
    assert "1000 of 2000 trials done" in shown
    assert [f"{number:05d}" in shown for number in range(990, 1000)] == [False] * 2 + [True] * SHOWN_ENDED
    assert "best so far: 0.9990" in shown


def test_more_running_trials_than_lines_are_counted(display: Display) -> None:
    for number in range(20):
        display.on_trial_start(0, [], trial(number))
    shown = text(display)
    assert "00013" in shown  # 30 lines, less 8 for the best and 8 for the rest
    assert "00014" not in shown
    assert "6 more are running" in shown


def test_what_is_left_counts_every_epoch_to_come(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    display._began = 0.0
    monkeypatch.setattr("rfray.search.display.time.monotonic", lambda: 20.0)
    display.on_trial_result(0, [], trial(0), {EPOCH: 1, SCORE: 0.5})
    display.on_trial_result(0, [], trial(1), {EPOCH: 1, SCORE: 0.5})
    # 10 s an epoch; 3 epochs of each that runs, 4 of the 1998 others
    assert display._left() == f", about {10 * (2 * 3 + 1998 * 4) / 3600:.1f} h left"

"""What goes on is said again and again in a log, and on a terminal it is not."""

import io
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from rfray.progress import phases
from rfray.progress.events import EpochDone, SweepBegan, TrialBegan
from rfray.progress.live import View
from rfray.progress.phases import counting, doing


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "PAUSE", 0.01)


def until(console: Console, text: str) -> str:
    """What a console has been given as soon as `text` is in it."""
    while text not in (said := console.file.getvalue()):  # type: ignore[attr-defined]
        time.sleep(0.01)
    return str(said)


def test_a_log_is_told_what_goes_on_until_it_has_ended(often: None) -> None:
    log = Console(file=io.StringIO(), width=160)
    with doing(log, "Starting [Ray]\n here"):
        assert until(log, " s\n").startswith("Starting [Ray]\\n here\nStarting [Ray]\\n here: 0 s\n")
    said = log.file.getvalue()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert log.file.getvalue() == said  # type: ignore[attr-defined]


def test_a_terminal_has_a_spinner_instead(often: None) -> None:
    terminal = Console(file=io.StringIO(), width=160, force_terminal=True)
    with doing(terminal, "Starting Ray here"):
        time.sleep(0.05)
    assert ": 0 s" not in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_things_that_take_long_are_counted_in_a_log(often: None, capfd: pytest.CaptureFixture[str]) -> None:
    def slow() -> Iterator[int]:
        yield 1
        yield 2
        time.sleep(0.2)
        yield 3

    assert list(counting(slow(), "Reading images", 1000)) == [1, 2, 3]
    assert "Reading images: 2 of 1,000\n" in capfd.readouterr().err
    assert list(counting([4, 5], "Reading images", 2)) == [4, 5]
    assert capfd.readouterr() == ("", "")


def test_a_log_is_not_silent_until_the_first_epoch(often: None) -> None:
    log = Console(file=io.StringIO(), width=160)
    view = View(log, "")
    view.show(SweepBegan(at=0.0, name="faces", metric="auc", planned=4, earlier=[]))
    view.show(TrialBegan(at=1.0, id="a", setting="lr=0.1", epochs=2))
    until(log, "Waiting for the first epoch: 0 s\n")
    view.show(EpochDone(at=10.0, id="a", epoch=1, score=0.5, best=0.5, images_per_second=80.4))
    said = log.file.getvalue()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert log.file.getvalue() == said  # type: ignore[attr-defined]
    view.close()

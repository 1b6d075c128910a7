"""A sweep's events as lines of a log, and as a table on a terminal."""

import io

from rich.console import Console

from rfray.progress.events import EpochDone, Event, SweepBegan, TrialBegan, TrialEnded, TrialPaused, Warned
from rfray.progress.live import SHOWN_ENDED, View

EVENTS: list[Event] = [
    SweepBegan(at=100.0, name="faces", metric="auc", planned=4, earlier=[0.9, None]),
    TrialBegan(at=101.0, id="a", setting="lr=0.1", epochs=2),
    TrialBegan(at=101.0, id="b", setting="lr=0.2", epochs=2),
    EpochDone(at=110.0, id="a", epoch=1, score=0.5, best=0.5, images_per_second=80.4),
    EpochDone(at=120.0, id="a", epoch=2, score=0.4, best=0.5, images_per_second=81.0),
    EpochDone(at=121.0, id="a", epoch=2, score=0.4, best=0.5, images_per_second=81.0),
    TrialEnded(at=122.0, id="a", reason=None, score=0.5, best_epoch=1, epochs=2),
    Warned(at=123.0, text="full"),
    TrialEnded(at=124.0, id="b", reason="TrialError: the loss is nan", score=None, best_epoch=None, epochs=0),
]


def shown(console: Console) -> str:
    view = View(console, "Ctrl-C detaches or stops")
    for event in EVENTS:
        view.show(event)
    view.say("and a line [of] text")
    view.close()
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_log_has_one_line_an_epoch_and_one_a_trial() -> None:
    # after 10 s and one epoch 3 are to come, in 30 s; after 20 s and two epochs b's two
    assert shown(Console(file=io.StringIO(), width=200)).splitlines() == [
        "trial a epoch 1/2 val auc 0.5000 best 0.5000 80 images/s, about 30 s left",
        "trial a epoch 2/2 val auc 0.4000 best 0.5000 81 images/s, about 20 s left",
        "trial a ended after 2 epochs: val auc 0.5000 (epoch 1); 3 of 4 trials done",
        "Warning: full",
        "trial b failed: TrialError: the loss is nan",
        "and a line [of] text",
    ]


def test_a_terminal_has_a_table_and_the_lines_that_matter_above_it() -> None:
    said = shown(Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None))
    assert "Warning: full" in said
    assert "trial b failed: TrialError: the loss is nan" in said
    assert "epoch 1/2" not in said
    table = said[said.rindex("faces: 4 of 4 trials done, 2 failed") :]
    assert [row.split("│")[1:-1] for row in table.splitlines() if row.startswith("│ a")] == [
        [" a     ", " lr=0.1  ", "   2/2 ", " 0.4000  ", " 0.5000 ", "       81 ", " done   "]
    ]
    assert "best so far: 0.9000; Ctrl-C detaches or stops" in table


def test_a_setting_that_changes_on_the_way_is_shown_as_it_is_now() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    view = View(console, "")
    for event in (*EVENTS[:2], TrialBegan(at=105.0, id="a", setting="lr=0.7", epochs=2)):
        view.show(event)
    view.close()
    table = console.file.getvalue().rpartition("faces: ")[2]  # type: ignore[attr-defined]
    assert "lr=0.7" in table
    assert "lr=0.1" not in table


def table_of(*events: Event) -> str:
    """The last table that is shown on a terminal of 30 lines."""
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True, color_system=None)
    view = View(console, "")
    for event in (SweepBegan(at=0.0, name="many", metric="auc", planned=2000, earlier=[]), *events):
        view.show(event)
    view.close()
    return console.file.getvalue().rpartition("many: ")[2]  # type: ignore[attr-defined, no-any-return]


def test_of_a_thousand_ended_trials_the_best_eight_stay() -> None:
    events: list[Event] = []
    for number in range(1000):
        name, score = f"{number:05d}", number / 1000
        events += [
            TrialBegan(id=name, setting="", epochs=1),
            EpochDone(id=name, epoch=1, score=score, best=score, images_per_second=1.0),
            TrialEnded(id=name, reason=None, score=score, best_epoch=1, epochs=1),
        ]
    shown = table_of(*events)
    assert shown.startswith("1000 of 2000 trials done")
    assert [f"{number:05d}" in shown for number in range(990, 1000)] == [False] * 2 + [True] * SHOWN_ENDED
    assert "best so far: 0.9990" in shown


def test_more_running_trials_than_lines_are_counted() -> None:
    shown = table_of(*(TrialBegan(id=f"{number:05d}", setting="", epochs=1) for number in range(20)))
    assert "00013" in shown  # 30 lines, less 8 for the best and 8 for the rest
    assert "00014" not in shown
    assert "6 more are running" in shown


def test_what_is_left_counts_every_epoch_to_come() -> None:
    shown = table_of(
        *(TrialBegan(at=1.0, id=name, setting="", epochs=4) for name in "ab"),
        *(EpochDone(at=20.0, id=name, epoch=1, score=0.5, best=0.5, images_per_second=1.0) for name in "ab"),
    )
    # 10 s an epoch; 3 epochs of each that runs, 4 of the 1998 others
    assert f"about {10 * (2 * 3 + 1998 * 4) / 3600:.1f} h left" in shown


def test_where_a_budget_decides_the_time_left_is_its_own_and_paused_trials_are_counted() -> None:
    began = SweepBegan(at=100.0, name="faces", metric="auc", planned=None, until=190.0, earlier=[])
    paused = TrialPaused(at=111.0, id="a")
    console = Console(file=io.StringIO(), width=200)
    view = View(console, "")
    for event in (began, *EVENTS[1:4], paused):
        view.show(event)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "trial a epoch 1/2 val auc 0.5000 best 0.5000 80 images/s, about 80 s left",
        "trial a paused after epoch 1: others go first",
    ]
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    view = View(console, "")
    for event in (began, *EVENTS[1:4], paused):
        view.show(event)
    view.close()
    table = console.file.getvalue().rpartition("faces: ")[2]  # type: ignore[attr-defined]
    assert table.startswith("0 trials done, about 79 s left")
    assert "1 are paused; best so far" in table
    assert "│ a " not in table
    assert "│ b " in table


def test_a_trial_that_the_budget_ended_was_not_stopped_early() -> None:
    begun: list[Event] = [TrialBegan(id=name, setting="", epochs=2) for name in "abc"]
    ended = [
        TrialEnded(id="a", reason=None, score=0.5, best_epoch=1, epochs=1, by_budget=True),
        TrialEnded(id="b", reason=None, score=0.5, best_epoch=1, epochs=1),
        TrialEnded(id="c", reason=None, score=0.5, best_epoch=1, epochs=2, by_budget=True),
    ]
    done = [
        EpochDone(id=name, epoch=epoch, score=0.5, best=0.5, images_per_second=1.0)
        for name, epoch in (("a", 1), ("b", 1), ("c", 2))
    ]
    table = table_of(*begun, *done, *ended)
    states = {row.split("│")[1].strip(): row.split("│")[-2].strip() for row in table.splitlines() if row[:1] == "│"}
    assert states == {"a": "budget ended", "b": "stopped early", "c": "done"}

"""Events come out of their lines as they went in; other lines are text."""

from typing import get_args

import pytest
from pydantic import ValidationError

from rfray.progress.events import (
    MARK,
    EpochDone,
    Event,
    JobBegan,
    SweepBegan,
    TrialBegan,
    TrialEnded,
    TrialPaused,
    Warned,
    event_in,
    print_event,
)

ONE_OF_EACH: list[Event] = [
    JobBegan(at=1.5, package="/tmp/package"),
    SweepBegan(at=3.0, name="faces", metric="auc", planned=3, earlier=[0.5, None]),
    SweepBegan(at=3.0, name="faces", metric="auc", planned=None, until=93.0, earlier=[]),
    TrialBegan(at=4.0, id="00000-abcdef", setting="lr=0.001", epochs=2),
    EpochDone(at=5.0, id="00000-abcdef", epoch=1, score=0.6, best=None, images_per_second=93.0),
    TrialPaused(at=5.5, id="00000-abcdef"),
    TrialEnded(at=6.0, id="00000-abcdef", reason="TrialError: line\nline", score=None, best_epoch=None, epochs=1),
    Warned(at=7.0, text="the cache is full"),
]


def test_there_is_one_of_each() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(get_args(Event))


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.kind)
def test_an_event_is_one_line_and_comes_back(event: Event, capsys: pytest.CaptureFixture[str]) -> None:
    print_event(event)
    said = capsys.readouterr().out
    assert said.startswith(MARK)
    assert said.count("\n") == 1
    assert event_in(said) == event


def test_another_line_is_text() -> None:
    assert event_in("trial 00000 epoch 1/3") is None
    assert event_in("") is None


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValidationError):
        event_in(MARK + '{"kind":"all is well","at":1.0}')


def test_the_kinds_are_all_different() -> None:
    kinds = [found.model_fields["kind"].default for found in get_args(Event)]
    assert len(set(kinds)) == len(kinds)

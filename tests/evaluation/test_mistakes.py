"""rfray.evaluation.mistakes: which images, in which order, and when their pictures are still true."""

import numpy as np
import pytest

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.mistakes import AT_MOST, find_mistakes, read_mistakes, undrawn_mistakes, write_mistakes
from rfray.stats.predictions import Predictions, write_predictions
from tests.synthetic import finish_trial, new_run, predictions, small_run

FIRST = [0.1, 0.9, 0.6, 0.2, 0.8, 0.4]
SECOND = [0.3, 0.5, 0.7, 0.4, 0.9, 0.5]
"""Their mean: 0.2 0.7 0.65 0.3 0.85 0.45 of three real and three fake images."""


@pytest.fixture
def run(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id, score, p_fake in (("a", 0.9, FIRST), ("b", 0.8, SECOND)):
        finish_trial(run, trial_id, score, predictions(p_fake), predictions(p_fake))
    write_ensemble(run, choose_members(run, 2))
    return run


def drawn(run, mistakes):
    """As if the pictures had been drawn."""
    run.mistakes_folder.mkdir(parents=True, exist_ok=True)
    for mistake in mistakes.shown:
        run.mistake_picture(mistake.number).write_bytes(b"picture")
    write_mistakes(run, mistakes)


def test_both_kinds_the_most_confident_first(run):
    found = find_mistakes(run)
    assert (found.name, found.members, found.threshold) == ("ensemble", {"a": 0.5, "b": 0.5}, 0.5)
    assert (found.false_negatives, found.false_positives) == (2, 2)
    assert [(mistake.number, mistake.id, mistake.call) for mistake in found.shown] == [
        (1, "fake/3.jpg", 0),
        (2, "fake/5.jpg", 0),
        (3, "real/1.jpg", 1),
        (4, "real/2.jpg", 1),
    ]
    assert [mistake.p_fake for mistake in found.shown] == pytest.approx([0.3, 0.45, 0.7, 0.65])
    assert found.shown[0].scores == {"a": 0.2, "b": 0.4}
    assert list(found.shown[0].scores) == ["a", "b"]


def test_the_threshold_decides_what_is_wrong(run):
    ensemble = run.ensemble()
    assert ensemble is not None
    run.write_vouched(run.ensemble_file, ensemble.model_copy(update={"threshold": 0.25}))
    found = find_mistakes(run)
    assert (found.false_negatives, found.false_positives) == (0, 2)
    assert [mistake.id for mistake in found.shown] == ["real/1.jpg", "real/2.jpg"]


def test_members_in_another_order_are_asked_by_id(run):
    turned = predictions(SECOND)
    write_predictions(
        run.trial("b").predictions_file("test"),
        Predictions(turned.ids[::-1], turned.labels[::-1], turned.p_fake[::-1]),
        {},
    )
    assert find_mistakes(run).shown[0].scores == {"a": 0.2, "b": 0.4}


@pytest.mark.parametrize(
    ("missed", "alarms", "expected"),
    [(30, 30, (12, 12)), (30, 5, (19, 5)), (5, 30, (5, 19)), (4, 3, (4, 3)), (0, 0, (0, 0))],
)
def test_at_most_so_many_and_half_of_each_kind(missed, alarms, expected, tmp_path):
    run = new_run(tmp_path / "run")
    labels = [1] * 40 + [0] * 40
    p_fake = np.linspace(0.1, 0.4, 80)  # ordered, so that the first is the most confident
    p_fake[missed:40] = 0.9
    p_fake[40:] = 1 - p_fake[40:]
    p_fake[40 + alarms :] = 0.2
    given = predictions(p_fake, labels)
    finish_trial(run, "a", 0.9, given, given)
    write_ensemble(run, choose_members(run, 1))
    found = find_mistakes(run)
    assert (found.false_negatives, found.false_positives) == (missed, alarms)
    ids = [f"fake/{number}.jpg" for number in range(expected[0])]
    assert [mistake.id for mistake in found.shown] == ids + [f"real/{40 + number}.jpg" for number in range(expected[1])]
    assert len(found.shown) <= AT_MOST


def test_what_is_drawn_and_still_true_stays(run):
    found = undrawn_mistakes(run)
    assert found == find_mistakes(run)
    told = found.model_copy(update={"problems": ["b could not be explained: RuntimeError: no"]})
    drawn(run, told)
    assert undrawn_mistakes(run) is None
    assert read_mistakes(run) == told


def another_vote(run):
    write_ensemble(run, choose_members(run, 1))


def other_weights(run):
    write_predictions(run.trial("b").predictions_file("test"), predictions(SECOND), {"weights": "other"})


def a_picture_is_gone(run):
    run.mistake_picture(2).unlink()


def a_damaged_record(run):
    run.mistakes_file.write_text("{}")


@pytest.mark.parametrize("change", [another_vote, other_weights, a_picture_is_gone, a_damaged_record])
def test_what_is_no_longer_true_goes(change, run):
    drawn(run, find_mistakes(run))
    own = run.plots_folder / "my-own.jpg"
    own.write_bytes(b"mine")
    change(run)
    assert undrawn_mistakes(run) == find_mistakes(run)
    assert not run.mistakes_file.exists()
    assert list(run.mistakes_folder.iterdir()) == []
    assert own.exists()


def test_where_nothing_is_wrong_there_is_nothing_to_draw(tmp_path):
    run = small_run(tmp_path / "run")
    assert undrawn_mistakes(run) is None  # no ensemble yet
    assert read_mistakes(run) is None
    write_ensemble(run, choose_members(run, 2))
    assert undrawn_mistakes(run) is None
    assert read_mistakes(run).shown == []

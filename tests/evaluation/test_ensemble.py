"""rfray.evaluation.ensemble: who votes, what the vote says, what is written."""

import json

import numpy as np
import pytest

from rfray.errors import RunError
from rfray.evaluation.ensemble import choose_members, read_ensemble, soft_vote, write_ensemble
from rfray.evaluation.predictions import Predictions, read_predictions, write_predictions
from tests.synthetic import FIRST, LABELS, SECOND, finish_trial, new_run, predictions, small_run


def chosen(run, top_k):
    return [trial.id for trial in choose_members(run, top_k)]


def test_best_first_without_failed_unfinished_and_not_kept_trials(tmp_path):
    run = small_run(tmp_path / "run")
    assert chosen(run, 1) == ["001"]
    assert chosen(run, 5) == ["001", "002"]


def test_ties_go_by_id_and_an_undefined_score_can_not_be_chosen(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id, score in [("c", 0.5), ("b", 0.9), ("a", 0.9), ("d", None)]:
        finish_trial(run, trial_id, score)
    assert chosen(run, 10) == ["a", "b", "c"]


def test_vote_of_two_by_hand():
    vote = soft_vote([predictions(FIRST), predictions(SECOND)])
    assert vote.p_fake.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.7, 0.6], abs=1e-15)
    assert vote.labels.tolist() == LABELS


def test_vote_of_one_is_its_own():
    assert soft_vote([predictions(FIRST)]).p_fake.tolist() == FIRST


def test_voters_in_another_order_are_aligned_by_id():
    second = predictions(SECOND)
    shuffled = Predictions(second.ids[::-1], second.labels[::-1], second.p_fake[::-1])
    expected = soft_vote([predictions(FIRST), second])
    vote = soft_vote([predictions(FIRST), shuffled])
    assert vote.ids.tolist() == expected.ids.tolist()
    assert vote.p_fake.tolist() == expected.p_fake.tolist()


def test_voters_that_do_not_fit_together_are_refused():
    first = predictions(FIRST)
    others = np.array([*first.ids[:-1], "fake/other.jpg"])
    with pytest.raises(ValueError, match=r"members 1 and 2 speak of different images .*fake/5\.jpg"):
        soft_vote([first, Predictions(others, first.labels, first.p_fake)])
    with pytest.raises(ValueError, match=r"\(6 and 5"):
        soft_vote([first, Predictions(first.ids[:5], first.labels[:5], first.p_fake[:5])])
    with pytest.raises(ValueError, match=r"label of fake/3\.jpg"):
        soft_vote([first, Predictions(first.ids, np.array([0, 0, 0, 0, 1, 1], dtype=np.int8), first.p_fake)])
    twice = Predictions(np.array(["a", "a"]), np.array([0, 0], dtype=np.int8), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="twice"):
        soft_vote([twice])
    with pytest.raises(ValueError, match="no predictions"):
        soft_vote([])


def test_what_is_written(tmp_path):
    run = small_run(tmp_path / "run")
    ensemble = write_ensemble(run, choose_members(run, 2))
    assert read_ensemble(run) == ensemble
    assert json.loads(run.ensemble_file.read_text()) == {
        "schema_version": 1,
        "members": ["001", "002"],
        "weights": [0.5, 0.5],
        "threshold": 0.5,
        "classes": ["real", "fake"],
        "metric": "auc",
        "select_score": 1.0,
    }
    for part in ("select", "report"):
        vote = read_predictions(run.ensemble_predictions_file("ensemble", part))
        assert vote.p_fake.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.7, 0.6], abs=1e-15)


def test_the_select_score_knows_nothing_of_the_report_part(tmp_path):
    run = small_run(tmp_path / "run")
    members = choose_members(run, 2)
    for member in members:
        write_predictions(member.predictions_file("report"), predictions([1, 1, 1, 0, 0, 0]), {})
    assert write_ensemble(run, members).select_score == 1.0


def test_missing_or_unfit_predictions_leave_the_old_ensemble_alone(tmp_path):
    run = small_run(tmp_path / "run")
    members = choose_members(run, 2)
    write_ensemble(run, members)
    before = run.ensemble_file.read_bytes()
    write_predictions(members[0].predictions_file("report"), predictions([0.5], [0]), {})
    with pytest.raises(RunError, match="the report predictions of 001, 002 can't be joined"):
        write_ensemble(run, members)
    members[0].predictions_file("report").unlink()
    with pytest.raises(RunError, match=r"001.predictions-report\.parquet"):
        write_ensemble(run, members)
    assert run.ensemble_file.read_bytes() == before


def test_no_member_and_a_damaged_record_are_errors(tmp_path):
    run = small_run(tmp_path / "run")
    assert read_ensemble(run) is None
    with pytest.raises(RunError, match="nothing to join"):
        write_ensemble(run, [])
    write_ensemble(run, choose_members(run, 2))
    run.ensemble_file.write_text('{"schema_version": 2}')
    with pytest.raises(RunError, match=r"ensemble\.json is damaged"):
        read_ensemble(run)

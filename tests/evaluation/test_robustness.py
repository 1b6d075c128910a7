"""rfray.evaluation.robustness: the vote under corruption, its columns by hand, and choosing by the worst."""

import csv

import pandas as pd
import pytest

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import build_leaderboard, read_leaderboard, write_leaderboard
from rfray.evaluation.robustness import TEST_COLUMNS, WORST, worst_scores, write_corrupted_votes
from rfray.stats.predictions import predictions_metadata, read_predictions, write_predictions
from tests.synthetic import FIRST, REVERSED, SECOND, corruption_trial, finish_trial, new_run, predictions, small_run


@pytest.fixture
def run(tmp_path):
    """Test under corruption: 001 is as good as SECOND under jpeg_30, 002 all wrong under noise_20."""
    run = small_run(tmp_path / "run")
    corruption_trial(run.trial("001"), "test", FIRST, jpeg_30=SECOND)
    corruption_trial(run.trial("002"), "test", SECOND, noise_20=REVERSED)
    corruption_trial(run.trial("001"), "val", SECOND, blur_4=REVERSED)
    corruption_trial(run.trial("002"), "val", FIRST)
    return run


def join(run, top_k=2, *, val=False, report=True):
    by = "worst" if val else "score"
    scores = worst_scores(run, run.trials()) if val else None
    write_corrupted_votes(
        run, write_ensemble(run, choose_members(run, top_k, scores=scores), choose_by=by), val, report
    )


def cells(run):
    """leaderboard.csv as plain text: name -> column -> cell."""
    with run.leaderboard_csv.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_columns_by_hand(run):
    """Pairs of a real and a fake image in the right order: FIRST 7 of 9, SECOND 8.5, their mean 9."""
    join(run)
    write_leaderboard(run)
    header = run.leaderboard_csv.read_text().splitlines()[0]
    assert header.endswith("optimism," + ",".join(TEST_COLUMNS))
    first, second, vote = (cells(run)[name] for name in ("001", "002", "ensemble"))
    expected = {
        "auc_jpeg_50": (7, 8.5, 9),
        "auc_jpeg_30": (8.5, 8.5, 8.5),
        "auc_noise_20": (7, 0, 1),  # the vote: 0.5 0.6 0.65 against 0.3 0.5 0.5, two ties
        "auc_worst_corruption": (7, 0, 1),
    }
    for column, pairs in expected.items():
        assert [float(row[column]) for row in (first, second, vote)] == pytest.approx([n / 9 for n in pairs]), column


def test_the_worst_may_be_the_picture_as_it_is(tmp_path):
    run = new_run(tmp_path / "run")
    corruption_trial(finish_trial(run, "a", 0.7, predictions(FIRST), predictions(FIRST)), "test", SECOND)
    join(run)
    assert build_leaderboard(run).set_index("name").loc["a", "auc_worst_corruption"] == pytest.approx(7 / 9)


def test_the_vote_under_corruption_is_the_mean_of_its_members(run):
    join(run)
    file = run.ensemble_predictions_file("ensemble", "test", "noise_20")
    assert file.name == "ensemble-predictions-test-noise_20.parquet"
    assert read_predictions(file).p_fake == pytest.approx([0.5, 0.6, 0.65, 0.3, 0.5, 0.5])
    assert predictions_metadata(file) == {"members": "001 002"}
    assert len(run.corrupted_votes()) == len(CORRUPTION_NAMES)


def test_without_corruption_there_is_no_column_and_none_is_left_behind(run):
    join(run)
    corrupted = write_leaderboard(run)
    pd.testing.assert_frame_equal(read_leaderboard(run), corrupted)
    assert "auc_worst_corruption" in run.leaderboard_md.read_text()
    join(run, report=False)
    assert run.corrupted_votes() == []
    plain = write_leaderboard(run)
    assert list(corrupted.columns) == [*plain.columns, *TEST_COLUMNS]
    pd.testing.assert_frame_equal(read_leaderboard(run), plain)
    assert "auc_worst_corruption" not in run.leaderboard_md.read_text()


def test_columns_are_there_all_or_none(run):
    join(run)
    frame = write_leaderboard(run)
    frame.drop(columns="auc_blur_1").to_csv(run.leaderboard_csv, index=False)
    with pytest.raises(RunError, match="other columns"):
        read_leaderboard(run)


def test_what_was_not_measured_or_is_undefined_is_an_empty_cell(run):
    run.trial("002").predictions_file("test", "blur_1").unlink()
    write_predictions(run.trial("001").predictions_file("test", "blur_2"), predictions([0.5] * 2, [0, 0]), {})
    join(run, top_k=1)  # 001 alone, which has one class only under blur_2
    write_leaderboard(run)
    rows = cells(run)
    for name in ("002", "003", "004"):  # one is not there, not kept, failed
        assert not any(rows[name][column] for column in TEST_COLUMNS), name
    for name in ("001", "ensemble"):
        assert rows[name]["auc_jpeg_30"] == repr(8.5 / 9)
        assert (rows[name]["auc_blur_2"], rows[name]["auc_worst_corruption"]) == ("", "")


def test_members_and_ranks_by_the_worst_on_the_val_images(run):
    assert worst_scores(run, run.trials()) == pytest.approx(
        {"001": 0, "002": 7 / 9, "003": None, "004": None, "005": None}
    )
    assert [trial.id for trial in choose_members(run, 2)] == ["001", "002"]
    join(run, val=True, report=False)
    assert run.ensemble().members == ["002", "001"]
    write_leaderboard(run)
    frame = read_leaderboard(run)
    assert list(frame.columns)[-1] == WORST
    # the vote: 8.5/9 as it is, and under blur_4 FIRST with REVERSED: 1/9; 003 has the best score, but no weights
    assert dict(zip(frame["name"], frame[WORST].round(4), strict=True)) == pytest.approx(
        {"002": 0.7778, "ensemble": 0.1111, "001": 0, "003": float("nan"), "004": float("nan")}, nan_ok=True
    )
    assert frame["rank"].tolist()[:3] == [1, 2, 3]
    assert frame["rank"].isna().tolist() == [False, False, False, True, True]
    note = run.leaderboard_md.read_text().splitlines()[2]
    assert "ranked by `val_worst_corruption`, the smallest auc on val" in note
    assert run.ensemble().chosen_by == "the worst auc under corruption"


def test_chosen_by_the_score_again_the_column_is_gone(run):
    join(run, val=True, report=True)
    assert list(write_leaderboard(run).columns)[-len(TEST_COLUMNS) - 1 :] == [WORST, *TEST_COLUMNS]
    pd.testing.assert_frame_equal(read_leaderboard(run), build_leaderboard(run))
    join(run)
    assert WORST not in write_leaderboard(run)
    assert "ranked by `val_auc`" in run.leaderboard_md.read_text()


def test_predictions_that_are_missing_or_do_not_fit_are_named(run):
    write_predictions(run.trial("002").predictions_file("test", "blur_1"), predictions([0.5], [0]), {})
    with pytest.raises(RunError, match="the test predictions under blur_1 can't be joined"):
        join(run)
    run.trial("002").predictions_file("test", "blur_1").unlink()
    with pytest.raises(RunError, match=r"002.predictions-test-blur_1\.parquet"):
        join(run)

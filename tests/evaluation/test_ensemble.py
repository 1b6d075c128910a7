"""rfray.evaluation.ensemble: who votes, what a vote says, what is written; and the same under corruption."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import DataError, InputError, RunError
from rfray.evaluation.ensemble import (
    TEST_COLUMNS,
    WORST,
    choose_members,
    chosen_alone,
    fold_models,
    left_out,
    out_of_fold,
    worst_scores,
    write_corrupted_votes,
    write_ensemble,
)
from rfray.evaluation.leaderboard import build_leaderboard, read_leaderboard, write_leaderboard
from rfray.spec.sweep_file import resolved_text
from rfray.stats.predictions import Predictions, predictions_metadata, read_predictions, write_predictions
from rfray.stats.voting import METHODS, vote_predictions
from rfray.store.bundle_record import Vote
from rfray.store.records import write_record
from tests.synthetic import (
    FIRST,
    LABELS,
    REVERSED,
    SECOND,
    corruption_trial,
    finish_trial,
    new_run,
    predictions,
    small_run,
)

ALL_METHODS = list(METHODS)


def chosen(run, *how):
    return [trial.id for trial in choose_members(run, *how)]


def vote_of(count, **how):
    """A soft vote of `count` members, but for what `how` says."""
    alike = {"weights": [1 / count] * count, "temperatures": [1.0] * count}
    return Vote(
        name="ensemble",
        members=[f"m{number}" for number in range(count)],
        threshold=0.5,
        val_score=None,
        **{**alike, **how},
    )


def soft_vote(voters):
    return vote_predictions(vote_of(len(voters)), voters)


def set_ensemble(run, **settings):
    """Other settings under `ensemble` of the sweep."""
    sweep = run.sweep()
    changed = sweep.ensemble.model_copy(update=settings)
    run.sweep_file.write_text(resolved_text(sweep.model_copy(update={"ensemble": changed})))


def test_best_first_without_failed_unfinished_and_not_kept_trials(tmp_path):
    run = small_run(tmp_path / "run")
    assert chosen(run, 1) == ["001"]
    assert chosen(run, 5) == ["001", "002"]


def test_ties_go_by_id_and_an_undefined_score_can_not_be_chosen(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id, score in [("c", 0.5), ("b", 0.9), ("a", 0.9), ("d", None)]:
        finish_trial(run, trial_id, score)
    assert chosen(run, 10) == ["a", "b", "c"]


def test_at_most_so_many_of_one_backbone(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id, score, backbone in [("a", 0.9, "x"), ("b", 0.8, "x"), ("c", 0.7, "x"), ("d", 0.6, "y")]:
        finish_trial(run, trial_id, score, backbone=backbone)
    assert chosen(run, 3, 1) == ["a", "d"]
    assert chosen(run, 3, 2) == ["a", "b", "d"]
    assert chosen(run, 2, 2) == ["a", "b"]
    assert chosen(run) == ["a", "b", "c", "d"]


def test_a_probe_that_is_clearly_worse_than_the_best_trial(tmp_path):
    run = new_run(tmp_path / "run")
    labels = [0] * 20 + [1] * 20
    right = np.linspace(0, 1, 40)
    one_apart = right.copy()
    one_apart[[19, 20]] = right[[20, 19]]  # 399 of 400 pairs
    reversed_half = right.copy()
    reversed_half[::2] = right[::-1][::2]
    for trial_id, says in [("a", right), ("like", one_apart), ("worse", reversed_half), ("trial", reversed_half)]:
        trial = finish_trial(run, trial_id, 0.9, val=predictions(says, labels))
        if trial_id in ("like", "worse"):
            run.write_result(trial, trial.result().model_copy(update={"kind": "probe"}))
    a, like, trial, worse = choose_members(run)
    assert [one.id for one in (a, like, trial, worse)] == ["a", "like", "trial", "worse"]
    assert left_out(run, [a, like, trial, worse], False).keys() == {"worse"}
    assert left_out(run, [worse, a, like], True) == {}, "the best one is never worse than itself"
    assert left_out(run, [a, trial], False) == {}, "of trials, the best top_k vote"
    assert left_out(run, [a, like, trial, worse], True).keys() == {"trial", "worse"}
    # by what the models of their folds say, where there are any
    assert left_out(run, [a, like], True, {"a": [a], "like": [trial]}).keys() == {"like"}
    assert left_out(run, [a, trial], True, {"a": [a], "trial": [like]}) == {}


def test_vote_of_two_by_hand():
    vote = soft_vote([predictions(FIRST), predictions(SECOND)])
    assert vote.p_fake.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.7, 0.6], abs=1e-15)
    assert vote.labels.tolist() == LABELS


def test_vote_of_one_is_its_own():
    assert soft_vote([predictions(FIRST)]).p_fake.tolist() == FIRST


def test_equal_weights_are_the_plain_mean_to_the_last_digit():
    random = np.random.default_rng(0)
    p_fake = random.random((7, 1000))
    labels = [0, 1] * 500
    voters = [predictions(row, labels) for row in p_fake]
    assert vote_predictions(vote_of(7), voters).p_fake.tolist() == np.mean(p_fake, axis=0).tolist()
    certain = [predictions([0.0, 1.0], [0, 1])] * 10
    assert vote_predictions(vote_of(10, weights=[0.3, *[0.7 / 9] * 9]), certain).p_fake.tolist() == [0.0, 1.0]


def test_weights_and_temperatures_by_hand():
    # logits of 0.9 and 0.1 are ln 9 and -ln 9, halved ln 3 and -ln 3: 0.75 and 0.25
    voters = [predictions([0.9, 0.1], [1, 0]), predictions([0.25, 0.5], [1, 0])]
    vote = vote_of(2, weights=[0.75, 0.25], temperatures=[2.0, 1.0])
    assert vote_predictions(vote, voters).p_fake.tolist() == pytest.approx(
        [0.75 * 0.75 + 0.25 * 0.25, 0.75 * 0.25 + 0.25 * 0.5]
    )
    # and the vote's own: the mean 0.625 is odds 5/3, to the power of 1/2
    halved = vote_of(2, weights=[0.75, 0.25], temperatures=[2.0, 1.0], temperature=2.0)
    odds = (5 / 3) ** 0.5
    assert vote_predictions(halved, voters).p_fake[0] == pytest.approx(odds / (1 + odds))


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
    with pytest.raises(ValueError, match=r"members 1 and 2 have predicted different images .*fake/5\.jpg"):
        soft_vote([first, Predictions(others, first.labels, first.p_fake)])
    with pytest.raises(ValueError, match=r"\(6 and 5"):
        soft_vote([first, Predictions(first.ids[:5], first.labels[:5], first.p_fake[:5])])
    with pytest.raises(ValueError, match=r"label of fake/3\.jpg"):
        soft_vote([first, Predictions(first.ids, np.array([0, 0, 0, 0, 1, 1], dtype=np.int8), first.p_fake)])


def test_what_is_written(tmp_path):
    run = small_run(tmp_path / "run")
    ensemble = write_ensemble(run, choose_members(run, 2))
    assert run.ensemble() == ensemble
    written = json.loads(run.ensemble_file.read_text())
    assert len(written.pop("sha256")) == 64
    assert written == {
        "schema_version": 3,
        "name": "ensemble",
        "members": ["001", "002"],
        "weights": [0.5, 0.5],
        "temperatures": [1.0, 1.0],
        "temperature": 1.0,
        "threshold": 0.5,
        "unsure": None,
        "classes": ["real", "fake"],
        "metric": "auc",
        "choose_by": "score",
        "val_score": 1.0,
        "others": [],
        "bundle": None,
    }
    for part in ("val", "test"):
        vote = read_predictions(run.ensemble_predictions_file("ensemble", part))
        assert vote.p_fake.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.7, 0.6], abs=1e-15)


def test_every_method_has_its_row_and_its_files(tmp_path):
    run = small_run(tmp_path / "run")
    ensemble = write_ensemble(run, choose_members(run, 2), ["calibrated", "weighted"])
    names = ["ensemble-calibrated", "ensemble-weighted", "ensemble"]
    assert [vote.name for vote in ensemble.votes] == names
    assert ensemble.name == "ensemble-calibrated"
    assert run.ensemble() == ensemble
    for vote in ensemble.votes:
        for part in ("val", "test"):
            members = [read_predictions(run.trial(member).predictions_file(part)) for member in vote.members]
            written = read_predictions(run.ensemble_predictions_file(vote.name, part))
            assert written.p_fake.tolist() == vote_predictions(vote, members).p_fake.tolist()
    files = {f"{name}-predictions-{part}.parquet" for name in names for part in ("val", "test")}
    assert {file.name for file in run.ensemble_file.parent.iterdir()} == {"ensemble.json", *files}


def test_files_of_methods_no_longer_asked_for_go(tmp_path):
    run = small_run(tmp_path / "run")
    write_ensemble(run, choose_members(run, 2), ALL_METHODS)
    own = run.ensemble_file.parent / "my-own.txt"
    own.write_text("mine")
    write_ensemble(run, choose_members(run, 2))
    soft = {f"ensemble-predictions-{part}.parquet" for part in ("val", "test")}
    assert {file.name for file in run.ensemble_file.parent.iterdir()} == {"ensemble.json", "my-own.txt", *soft}


def test_an_unknown_method_names_the_choices(tmp_path):
    run = small_run(tmp_path / "run")
    with pytest.raises(InputError, match="--method soggy: no such method; allowed: soft, weighted, calibrated"):
        write_ensemble(run, choose_members(run, 2), ["soggy"])


def test_weighted_may_choose_from_the_others_and_alone(tmp_path):
    run = small_run(tmp_path / "run")
    right = predictions([0.1, 0.1, 0.1, 0.9, 0.9, 0.9])
    finish_trial(run, "006", 0.5, right, right)
    one, *others = choose_members(run)
    ensemble = write_ensemble(run, [one], ["weighted"], others)
    assert (ensemble.members, ensemble.weights, ensemble.val_score) == (["006"], [1.0], 1.0)
    assert chosen_alone(ensemble) == "ensemble-weighted is 006 alone: on the val images no mixture has a better auc"
    assert [vote.members for vote in ensemble.others] == [["001"]]
    assert chosen_alone(write_ensemble(run, [one], ["soft"], others)) is None


def test_every_vote_has_its_own_operating_point(tmp_path):
    run = small_run(tmp_path / "run")
    set_ensemble(run, threshold="max_f1", unsure_error=0.2)
    ensemble = write_ensemble(run, choose_members(run, 1), ALL_METHODS)
    # 001 says SECOND of val: 0.3 is the lowest score of a fake image, and of a real one
    assert ensemble.threshold == 0.3
    # at 0.3 one of six is wrong: few enough
    assert ensemble.unsure == (0.3, 0.3)
    calibrated = ensemble.others[1]
    assert calibrated.threshold == vote_predictions(calibrated, [predictions(SECOND)]).p_fake[0] != 0.3
    assert run.ensemble() == ensemble


def test_a_threshold_that_can_not_be_chosen_says_so(tmp_path):
    run = new_run(tmp_path / "run")
    finish_trial(run, "a", 0.5, predictions([0.1, 0.2], [0, 0]), predictions(FIRST))
    set_ensemble(run, threshold="youden")
    with pytest.raises(DataError, match=r"ensemble\.threshold: youden can't be chosen.* no fake image"):
        write_ensemble(run, choose_members(run, 1))


def test_one_class_on_val_leaves_the_score_undefined(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id in ("a", "b"):
        finish_trial(run, trial_id, 0.5, predictions([0.1, 0.6], [0, 0]), predictions(FIRST))
    ensemble = write_ensemble(run, choose_members(run, 2), ALL_METHODS)
    assert [vote.val_score for vote in ensemble.votes] == [None] * 3
    assert [vote.threshold for vote in ensemble.votes] == [0.5] * 3
    assert ensemble.others[0].members == ["a"]  # the better one of nothing to choose by


def test_the_val_score_knows_nothing_of_the_test_images(tmp_path):
    run = small_run(tmp_path / "run")
    members = choose_members(run, 2)
    for member in members:
        write_predictions(member.predictions_file("test"), predictions([1, 1, 1, 0, 0, 0]), {})
    assert write_ensemble(run, members).val_score == 1.0


def test_missing_or_unfit_predictions_leave_the_old_ensemble_alone(tmp_path):
    run = small_run(tmp_path / "run")
    members = choose_members(run, 2)
    write_ensemble(run, members)
    before = run.ensemble_file.read_bytes()
    write_predictions(members[0].predictions_file("test"), predictions([0.5], [0]), {})
    with pytest.raises(RunError, match="the test predictions of 001, 002 can't be joined"):
        write_ensemble(run, members)
    members[0].predictions_file("test").unlink()
    with pytest.raises(RunError, match=r"001.predictions-test\.parquet.*`rfray ensemble` makes it"):
        write_ensemble(run, members)
    members[1].predictions_file("val").unlink()
    with pytest.raises(RunError, match=r"002.predictions-val\.parquet.*`rfray tune` .* trains it again"):
        write_ensemble(run, members)
    assert run.ensemble_file.read_bytes() == before


def test_no_member_and_a_damaged_record_are_errors(tmp_path):
    run = small_run(tmp_path / "run")
    assert run.ensemble() is None
    with pytest.raises(RunError, match="nothing to join"):
        write_ensemble(run, [])
    write_ensemble(run, choose_members(run, 2))
    run.ensemble_file.write_text('{"schema_version": 2}')
    with pytest.raises(RunError, match=r"ensemble\.json is damaged"):
        run.ensemble()


FOLDS = ([0, 3, 4], [1, 2, 5])
"""Positions of the images of two folds."""


def run_of_folds(folder):
    """Two finalists, 1-a and 2-b, whose folds say FIRST and SECOND of the training images; a third lacks a fold."""
    run = new_run(folder)
    for name, said, backbone in (("1-a", FIRST, "x"), ("2-b", SECOND, "y"), ("3-c", LABELS, "x")):
        finish_trial(run, name, 0.6, predictions(said), predictions(said), backbone=backbone)
        for number, here in enumerate(FOLDS, 1):
            whole = predictions(said)
            part = Predictions(whole.ids[here], whole.labels[here], whole.p_fake[here])
            report = predictions([0.1 * number] * 6)
            if (name, number) != ("3-c", 2):
                how = {"repeats": name, "fold": (number, 2), "backbone": backbone}
                finish_trial(run, f"{name}-fold{number}of2", 0.5, part, report, **how)
    return run


def test_finalists_are_ranked_by_what_their_folds_say_of_all_training_images(tmp_path):
    run = run_of_folds(tmp_path / "run")
    models = fold_models(run, 2)
    # 8.5 of the nine pairs against 7; the third is not whole, and no folds of another number are there
    assert {name: [trial.id for trial in found] for name, found in models.items()} == {
        "2-b": ["2-b-fold1of2", "2-b-fold2of2"],
        "1-a": ["1-a-fold1of2", "1-a-fold2of2"],
    }
    assert fold_models(run, 3) == {}
    order = np.argsort(predictions(FIRST).ids)
    assert out_of_fold(models["1-a"]).p_fake.tolist() == np.array(FIRST)[order].tolist()
    # the models of folds are no candidates by themselves
    assert chosen(run) == ["1-a", "2-b", "3-c"]


def test_at_most_so_many_finalists_of_one_backbone(tmp_path):
    run = run_of_folds(tmp_path / "run")
    finish_trial(
        run,
        "3-c-fold2of2",
        0.5,
        Predictions(*(getattr(predictions(LABELS), of)[FOLDS[1]] for of in ("ids", "labels", "p_fake"))),
        repeats="3-c",
        fold=(2, 2),
        backbone="x",
    )
    assert list(fold_models(run, 2)) == ["3-c", "2-b", "1-a"]
    assert list(fold_models(run, 2, 1)) == ["3-c", "2-b"]


def test_models_that_chose_their_epoch_on_their_fold_do_not_vote(tmp_path):
    run = run_of_folds(tmp_path / "run")
    chosen = run.trial("1-a-fold1of2")
    write_record(chosen.start_file, chosen.start().model_copy(update={"keep_epoch": None}), chosen.mirror)
    assert list(fold_models(run, 2)) == ["2-b"]


def test_a_finalist_votes_by_the_mean_of_its_folds_chosen_on_all_training_images(tmp_path):
    run = run_of_folds(tmp_path / "run")
    set_ensemble(run, threshold="max_f1")
    models = fold_models(run, 2)
    ensemble = write_ensemble(run, [run.trial(name) for name in models], folds=models)
    assert ensemble.members == ["2-b-fold1of2", "2-b-fold2of2", "1-a-fold1of2", "1-a-fold2of2"]
    assert ensemble.weights == [0.25] * 4
    assert ensemble.temperatures == [1.0] * 4
    assert ensemble.val_score == 1.0  # of the mean of FIRST and SECOND, which is all right
    assert 0.4 < ensemble.threshold <= 0.6
    val = read_predictions(run.ensemble_predictions_file("ensemble", "val"))
    said = dict(zip(val.ids.tolist(), val.p_fake.tolist(), strict=True))
    mean = (np.array(FIRST) + np.array(SECOND)) / 2
    assert [said[name] for name in predictions(FIRST).ids.tolist()] == pytest.approx(mean.tolist(), abs=1e-15)
    report = read_predictions(run.ensemble_predictions_file("ensemble", "test"))
    assert report.p_fake.tolist() == pytest.approx([0.15] * 6, abs=1e-15)


# under corruption


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
        {"002": 0.7778, "ensemble": 0.1111, "001": 0, "003": float("nan"), "004": float("nan")}
        | {"always-real": float("nan")},
        nan_ok=True,
    )
    assert frame["rank"].tolist()[:3] == [1, 2, 3]
    assert frame["rank"].isna().tolist() == [False, False, False, True, True, True]
    assert "ranked by `val_worst_corruption`, the smallest auc on val" in run.leaderboard_md.read_text()
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
    with pytest.raises(RunError, match="the test predictions under blur_1 of 001, 002 can't be joined"):
        join(run)
    run.trial("002").predictions_file("test", "blur_1").unlink()
    with pytest.raises(RunError, match=r"002.predictions-test-blur_1\.parquet"):
        join(run)

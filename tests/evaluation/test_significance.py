"""rfray.evaluation.significance: the columns by hand, who is compared with whom, and the verdict."""

import numpy as np
import pandas as pd
import pytest

from rfray.errors import RunError
from rfray.evaluation import significance as module
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import build_leaderboard
from rfray.evaluation.significance import INTERVALS, TESTS, WORDS, Evaluated, verdict
from rfray.stats.intervals import bootstrap, percentile_intervals, resample, wilson
from rfray.stats.paired_tests import placements
from rfray.stats.predictions import Predictions, write_predictions
from tests.synthetic import FIRST, LABELS, SECOND, finish_trial, new_run, predictions, small_run

VOTE = [0.2, 0.3, 0.4, 0.6, 0.7, 0.6]
"""The mean of FIRST and SECOND: all are right, also at 0.5."""


def row(name, p_fake, labels=LABELS, val=0.5, threshold=0.5, kind="model"):
    return Evaluated(name, kind, val, threshold, predictions(p_fake, labels))


def significance(rows, ensemble, groups=None):
    return module.significance(rows, ensemble, groups)


def three():
    return [row("ensemble", VOTE, kind="ensemble"), row("a", FIRST), row("b", SECOND)]


def sample(random, gap, n=200):
    """Scores of as many real as fake images, the fakes about `gap` standard deviations higher."""
    labels = np.repeat([0, 1], n // 2)
    return (1 / (1 + np.exp(-(random.normal(size=n) + gap * (labels - 0.5))))).tolist(), labels.tolist()


def test_columns_in_order():
    table = significance(three(), "ensemble")
    assert table.index.tolist() == ["ensemble", "a", "b"]
    assert list(table.columns) == ["n_groups", *INTERVALS, *TESTS, *WORDS]
    assert INTERVALS[:2] + INTERVALS[6:10] == [
        *("accuracy_low", "accuracy_high", "auc_low", "auc_high", "accuracy_boot_low", "accuracy_boot_high")
    ]
    assert TESTS == ["auc_p_best", "accuracy_p_best", "auc_p_ensemble", "accuracy_p_ensemble"]


def test_intervals_by_hand():
    found = significance(three(), "ensemble").loc["a"]  # tn 2, fp 1, fn 1, tp 2
    for measure, (hits, n) in {"accuracy": (4, 6), "precision": (2, 3), "recall": (2, 3)}.items():
        expected = wilson(hits, n)
        assert [found[f"{measure}_low"], found[f"{measure}_high"]] == expected.tolist()
    expected = placements(np.array(LABELS), np.array([FIRST])).intervals[0]
    assert [found["auc_low"], found["auc_high"]] == expected.tolist()
    values = bootstrap(np.array(LABELS), np.array([FIRST]), np.array([0.5]), resample(np.array(LABELS)))
    for measure, value in values.items():
        ends = percentile_intervals(value)[0]
        assert [found[f"{measure}_boot_low"], found[f"{measure}_boot_high"]] == ends.tolist()


def test_tests_by_hand():
    table = significance(three(), "ensemble")
    # against a: 0.37109 and 0.58388, see test_paired_tests; twice the smaller, and none less than the one before
    assert table["auc_p_best"].tolist() == pytest.approx([0.74218, np.nan, 0.74218], abs=1e-5, nan_ok=True)
    # the vote has two right that a has wrong, 2 / 2^2; b has both of these right too, and none that a has right wrong
    assert table["accuracy_p_best"].tolist() == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert np.isnan(table.loc["ensemble", "auc_p_ensemble"])
    assert table.loc["a", "auc_p_ensemble"] == pytest.approx(0.74218, abs=1e-5)
    assert table["tied"].tolist() == ["yes", "yes", "yes"]


def test_every_row_at_its_own_threshold():
    low, high = row("low", VOTE, threshold=0.1), row("high", VOTE, threshold=0.65)
    table = significance([row("best", VOTE), low, high], None)
    assert table.loc["low", "recall_high"] == 1
    expected = wilson(1, 3)
    assert table.loc["high", ["recall_low", "recall_high"]].tolist() == expected.tolist()
    # low has the three real images wrong, high two fakes: 2 / 2^3 and 2 / 2^2
    assert table["accuracy_p_best"].tolist() == pytest.approx([np.nan, 0.5, 0.5], nan_ok=True)
    assert table["auc_p_best"].tolist() == pytest.approx([np.nan, 1, 1], nan_ok=True)


def test_tied_with_the_best_or_not():
    random = np.random.default_rng(0)
    best, labels = sample(random, 3.0)
    noise = 0.02 * random.random(200)
    rows = [
        row("chance", random.random(200).tolist(), labels, val=0.9),
        row("near", np.clip(best + noise, 0, 1).tolist(), labels, val=0.8),
        row("best", best, labels, val=0.7),
    ]
    table = significance(rows, None)
    assert dict(table["tied"]) == {"chance": "no", "near": "yes", "best": "yes"}
    # the reference is the best by val, though by test it is the worst
    assert table["auc_p_best"].isna().tolist() == [True, False, False]
    assert (table["auc_p_best"].iloc[1:] < 1e-6).all()
    assert table[["auc_p_ensemble", "accuracy_p_ensemble"]].isna().all(axis=None)


def test_a_model_without_a_val_score_is_not_the_best():
    table = significance([row("a", FIRST, val=np.nan), row("b", SECOND, val=0.1)], None)
    assert table["accuracy_p_best"].isna().tolist() == [False, True]


def test_the_order_of_the_images_does_not_matter():
    expected = significance(three(), "ensemble")
    turned = three()
    order = np.array([3, 1, 5, 0, 2, 4])
    report = turned[1].test
    shuffled = Predictions(report.ids[order], report.labels[order], report.p_fake[order])
    turned[1] = Evaluated("a", "model", 0.5, 0.5, shuffled)
    pd.testing.assert_frame_equal(significance(turned, "ensemble"), expected)


def test_rows_of_other_images_are_not_compared():
    old = row("old", [*FIRST, 0.7], [*LABELS, 1], val=0.99)
    table = significance([old, *three()], "ensemble")
    pd.testing.assert_frame_equal(table.drop("old"), significance(three(), "ensemble"))
    assert table.loc["old", INTERVALS].notna().all()
    assert table.loc["old", TESTS].isna().all()
    assert table.loc["old", "tied"] == ""


def test_without_an_ensemble_the_best_models_images_count():
    old = row("old", [*FIRST, 0.7], [*LABELS, 1], val=0.1)
    table = significance([row("a", FIRST), row("b", SECOND), old], None)
    assert table["accuracy_p_best"].isna().tolist() == [True, False, True]
    assert table["tied"].tolist() == ["yes", "yes", ""]


def test_a_contradiction_is_an_error():
    other = Predictions(predictions(FIRST).ids, np.array([1, 0, 0, 1, 1, 1], np.int8), np.array(FIRST))
    with pytest.raises(RunError, match=r"a and b disagree on the label of real/0.jpg"):
        significance([row("a", FIRST), Evaluated("b", "model", 0.5, 0.5, other)], None)


def test_one_class():
    table = significance([row("a", [0.1, 0.2, 0.6], [0, 0, 0]), row("b", [0.1, 0.2, 0.3], [0, 0, 0])], None)
    defined = [column for column in table.columns if table[column].notna().all() and (table[column] != "").all()]
    assert defined == [
        *("n_groups", "accuracy_low", "accuracy_high", "accuracy_boot_low", "accuracy_boot_high"),
        *("fpr_low", "fpr_high", "tested_by"),
    ]
    assert table.loc["b", "accuracy_p_best"] == 1
    assert table["tied"].tolist() == ["", ""]


def test_one_row_or_none():
    table = significance([row("a", FIRST)], "ensemble")
    assert table.loc["a", INTERVALS].notna().all()
    assert table.loc["a", TESTS].isna().all()
    assert table.loc["a", "tied"] == "yes"
    empty = significance([], None)
    assert (len(empty), list(empty.columns)) == (0, ["n_groups", *INTERVALS, *TESTS, *WORDS])
    assert significance([row("a", [], [])], None)["tied"].tolist() == [""]


def test_the_best_models_and_every_ensemble_are_bootstrapped(monkeypatch):
    monkeypatch.setattr(module, "BOOTSTRAPPED", 1)
    rows = [row("a", FIRST), row("b", SECOND), row("ensemble", VOTE, kind="ensemble")]
    table = significance(rows, "ensemble")
    bootstrapped = [column for column in INTERVALS if "_boot_" in column]
    assert table[bootstrapped].notna().all(axis=1).tolist() == [True, False, True]
    assert table.drop(columns=bootstrapped).notna().loc["b"].all()


def test_of_very_many_images_nothing_is_bootstrapped(monkeypatch):
    monkeypatch.setattr(module, "BOOTSTRAPPED_IMAGES", len(FIRST) - 1)
    monkeypatch.setattr(module.Panel, "resample", lambda _: 1 / 0)
    table = significance([row("a", FIRST), row("ensemble", VOTE, kind="ensemble")], "ensemble")
    bootstrapped = [column for column in INTERVALS if "_boot_" in column]
    assert table[bootstrapped].isna().all(axis=None)
    assert table.drop(columns=bootstrapped)[INTERVALS[:8]].notna().all(axis=None)


def test_images_that_belong_together_are_drawn_together():
    p_fake, labels = sample(np.random.default_rng(1), 1.0, 60)
    once = row("a", p_fake, labels)
    ids = np.array([f"{image}{copy}" for copy in "ab" for image in once.test.ids])
    report = Predictions(ids, np.tile(once.test.labels, 2), np.tile(once.test.p_fake, 2))
    twice = Evaluated("a", "model", 0.5, 0.5, report)
    groups = pd.Series(np.tile(np.arange(60), 2), index=ids).sample(frac=1, random_state=0)
    bootstrapped = [column for column in INTERVALS if "_boot_" in column]
    expected = significance([once], None)[bootstrapped]
    pd.testing.assert_frame_equal(significance([twice], None, groups)[bootstrapped], expected)
    alone = pd.Series(range(120), index=ids)
    pd.testing.assert_frame_equal(significance([twice], None, alone), significance([twice], None))
    assert significance([twice], None)["auc_boot_low"].iloc[0] > expected["auc_boot_low"].iloc[0]


def test_images_of_no_known_group_stand_alone():
    known = pd.Series([4, 4], index=["real/0.jpg", "real/1.jpg"])
    all_known = pd.Series([4, 4, 0, 1, 2, 3], index=predictions(FIRST).ids)
    rows = [row("a", FIRST)]
    pd.testing.assert_frame_equal(significance(rows, None, known), significance(rows, None, all_known))


@pytest.fixture
def run(tmp_path):
    run = small_run(tmp_path / "run")
    write_ensemble(run, choose_members(run, 2))
    return run


def test_groups_are_one_piece_of_evidence():
    """Every image twice, its copy in its group: intervals and tests are those of groups, and fewer than alone."""
    p_fake, labels = sample(np.random.default_rng(3), 1.0, 60)
    other = np.clip(np.array(p_fake) + np.random.default_rng(4).normal(0, 0.1, 60), 0, 1).tolist()
    ids = np.array([f"{number}-{copy}" for copy in range(2) for number in range(60)])
    rows = [
        Evaluated(name, "model", val, 0.5, Predictions(ids, np.tile(np.array(labels, np.int8), 2), np.tile(said, 2)))
        for name, val, said in (("a", 0.9, p_fake), ("b", 0.8, other))
    ]
    groups = pd.Series(np.tile(np.arange(60), 2), index=ids)
    together, alone = significance(rows, None, groups), significance(rows, None)
    assert (together["n_groups"].tolist(), alone["n_groups"].tolist()) == ([60, 60], [120, 120])
    for measure in ("accuracy", "precision", "recall", "auc", "fpr"):
        wide, narrow = (table[f"{measure}_high"] - table[f"{measure}_low"] for table in (together, alone))
        assert (wide > 1.3 * narrow).all()
    assert together.loc["b", "auc_p_best"] > alone.loc["b", "auc_p_best"]
    assert together["tested_by"].str.contains("groups").all()
    assert not alone["tested_by"].str.contains("groups").any()


def test_verdict_by_hand(run):
    assert verdict(run, build_leaderboard(run)) == (
        "On 6 test images the ensemble is tied with the best single model, 001: AUC 1.0000 against 0.7778, a "
        "difference of 0.2222 (95 % interval -0.2647 to 0.7092, p = 0.3711 by DeLong's paired test, p = 0.7422 "
        "corrected for all rows)."
    )


@pytest.mark.parametrize(("gaps", "outcome"), [((1.0, 4.0), "beats"), ((2.0, -2.0), "falls behind")])
def test_verdict_that_tells_them_apart(tmp_path, gaps, outcome):
    run, random = new_run(tmp_path / "run"), np.random.default_rng(2)
    for name, gap, score in zip("ab", gaps, (0.9, 0.8), strict=True):
        p_fake, labels = sample(random, gap)
        report = predictions(p_fake, labels)
        finish_trial(run, name, score, val=report, report=report)
    write_ensemble(run, choose_members(run, 2))
    sentence = verdict(run, build_leaderboard(run))
    assert f"the ensemble {outcome} the best single model, a: " in sentence
    assert "p < 0.0001" in sentence


def test_no_verdict_without_an_ensemble_or_two_classes(tmp_path):
    run = small_run(tmp_path / "none")
    assert verdict(run, build_leaderboard(run)) is None
    run = new_run(tmp_path / "one")
    finish_trial(run, "a", 0.9, predictions(FIRST), predictions([0.1, 0.2], [0, 0]))
    write_ensemble(run, choose_members(run, 1))
    assert verdict(run, build_leaderboard(run)) is None


def test_the_verdict_is_on_a_model_of_the_same_images(run):
    stale = predictions([*FIRST, 0.9], [*LABELS, 1])
    write_predictions(run.trial("003").predictions_file("test"), stale, {})
    frame = build_leaderboard(run)
    assert frame.loc[frame["name"] == "003", "n"].tolist() == [7]
    assert "best single model, 001: " in verdict(run, frame)
    run.trial("001").predictions_file("test").unlink()
    assert verdict(run, frame) is None

"""rfray.evaluation.leaderboard: rows, columns, ranks, and numbers that scikit-learn gives digit by digit."""

import csv

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from rfray.errors import RunError
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import (
    LOWER_IS_BETTER,
    build_leaderboard,
    column_types,
    false_positives,
    guessing,
    read_leaderboard,
    waiting,
    write_leaderboard,
)
from rfray.evaluation.significance import INTERVALS, TESTS, WORDS, Evaluated, significance
from rfray.spec.sweep import MaxFpr
from rfray.spec.sweep_file import resolved_text
from rfray.stats.intervals import wilson
from rfray.stats.predictions import read_predictions
from tests.audits import leaking_audit
from tests.synthetic import (
    FIRST,
    SECOND,
    catalog_of,
    fail_trial,
    finish_trial,
    new_run,
    predictions,
    small_run,
    start_trial,
)

CONTRACT = (
    "rank,name,kind,status,members,backbone,augmentation,lr,val_auc,accuracy,precision,recall,f1,auc,"
    "tn,fp,fn,tp,n,threshold"
)
OUTCOMES = ["accuracy", "precision", "recall", "f1", "auc", "tn", "fp", "fn", "tp", "n", "threshold"]


@pytest.fixture
def run(tmp_path):
    run = small_run(tmp_path / "run")
    write_ensemble(run, choose_members(run, 2))
    return run


def cells(run):
    """leaderboard.csv as plain text: name -> column -> cell."""
    with run.leaderboard_csv.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_columns_in_the_order_of_the_contract(run):
    write_leaderboard(run)
    header = run.leaderboard_csv.read_text().splitlines()[0]
    assert header.startswith(CONTRACT + ",")
    more = header.removeprefix(CONTRACT + ",").split(",")
    assert more == [
        *("average_precision", "balanced_accuracy", "best_epoch", "epochs", "seconds", "wait_share"),
        *("pretrained", "image_size", "batch_size"),
        *("fpr", "fpr_low", "fpr_high", "fpr_val", "unsure_share", "unsure_error", "temperature", "ece", "brier"),
        *("auc_left_out", "auc_left_out_worst"),  # as the sweep has a probe
        *("n_groups", "accuracy_low", "accuracy_high", "precision_low", "precision_high"),
        *("recall_low", "recall_high", "auc_low", "auc_high"),
        *("accuracy_boot_low", "accuracy_boot_high", "precision_boot_low", "precision_boot_high"),
        *("recall_boot_low", "recall_boot_high", "auc_boot_low", "auc_boot_high"),
        *("auc_p_best", "accuracy_p_best", "auc_p_ensemble", "accuracy_p_ensemble"),
        *("tested_by", "tied", "optimism"),
    ]


def test_where_an_hour_has_a_price_the_last_column_is_the_cost(run):
    sweep = run.sweep()
    priced = sweep.model_copy(update={"resources": sweep.resources.model_copy(update={"price_per_hour": 1.2})})
    run.sweep_file.write_text(resolved_text(priced))
    assert write_leaderboard(run).columns[-1] == "cost"
    assert read_leaderboard(run).columns[-1] == "cost"
    assert float(cells(run)["001"]["cost"]) == pytest.approx(3.0 / 3600 * 1.2)  # two epochs of 1.5 s
    assert [cells(run)[name]["cost"] for name in ("ensemble", "004")] == ["", ""]


def test_rows_ranks_and_statuses(run):
    write_leaderboard(run)
    shown = [(row["rank"], row["name"], row["kind"], row["status"]) for row in cells(run).values()]
    assert shown == [
        ("1", "ensemble", "ensemble", "ok"),
        ("2", "003", "model", "not kept"),
        ("3", "001", "model", "ok"),
        ("4", "002", "model", "ok"),
        ("", "004", "model", "failed: RuntimeError: shape | mismatch <script>alert(1)</script>"),
        ("", "always-real", "baseline", "ok"),
    ]
    assert cells(run)["ensemble"]["members"] == "001 002"


def test_numbers_by_hand(run):
    write_leaderboard(run)
    row = cells(run)["001"]
    assert [row[column] for column in ("tn", "fp", "fn", "tp", "n", "threshold")] == ["2", "1", "1", "2", "6", "0.5"]
    assert float(row["auc"]) == pytest.approx(7 / 9, abs=1e-15)
    assert row["lr"] == "0.30000000000000004"
    assert cells(run)["ensemble"]["auc"] == "1.0"


def test_how_sure_the_numbers_are(run):
    frame = write_leaderboard(run).set_index("name")
    assert frame.loc["001", "accuracy_low"] == wilson(4, 6)[0]
    assert frame.loc["ensemble", "recall_boot_high"] == 1
    assert frame["auc_p_best"].tolist() == pytest.approx(
        [0.74218, *[np.nan] * 2, 0.74218, *[np.nan] * 2], 1e-4, nan_ok=True
    )
    assert frame["tied"].tolist() == ["yes", "", "yes", "yes", "", ""]
    # val minus report: 1 - 1 of the ensemble, (8.5 - 7) / 9 of 001, 14 / 18 - 17 / 18 of 002
    expected = [0.0, np.nan, 1.5 / 9, -3 / 18, np.nan, np.nan]
    assert frame["optimism"].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_images_that_belong_together_are_one_piece_of_evidence(run):
    independent = build_leaderboard(run)
    report = catalog_of(path=predictions(FIRST).ids, part="test", group_id=[7, 7, 8, 9, 9, 5])
    elsewhere = catalog_of(path=["real/0.jpg", "real/9.jpg"], part="train", group_id=[0, 1])
    run.write_catalog(pd.concat([elsewhere, report]))
    together = build_leaderboard(run)
    clustered = ["n_groups", *INTERVALS]
    others = [column for column in together if column not in [*clustered, *TESTS, *WORDS]]
    pd.testing.assert_frame_equal(together[others], independent[others])
    predicted = together[together["n"].notna() & (together["kind"] != "baseline")]
    assert set(predicted["n_groups"]) == {4}
    assert set(predicted["tested_by"]) == {
        "DeLong's paired test for groups (Obuchowski 1997); the exact sign-flip test of groups (Obuchowski 1998)"
    }
    assert set(independent["tested_by"]) == {"DeLong's paired test; McNemar's exact test", ""}
    groups = report.set_index("path")["group_id"]
    expected = significance([Evaluated("001", "model", 0.9, 0.5, predictions(FIRST))], None, groups)
    row = together[together["name"] == "001"][clustered].iloc[0]
    assert row.tolist() == expected[clustered].iloc[0].tolist() != independent[clustered].iloc[2].tolist()


def test_every_number_is_scikit_learns_digit_by_digit(run):
    write_leaderboard(run)
    files = {name: run.trial(name).predictions_file("test") for name in ("001", "002")}
    files["ensemble"] = run.ensemble_predictions_file("ensemble", "test")
    for name, file in files.items():
        given = read_predictions(file)
        calls = (given.p_fake >= 0.5).astype(int)
        expected = {
            "accuracy": sk.accuracy_score(given.labels, calls),
            "precision": sk.precision_score(given.labels, calls),
            "recall": sk.recall_score(given.labels, calls),
            "f1": sk.f1_score(given.labels, calls),
            "auc": sk.roc_auc_score(given.labels, given.p_fake),
        }
        assert {column: cells(run)[name][column] for column in expected} == {
            column: repr(float(value)) for column, value in expected.items()
        }
        counts = sk.confusion_matrix(given.labels, calls).ravel()
        assert [cells(run)[name][column] for column in ("tn", "fp", "fn", "tp")] == [str(count) for count in counts]


def test_no_number_where_there_is_none(run):
    write_leaderboard(run)
    assert "nan" not in run.leaderboard_csv.read_text().lower()
    failed, not_kept, ensemble = (cells(run)[name] for name in ("004", "003", "ensemble"))
    assert not any(failed[column] for column in ("rank", "val_auc", *OUTCOMES, "best_epoch", "epochs", "seconds"))
    assert not_kept["val_auc"] == "0.95"
    assert not any(not_kept[column] for column in OUTCOMES)
    assert not any(ensemble[column] for column in ("backbone", "augmentation", "lr", "image_size", "pretrained"))


def test_an_undefined_metric_is_an_empty_cell(tmp_path):
    run = new_run(tmp_path / "run")
    finish_trial(run, "a", None, predictions([0.1, 0.2], [0, 0]), predictions([0.1, 0.2], [0, 0]))
    fail_trial(run, "0", "boom")
    write_leaderboard(run)
    row = cells(run)["a"]
    assert (row["rank"], row["status"], row["val_auc"]) == ("", "ok", "")
    assert (row["auc"], row["precision"], row["accuracy"], row["fp"]) == ("", "", "1.0", "0")
    assert list(cells(run)) == ["a", "0"]


def test_ties_go_by_name_also_between_ensemble_and_model(tmp_path):
    run = new_run(tmp_path / "run")
    for trial_id in ("z", "a"):
        finish_trial(run, trial_id, 1.0, predictions([0, 0, 0, 1, 1, 1]), predictions(SECOND))
    write_ensemble(run, choose_members(run, 2))
    frame = build_leaderboard(run)
    assert frame["name"].tolist() == ["a", "ensemble", "z", "always-real"]
    assert frame["rank"].tolist() == [1, 2, 3, pd.NA]


def asking(run, **settings):
    """The same run with other settings under `ensemble`."""
    sweep = run.sweep()
    changed = sweep.ensemble.model_copy(update=settings)
    run.sweep_file.write_text(resolved_text(sweep.model_copy(update={"ensemble": changed})))
    return run


def test_every_vote_is_a_row(run):
    write_ensemble(run, choose_members(run, 2), ["weighted", "calibrated"])
    write_leaderboard(run)
    votes = {name: row for name, row in cells(run).items() if row["kind"] == "ensemble"}
    assert set(votes) == {"ensemble", "ensemble-weighted", "ensemble-calibrated"}
    assert {row["members"] for row in votes.values()} == {"001 002"}
    assert {row["auc"] for row in votes.values()} == {"1.0"}
    # two candidates with one vote each: the same mean; calibrated ones are as sure as val allows
    assert votes["ensemble-weighted"]["brier"] == votes["ensemble"]["brier"]
    assert votes["ensemble-calibrated"]["brier"] != votes["ensemble"]["brier"]


def test_each_row_has_its_own_threshold_from_its_own_val_predictions(run):
    asking(run, threshold=MaxFpr(max_fpr=0.01), unsure_error=0.1)
    write_ensemble(run, choose_members(run, 2))
    write_leaderboard(run)
    found = cells(run)
    # 001 says SECOND of val: no real image from 0.6 on; the vote 0.2 0.3 0.4 | 0.6 0.7 0.6
    assert [found[name]["threshold"] for name in ("001", "002", "ensemble")] == ["0.6", "0.8", "0.6"]
    # and FIRST of report: 0.6 is real, 0.3 fake
    first = found["001"]
    assert [first[column] for column in ("tn", "fp", "fn", "tp")] == ["2", "1", "1", "2"]
    assert (first["fpr_val"], float(first["fpr"])) == ("0.0", pytest.approx(1 / 3))
    # on val a fake and a real image are at 0.3, and only the fake one is called wrongly: all at 0.3 are unsure,
    # which are from 0.3 to below 0.6; on report that is 0.3 and 0.4, and of the others 0.6 is called wrongly
    assert float(first["unsure_share"]) == pytest.approx(2 / 6)
    assert float(first["unsure_error"]) == pytest.approx(1 / 4)
    assert found["ensemble"]["unsure_error"] == "0.0"
    assert found["003"]["threshold"] == found["004"]["ece"] == ""
    pd.testing.assert_frame_equal(read_leaderboard(run), build_leaderboard(run))


def test_what_was_asked_of_the_false_positives_is_said(run):
    assert false_positives(run, write_leaderboard(run)) is None
    asking(run, threshold=MaxFpr(max_fpr=0.01))
    write_ensemble(run, choose_members(run, 2))
    said = false_positives(run, write_leaderboard(run))
    assert said.startswith("False-positive rate of ensemble: at most 1 % was asked for; 0 % on val")
    assert "in keeping with what was asked for." in said
    assert said in run.leaderboard_md.read_text()
    write_ensemble(run, choose_members(run, 2), ["weighted"])
    assert false_positives(run, write_leaderboard(run)).startswith("False-positive rate of ensemble-weighted")


def test_a_trial_without_val_predictions_says_what_to_do(run):
    run.trial("001").predictions_file("val").unlink()
    with pytest.raises(RunError, match=r"001.predictions-val\.parquet.*`rfray tune` .* trains it again"):
        build_leaderboard(run)


def test_reads_back_the_same_table(run):
    written = write_leaderboard(run)
    pd.testing.assert_frame_equal(read_leaderboard(run), written)
    assert {column: str(dtype) for column, dtype in written.dtypes.items()} == column_types(run.sweep())


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    run = new_run(tmp_path / "run", augmentation=["none", "NA", "null"])
    for trial_id, policy in [("007", "NA"), ("1e5", "null"), ("nan", "none")]:
        finish_trial(run, trial_id, 0.5, augmentation=policy)
    write_leaderboard(run)
    found = read_leaderboard(run)
    assert found["name"].tolist() == ["007", "1e5", "nan"]
    assert found["augmentation"].tolist() == ["NA", "null", "none"]
    assert found["members"].tolist() == ["", "", ""]


def test_every_axis_has_a_column_that_no_metric_takes(tmp_path):
    axes = {"weight_decay": {"log": [1e-3, 1e-1]}, "precision": ["fp32", "bf16"], "epochs": [2, 4], "patience": [0, 2]}
    run = new_run(tmp_path / "run", **axes)
    finish_trial(run, "a", 0.5, predictions(FIRST), predictions(FIRST), epochs=4, precision="bf16", pretrained=False)
    write_leaderboard(run)
    row = cells(run)["a"]
    assert (row["epochs"], row["trial_epochs"], row["trial_precision"], row["weight_decay"]) == (
        "2",
        "4",
        "bf16",
        "0.05",
    )
    assert (row["patience"], row["pretrained"]) == ("0", "false")
    assert float(row["precision"]) == pytest.approx(2 / 3)
    pd.testing.assert_frame_equal(read_leaderboard(run), build_leaderboard(run))


def test_the_val_column_takes_the_name_of_the_metric(tmp_path):
    run = new_run(tmp_path / "run")
    sweep = run.sweep()
    by_f1 = sweep.model_copy(update={"search": sweep.search.model_copy(update={"metric": "f1"})})
    run.sweep_file.write_text(resolved_text(by_f1))
    finish_trial(run, "a", 0.25)
    frame = write_leaderboard(run)
    assert list(frame.columns)[8] == "val_f1"
    assert "`val_f1`" in run.leaderboard_md.read_text()


def test_columns_that_are_better_low_exist(run):
    assert set(column_types(run.sweep())) >= {one for one in LOWER_IS_BETTER if not one.startswith("spread_")} - {
        "cost"
    }


@pytest.mark.parametrize("reason", ["one\ntwo", "\n one\r\ntwo", "one\u2028two", "one\x0btwo"])
def test_only_the_first_line_of_a_reason(tmp_path, reason):
    run = new_run(tmp_path / "run")
    fail_trial(run, "a", reason)
    assert build_leaderboard(run)["status"].tolist() == ["failed: one"]


def test_a_run_in_which_nothing_ended(tmp_path):
    run = new_run(tmp_path / "run")
    start_trial(run, "a")
    assert write_leaderboard(run).empty
    assert read_leaderboard(run).empty


def test_a_missing_or_foreign_table_is_an_error(run):
    with pytest.raises(RunError, match="rfray ensemble"):
        read_leaderboard(run)
    run.leaderboard_csv.write_text("rank,name\n1,a\n")
    with pytest.raises(RunError, match="other columns"):
        read_leaderboard(run)
    run.leaderboard_csv.write_text(CONTRACT + "\nfirst,a\n")
    with pytest.raises(RunError, match="damaged"):
        read_leaderboard(run)


def test_markdown_twin(run):
    write_leaderboard(run)
    lines = run.leaderboard_md.read_text().splitlines()
    heading, _, warning, _, note, _, said, _, header, _, *rows = lines
    assert heading == "# Leaderboard of run"
    assert warning.startswith("**No better than guessing on 6 test images: AUC 1.000 (95 % interval 0.292 to 1.000)")
    assert "`val_auc`" in note
    assert "n: 6 images" in note
    assert said.startswith("On 6 test images the ensemble is tied with the best single model, 001: AUC 1.0000")
    assert header == "| " + CONTRACT.replace(",", " | ") + " |"
    assert len(rows) == 6
    assert all(row.replace("\\|", "").count("|") == 21 for row in rows)
    assert "| 0.7778 | 2 | 1 | 1 | 2 | 6 | 0.5 |" in rows[2]
    assert r"shape \| mismatch \<script\>" in rows[4]
    assert rows[5] == (
        "|  | always-real | baseline | ok |  |  |  |  |  | 0.5000 |  | 0.0000 | 0.0000 | 0.5000 "
        "| 3 | 0 | 3 | 0 | 6 |  |"
    )


def test_an_escaped_backslash_opens_no_cell(tmp_path):
    run = new_run(tmp_path / "run")
    fail_trial(run, "a", "a\\|b\tc")
    write_leaderboard(run)
    assert r"failed: a\\\|b c" in run.leaderboard_md.read_text()


def test_models_that_waited_for_images_are_spoken_of(tmp_path):
    run = new_run(tmp_path / "run")
    for name, share in (("a", 0.02), ("b", 0.1), ("c", 0.25), ("d", 0.4)):
        finish_trial(run, name, 0.5)
        trial = run.trial(name)
        run.write_result(trial, trial.result().model_copy(update={"wait_share": share}))
    slow = waiting(write_leaderboard(run))
    assert slow.startswith("In 2 of 4 trials the model waited for images for more than 10 % of the training time, ")
    assert "at most 40 % (d)" in slow
    assert "In 2 of 4 trials" in run.leaderboard_md.read_text()
    assert waiting(read_leaderboard(run)) == slow


def test_short_waits_are_not_spoken_of(tmp_path):
    run = new_run(tmp_path / "run")
    finish_trial(run, "a", 0.5)
    assert waiting(write_leaderboard(run)) is None


def test_errors_of_the_audit_stand_above_the_table(run):
    write_leaderboard(run)
    assert "Audit" not in run.leaderboard_md.read_text()
    audit = leaking_audit()
    run.write_vouched(run.audit_file, audit)
    write_leaderboard(run)
    stamp, above = "**Audit: 2 of 10 test images are also among the training images", run.leaderboard_md.read_text()
    assert stamp in above.partition("| rank")[0]
    assert r"real/\<b\>\|x.jpg" in above
    run.write_vouched(run.audit_file, audit.model_copy(update={"findings": ()}))
    write_leaderboard(run)
    assert "Audit" not in run.leaderboard_md.read_text()


def test_the_baseline_calls_every_image_the_larger_class(tmp_path):
    run, labels = new_run(tmp_path / "run"), [0, 1, 1, 1, 1]
    finish_trial(run, "a", None, predictions(FIRST), predictions([0.1, 0.2, 0.6, 0.7, 0.8], labels))
    fail_trial(run, "b", "boom")
    write_leaderboard(run)
    assert list(cells(run)) == ["a", "b", "always-fake"]  # after a row without rank, and one that failed
    row = cells(run)["always-fake"]
    named = ("rank", "kind", "status", "val_auc", "threshold", "ece", "tied", "auc_p_best", "auc_low", "seconds")
    assert [row[name] for name in named] == ["", "baseline", "ok", *[""] * 7]
    assert [row[name] for name in ("tn", "fp", "fn", "tp", "n")] == ["0", "1", "0", "4", "5"]
    assert [float(row[name]) for name in ("accuracy", "precision", "recall", "auc", "fpr")] == [0.8, 0.8, 1, 0.5, 1]
    assert (float(row["average_precision"]), float(row["balanced_accuracy"])) == (0.8, 0.5)
    assert float(row["f1"]) == pytest.approx(2 * 4 / (2 * 4 + 1))
    assert [float(row["accuracy_low"]), float(row["accuracy_high"])] == wilson(4, 5).tolist()
    pd.testing.assert_frame_equal(read_leaderboard(run), build_leaderboard(run))


def test_the_first_line_is_about_the_detector_on_test(tmp_path):
    """Whatever it came to on val, and whatever other models and votes come to."""
    run, labels = new_run(tmp_path / "run"), [0] * 20 + [1] * 20
    val, right = predictions(FIRST), predictions([0.1] * 20 + [0.9] * 20, labels)
    tossed = predictions([0.1, 0.9] * 20, labels)
    finish_trial(run, "guesses", 0.99, val, tossed)
    finish_trial(run, "knows", 0.9, val, right)
    assert guessing(run, write_leaderboard(run)).startswith("No better than guessing on 40 test images: AUC 0.500")
    write_ensemble(run, [run.trial("knows")], ["soft", "weighted", "calibrated"])
    assert guessing(run, write_leaderboard(run)) is None
    write_ensemble(run, [run.trial("guesses")], ["calibrated"])
    said = guessing(run, write_leaderboard(run))
    assert said.startswith("No better than guessing on 40 test images: AUC 0.500 (95 % interval 0.3")


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_of_test_images_of_one_class_there_is_no_baseline(tmp_path, labels):
    run = new_run(tmp_path / "run")
    finish_trial(run, "a", 0.7, predictions(FIRST), predictions([0.1, 0.9], labels))
    assert build_leaderboard(run)["name"].tolist() == ["a"]


def test_the_baseline_is_of_the_images_that_the_ensemble_has_predicted(run):
    """Not of those that a better model has predicted before the test folder changed."""
    finish_trial(run, "000", 0.99, predictions(FIRST), predictions([0.1, 0.9, 0.9], [0, 1, 1]))
    frame = build_leaderboard(run)
    assert frame["name"].tolist()[-1] == "always-real"
    assert frame["n"].tolist()[-1] == 6


def test_the_baseline_has_no_part_in_the_tests_between_rows(run):
    """Neither in Holm's corrections, nor among those that are tied with the best."""
    rows = [("ensemble", "ensemble"), ("001", "model"), ("002", "model")]
    files = [
        run.ensemble_predictions_file("ensemble", "test"),
        *(run.trial(one).predictions_file("test") for one, _ in rows[1:]),
    ]
    given = [
        Evaluated(name, kind, val, 0.5, read_predictions(file))
        for (name, kind), val, file in zip(rows, (1.0, 8.5 / 9, 7 / 9), files, strict=True)
    ]
    expected = significance(given, "ensemble", None)
    frame = build_leaderboard(run).set_index("name")
    np.testing.assert_array_equal(frame.loc[list(expected.index), TESTS].to_numpy(), expected[TESTS].to_numpy())


def test_mean_and_spread_over_the_seeds_of_a_finalist(tmp_path):
    run = new_run(tmp_path / "run")
    sweep = run.sweep()
    search = sweep.search.model_copy(update={"finalists": 1, "seeds": 3})
    run.sweep_file.write_text(resolved_text(sweep.model_copy(update={"search": search})))
    finish_trial(run, "1-a", 0.9, predictions(FIRST), predictions(FIRST))  # 7 of 9 pairs, 4 of 6 images
    finish_trial(run, "1-a-seed1", 0.7, predictions(FIRST), predictions(SECOND), repeats="1-a")  # 8.5 and 5
    fail_trial(run, "1-a-seed2", "no memory", repeats="1-a")
    finish_trial(run, "2-b", 0.8, predictions(FIRST), predictions(FIRST))
    frame = write_leaderboard(run).set_index("name")
    assert frame.loc["1-a-seed1", "repeats"] == frame.loc["1-a-seed2", "repeats"] == "1-a"
    for name in ("1-a", "1-a-seed1"):
        row = frame.loc[name]
        assert row["seeds"] == 2
        assert row["mean_val_auc"] == pytest.approx(0.8, abs=1e-15)
        assert row["spread_val_auc"] == pytest.approx(0.02**0.5, abs=1e-15)  # (0.1^2 + 0.1^2) / (2 - 1)
        assert row["mean_auc"] == pytest.approx(15.5 / 18, abs=1e-15)
        assert row["spread_auc"] == pytest.approx(1.5 / 9 / 2**0.5, abs=1e-15)
        assert row["mean_accuracy"] == pytest.approx(4.5 / 6, abs=1e-15)
    assert frame.loc["2-b", ["seeds", "mean_auc", "spread_auc"]].isna().all()
    assert read_leaderboard(run).shape == (5, frame.shape[1] + 1)


def test_a_model_of_a_fold_is_not_the_best_single_model(tmp_path):
    run = new_run(tmp_path / "run")
    sweep = run.sweep()
    changed = {
        "search": sweep.search.model_copy(update={"finalists": 1}),
        "data": sweep.data.model_copy(update={"folds": 2}),
    }
    run.sweep_file.write_text(resolved_text(sweep.model_copy(update=changed)))
    finish_trial(run, "1-a", 0.7, predictions(FIRST), predictions(FIRST))
    finish_trial(run, "1-a-fold1of2", 0.9, predictions(SECOND), predictions(SECOND), repeats="1-a", fold=(1, 2))
    frame = write_leaderboard(run).set_index("name")
    assert "is on its own fold of the training images" in run.leaderboard_md.read_text()
    assert frame.loc["1-a-fold1of2", ["kind", "rank"]].tolist() == ["fold", 1]
    # compared with 1-a, though that has the smaller score
    assert np.isnan(frame.loc["1-a", "auc_p_best"])
    assert not np.isnan(frame.loc["1-a-fold1of2", "auc_p_best"])

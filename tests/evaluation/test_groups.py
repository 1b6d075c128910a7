"""rfray.evaluation.groups: who is in which group, and each group's measures by hand."""

import numpy as np
import pandas as pd
import pytest

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.groups import GROUP_COLUMNS, by_group, groups_of, write_groups
from rfray.spec.sweep import ReportSettings
from rfray.spec.sweep_file import resolved_text
from rfray.stats.intervals import wilson
from rfray.stats.paired_tests import placements
from rfray.stats.predictions import Predictions
from rfray.store.files import write_whole
from tests.synthetic import catalog_of, finish_trial, new_run

P_FAKE = [0.1, 0.3, 0.6, 0.4, 0.7, 0.2, 0.5, 0.9]
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
IDS = [
    "real/a/0.jpg", "real/a/1.jpg", "real/b/2.jpg", "real/b/3.jpg",
    "fake/a/easy_4.jpg", "fake/a/hard_5.jpg", "fake/c/easy_6.jpg", "fake/c/hard_7.jpg",
]  # fmt: skip


def given():
    return Predictions(np.array(IDS), np.array(LABELS, dtype=np.int8), np.array(P_FAKE))


def cells(groups):
    return {row["group"]: row for _, row in groups.table.iterrows()}


def test_measures_by_hand():
    groups = by_group(given(), np.array(list("aabbaacc"), dtype=object), 0.5)
    assert list(groups.table.columns) == list(GROUP_COLUMNS)
    assert groups.measure == "auc"
    found = cells(groups)
    # a: real 0.1 0.3, fake 0.7 0.2: three of four pairs in the right order
    assert found["a"][["n", "real", "fake", "auc_against"]].tolist() == [4, 2, 2, "own"]
    assert found["a"]["auc"] == 0.75
    assert found["a"][["accuracy", "recall", "false_positive_rate"]].tolist() == [0.75, 0.5, 0]
    # b has real images alone, 0.6 0.4, and all fakes are 0.7 0.2 0.5 0.9: 5 of 8 pairs
    assert found["b"][["n", "real", "fake", "auc_against"]].tolist() == [2, 2, 0, "all fake"]
    assert found["b"]["auc"] == 5 / 8
    assert found["b"][["accuracy", "false_positive_rate"]].tolist() == [0.5, 0.5]
    assert found["b"][["recall", "recall_low", "recall_high"]].isna().all()
    # c has fakes alone, 0.5 0.9, and all real images are 0.1 0.3 0.6 0.4: 7 of 8 pairs; 0.5 is called fake
    assert found["c"][["auc", "auc_against", "recall"]].tolist() == [7 / 8, "all real", 1]
    assert pd.isna(found["c"]["false_positive_rate"])
    assert groups.table["group"].tolist() == ["b", "a", "c"]  # the worst first
    # of all 16 pairs 3 are the wrong way round for 0.2, 1 for 0.5: 12
    assert (groups.overall["auc"], groups.overall["accuracy"], groups.overall["n"]) == (12 / 16, 0.75, 8)


def test_intervals():
    found = cells(by_group(given(), np.array(list("aabbaacc"), dtype=object), 0.5))
    accuracy = wilson(3, 4)
    assert found["a"][["accuracy_low", "accuracy_high"]].tolist() == accuracy.tolist()
    recall = wilson(1, 2)
    assert found["a"][["recall_low", "recall_high"]].tolist() == recall.tolist()
    labels, scores = np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.3, 0.6, 0.4, 0.5, 0.9])
    expected = placements(labels, scores[None]).intervals[0]
    assert found["c"][["auc_low", "auc_high"]].tolist() == pytest.approx(expected)


def test_one_group_is_none_and_one_class_is_measured_by_accuracy():
    assert by_group(given(), np.full(8, "", dtype=object), 0.5) is None
    real = Predictions(np.array(IDS[:4]), np.zeros(4, np.int8), np.array(P_FAKE[:4]))
    groups = by_group(real, np.array(list("abab"), dtype=object), 0.2)
    assert groups.measure == "accuracy"
    assert groups.table["group"].tolist() == ["b", "a"]  # b: 0.3 and 0.4 are both called fake
    assert groups.table["auc"].isna().all()


def run_of(folder, pattern=None):
    run = new_run(folder)
    if pattern is not None:
        sweep = run.sweep().model_copy(update={"report": ReportSettings(group_pattern=pattern)})
        write_whole(run.sweep_file, resolved_text(sweep))
    finish_trial(run, "one", 0.9, given(), given())
    write_ensemble(run, choose_members(run, 1))
    return run


def test_subfolders_are_the_groups_and_a_pattern_comes_first(tmp_path):
    catalog = catalog_of(path=IDS, subfolder=[path.split("/")[1] for path in IDS], part="test")
    others = catalog.assign(subfolder="training", part="train")  # of another folder, with the same names
    run = run_of(tmp_path / "run")
    assert groups_of(run) is None
    run.write_catalog(pd.concat([others, catalog.iloc[::-1]], ignore_index=True))
    write_groups(run)
    written = pd.read_csv(run.groups_csv, keep_default_na=False)
    assert written["group"].tolist() == ["b", "a", "c"]
    assert written["recall"].tolist() == ["", "0.5", "1.0"]  # undefined is empty
    named = run_of(tmp_path / "named", "/(easy|hard)_")
    assert write_groups(named) == "In 4 of 8 test images report.group_pattern finds nothing"
    assert {row["group"]: row["n"] for _, row in groups_of(named).table.iterrows()} == {"": 4, "easy": 2, "hard": 2}


def test_what_is_no_longer_true_goes(tmp_path):
    run = run_of(tmp_path / "run", "no such thing")
    run.groups_csv.write_text("old")
    assert "only one group" in write_groups(run)
    assert not run.groups_csv.exists()


def test_images_that_belong_together_are_one_piece_of_evidence():
    labels, names = np.tile([0, 1], 30), np.repeat(["a", "b"], 30)
    p_fake = np.clip(0.5 + 0.2 * (labels - 0.5) + np.random.default_rng(0).normal(0, 0.2, 60), 0, 1)
    ids = np.array([f"{number}.jpg" for number in range(60)])
    once = Predictions(ids, labels.astype(np.int8), p_fake)
    copies = np.repeat(np.arange(60), 3)
    often = Predictions(np.char.add(ids[copies], np.tile(["x", "y", "z"], 60)), once.labels[copies], p_fake[copies])
    alone, together = (by_group(often, names[copies], 0.5, known).table for known in (None, copies))
    for measure in ("auc", "accuracy", "recall", "false_positive_rate"):
        wide, narrow = (table[f"{measure}_high"] - table[f"{measure}_low"] for table in (together, alone))
        assert (wide > 1.4 * narrow).all()
        pd.testing.assert_series_equal(together[measure], alone[measure])

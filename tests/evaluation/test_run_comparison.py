"""Several runs side by side: one table, paired tests with their values worked out by hand, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rfray.errors import InputError, RunError
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.evaluation.run_comparison import check_ending, compare_runs, run_names, write_comparison
from rfray.spec.sweep import DataSettings
from rfray.spec.sweep_file import resolved_text
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from tests.synthetic import FIRST, SECOND, as_predicted, fail_trial, finish_trial, new_run, predictions

SIXTEEN = [0] * 8 + [1] * 8
RIGHT = [0.1] * 8 + [0.9] * 8
WRONG = [0.9] * 8 + [0.1] * 8


def run_of(folder: Path, *reports: Sequence[float], labels: Sequence[int] | None = None, metric: str = "auc") -> RunDir:
    """A run whose trials, best first, say `reports` of test; the best of them is the whole ensemble."""
    run = new_run(folder)
    sweep = run.sweep()
    search = sweep.search.model_copy(update={"metric": metric})
    write_whole(run.sweep_file, resolved_text(sweep.model_copy(update={"search": search})))
    for number, report in enumerate(reports):
        said = predictions(report, *([labels] if labels else []))
        finish_trial(run, f"{number:03d}", 0.9 - number / 10, predictions(SECOND), said)
    as_predicted(run)
    return concluded(run)


def concluded(run: RunDir) -> RunDir:
    write_ensemble(run, choose_members(run, 1))
    write_leaderboard(run)
    return run


def change_test(run: RunDir, **changed: Any) -> None:
    """Changes the first of the run's test images in the catalog."""
    catalog = run.catalog()
    catalog.loc[0, list(changed)] = list(changed.values())
    run.write_catalog(catalog)


def test_two_ensembles_are_tested_in_pairs(tmp_path: Path) -> None:
    found = compare_runs([run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)])
    (pair,) = found.tests.to_dict("records")
    assert (pair["first"], pair["second"], pair["n"], pair["outcome"]) == ("a", "b", 6, "is tied with")
    # 7 and 8.5 of 9 pairs in the right order; the placements of the fakes differ by -2/3, 0, 1/6, those of the real
    # images by 1/6, -1/3, -1/3: a variance of 0.19444 / 3 + 0.08333 / 3
    assert pair["auc_first"] == pytest.approx(7 / 9)
    assert pair["auc_second"] == pytest.approx(8.5 / 9)
    assert pair["auc_difference"] == pytest.approx(-1 / 6)
    assert pair["auc_low"] == pytest.approx(-1 / 6 - 1.959964 * 0.304290, abs=1e-5)
    assert pair["auc_high"] == pytest.approx(-1 / 6 + 1.959964 * 0.304290, abs=1e-5)
    assert pair["auc_p"] == pytest.approx(0.583882, abs=1e-5)  # z = 0.547723
    # 4 and 5 of 6 are right; one is right alone once, the other twice: 2 * (1 + 3) / 8
    assert (pair["accuracy_first"], pair["accuracy_second"]) == (4 / 6, 5 / 6)
    assert pair["accuracy_difference"] == pytest.approx(-1 / 6)
    assert pair["accuracy_p"] == 1
    assert pair["accuracy_low"] < -1 / 6 < pair["accuracy_high"]
    assert (pair["auc_p_corrected"], pair["accuracy_p_corrected"]) == (pair["auc_p"], 1)  # there is one pair
    assert found.sentences == [
        "On 6 test images the ensemble of a is tied with that of b: AUC 0.7778 against 0.9444, a difference of "
        "-0.1667 (95 % interval -0.7631 to 0.4297, p = 0.5839 by DeLong's paired test); accuracy 0.6667 against "
        f"0.8333, a difference of -0.1667 (95 % interval {pair['accuracy_low']:.4f} to {pair['accuracy_high']:.4f}, "
        "p = 1.0000 by McNemar's exact test)."
    ]


def test_of_three_runs_all_pairs_are_corrected_together(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, said, labels=SIXTEEN) for name, said in [("a", RIGHT), ("b", WRONG), ("c", RIGHT)]]
    found = compare_runs(runs)
    assert found.images == 16
    assert found.tests[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert found.tests["outcome"].tolist() == ["beats", "is tied with", "falls behind"]
    # AUCs of 1 and 0 on eight of each class, without any variance: the sign test of eight pairs
    assert found.tests["auc_p"].tolist() == [2 / 2**8, 1, 2 / 2**8]
    assert found.tests["auc_p_corrected"].tolist() == [6 / 2**8, 1, 6 / 2**8]
    assert found.tests["accuracy_p"].tolist() == [2 / 2**16, 1, 2 / 2**16]
    assert found.tests["accuracy_p_corrected"].tolist() == [6 / 2**16, 1, 6 / 2**16]
    assert found.tests["accuracy_difference"].tolist() == [1, 0, -1]
    assert found.tests[["accuracy_low", "accuracy_high"]].to_numpy().tolist() == [[1, 1], [0, 0], [-1, -1]]
    first, second, third = found.sentences
    assert "the ensemble of a beats that of b: AUC 1.0000 against 0.0000" in first
    assert "p = 0.0078 by DeLong's paired test, p = 0.0234 corrected for all 3 pairs" in first
    assert "p < 0.0001 by McNemar's exact test, p < 0.0001 corrected for all 3 pairs" in first
    assert "the ensemble of a is tied with that of c" in second
    assert "the ensemble of b falls behind that of c" in third


def test_the_order_of_the_test_images_does_not_matter(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    before = compare_runs([one, other]).tests
    turned = run_of(tmp_path / "turned" / "b", SECOND)
    for file in [trial.predictions_file("test") for trial in turned.trials()]:
        said = read_predictions(file)
        write_predictions(file, Predictions(said.ids[::-1], said.labels[::-1], said.p_fake[::-1]), {})
    turned.write_catalog(turned.catalog()[::-1])
    concluded(turned)
    after = compare_runs([one, turned]).tests
    assert after.equals(before)


def test_each_is_judged_at_its_own_threshold(tmp_path: Path) -> None:
    one, other = (
        run_of(tmp_path / "a", [0.1] * 8 + [0.3] * 8, labels=SIXTEEN),
        run_of(tmp_path / "b", RIGHT, labels=SIXTEEN),
    )
    sweep = one.sweep()
    settings = sweep.ensemble.model_copy(update={"threshold": 0.25})
    write_whole(one.sweep_file, resolved_text(sweep.model_copy(update={"ensemble": settings})))
    concluded(one)
    tests = compare_runs([one, other]).tests
    assert tests[["accuracy_first", "accuracy_second"]].to_numpy().tolist() == [[1, 1]]


# the table


def test_the_leaderboards_are_joined_best_first(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", FIRST, SECOND), run_of(tmp_path / "b", SECOND, FIRST, FIRST)
    fail_trial(one, "009", "RuntimeError: no")
    write_leaderboard(one)
    found = compare_runs([one, other])
    assert found.ranked_by == "val_auc"
    assert found.title == "2 runs on 6 test images, ranked by val_auc"
    table = found.table
    assert list(table.columns[:3]) == ["run", "rank", "name"]
    # the ensembles have 8.5 of 9 pairs of val right
    assert [(row.run, row.name, None if pd.isna(row.rank) else row.rank) for row in table.itertuples()] == [
        ("a", "ensemble", 1),
        ("b", "ensemble", 2),
        ("a", "000", 3),
        ("b", "000", 4),
        ("a", "001", 5),
        ("b", "001", 6),
        ("b", "002", 7),
        ("a", "009", None),
        ("a", "always-real", None),
        ("b", "always-real", None),
    ]
    assert table["auc"].round(4).tolist()[:4] == [0.7778, 0.9444, 0.7778, 0.9444]
    assert len(found.sentences) == 1


def test_runs_ranked_by_different_metrics_keep_their_own_rankings(tmp_path: Path) -> None:
    found = compare_runs([run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND, metric="f1")])
    assert found.ranked_by is None
    assert found.table["run"].tolist() == ["a", "a", "a", "b", "b", "b"]
    assert found.table["rank"].tolist() == [1, 2, pd.NA, 1, 2, pd.NA]
    place = list(found.table.columns).index("val_auc")
    assert list(found.table.columns[place - 1 : place + 3]) == ["lr", "val_auc", "val_f1", "accuracy"]
    assert found.table["val_f1"].isna().tolist() == [True, True, True, False, False, True]
    assert found.sentences[1:] == ["The runs were ranked by different columns, so each keeps its own ranking."]


def test_that_the_val_imagess_differ_is_said(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    catalog = other.catalog()
    val = catalog[:1].assign(path="real/val.jpg", part="val")
    other.write_catalog(pd.concat([catalog, val]))
    assert compare_runs([one, other]).sentences[1:] == ["val_auc of a and of b was measured on different images."]


# what is refused


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"digest": "another"}, "1 of 6 differ between a and b: real/0.jpg is another image"),
        ({"label": 1}, "1 of 6 differ between a and b: real/0.jpg has another label"),
        ({"path": "real/new.jpg"}, "2 of 7 differ between a and b: real/0.jpg is only in a"),
        ({"part": "val"}, "1 of 6 differ between a and b: real/0.jpg is only in a"),
    ],
)
def test_runs_on_other_test_images_are_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    for run in (one, other):
        change_test(run, digest="same")
    change_test(other, **changed)
    with pytest.raises(RunError) as refused:
        compare_runs([one, other, run_of(tmp_path / "c", RIGHT, labels=SIXTEEN)])
    assert str(refused.value).startswith(f"the runs have different test images, and can't be compared: {said}; ")
    assert "; 17 of 19 differ between a and c: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_without_an_ensemble_is_refused_with_what_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    other.ensemble_file.unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"^b has no ensemble to compare; `rfray ensemble b` makes one$"):
        compare_runs([one, other])


def test_an_ensemble_made_of_an_earlier_test_part_is_refused(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    for run in (one, other):
        change_test(run, path="real/renamed.jpg")
    with pytest.raises(RunError, match=r"a: its ensemble was made of other test images; `rfray ensemble .*a` makes"):
        compare_runs([one, other])


def test_one_run_or_the_same_twice_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a")
    run.path.mkdir()
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(InputError, match=f"^given {run.path} alone; name two runs or more$"):
        run_names([run])
    with pytest.raises(InputError, match=f"^{run.path} was given 2 times; name different runs$"):
        run_names([run, RunDir(tmp_path / "link")])


def test_runs_of_one_name_are_told_apart_by_the_folders_around_them() -> None:
    places = ["/data/x/runs/faces", "/data/y/runs/faces", "/else/runs/faces", "/data/x/runs/other"]
    assert run_names([RunDir(place) for place in places]) == [
        "x/runs/faces",
        "y/runs/faces",
        "else/runs/faces",
        "other",
    ]


# files


def test_all_rows_and_the_tests_are_written(tmp_path: Path) -> None:
    found = compare_runs([run_of(tmp_path / "a", FIRST, SECOND), run_of(tmp_path / "b", SECOND, metric="f1")])
    written = write_comparison(found, tmp_path / "out" / "both.csv")
    assert [path.name for path in written] == ["both.csv", "both-tests.csv"]
    table, tests = (pd.read_csv(path) for path in written)
    assert table["run"].tolist() == ["a", "a", "a", "a", "b", "b", "b"]
    assert np.allclose(table["auc"], found.table["auc"])
    assert tests["outcome"].tolist() == ["is tied with"]
    assert list(tests.columns) == list(found.tests.columns)
    (page,) = write_comparison(found, tmp_path / "both.md")
    lines = page.read_text().splitlines()
    assert lines[0] == "# 2 runs on 6 test images, run by run"
    assert "| run | rank | name | kind |" in page.read_text()
    assert "the ensemble of a is tied with that of b" in page.read_text()
    assert "## Tests between the ensembles" in lines
    with pytest.raises(InputError, match=r"both.xlsx: given .xlsx; allowed: .csv, .md"):
        check_ending(tmp_path / "both.xlsx")


def with_phone(run: RunDir, said: Predictions, digest: str = "") -> RunDir:
    """The same with a second test set, phone, of which all its trials say this."""
    data = DataSettings(train="/images", test={"valid": "/valid", "phone": "/phone"})
    write_whole(run.sweep_file, resolved_text(run.sweep().model_copy(update={"data": data})))
    for trial in run.trials():
        write_predictions(trial.predictions_file("test-phone"), said, {})
    images = run.catalog()[: len(said)].assign(
        path=said.ids,
        label=said.labels,
        part="test-phone",
        folder="test-phone",
        group_id=range(len(said)),
        digest=digest,
    )
    run.write_catalog(pd.concat([run.catalog(), images], ignore_index=True))
    return concluded(run)


def test_a_further_test_set_of_all_runs_is_tested_too(tmp_path: Path) -> None:
    runs = [
        with_phone(run_of(tmp_path / name, FIRST), predictions(said)) for name, said in (("a", FIRST), ("b", SECOND))
    ]
    found = compare_runs(runs)
    same, phone = found.tests.to_dict("records")
    assert (same["test_set"], phone["test_set"]) == ("", "phone")
    assert same["auc_difference"] == 0
    # as of the two ensembles above, but corrected for two tests, of which the other one has no p
    assert phone["auc_p"] == pytest.approx(0.583882, abs=1e-5)
    assert phone["auc_p_corrected"] >= phone["auc_p"]
    assert found.sentences[1].startswith(
        "On 6 test (phone) images the ensemble of a is tied with that of b: AUC 0.7778 "
    )
    assert found.main[-3:] == ["auc_phone", "auc_mean", "auc_worst"]
    other = with_phone(run_of(tmp_path / "c", FIRST), predictions(SECOND), digest="another")
    found = compare_runs([runs[0], other])
    assert found.tests["test_set"].tolist() == [""]
    assert found.sentences[-1] == "auc_phone of a and of c was measured on different images."
    found = compare_runs([runs[0], run_of(tmp_path / "d", FIRST)])  # which has one test set
    assert found.tests["test_set"].tolist() == [""]

"""rfray.report.terminal: the audit at 80 columns, the leaderboard sorted."""

import io

import pandas as pd
import pytest
from rich.console import Console

from rfray.audit.audit import audit_images
from rfray.evaluation.run_comparison import compare_runs
from rfray.report.terminal import audit_summary, comparison_table, leaderboard_table
from tests.audits import ALL_READABLE, NO_PAIRS, image_table, leaking_audit
from tests.evaluation.test_run_comparison import run_of
from tests.synthetic import FIRST, SECOND

ALWAYS = ["always-real"] * 2
"""The baselines of two runs."""


def printed(audit):
    console = Console(width=80, file=io.StringIO())
    console.print(audit_summary(audit))
    return console.file.getvalue()


def test_audit_at_80_columns():
    text = printed(leaking_audit())
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "Error: 2 of 10 test images are also among the training images" in flat
    assert "real/<b>|x.jpg" in flat
    assert "│ test  │" in text
    assert "JPEG 20 │ PNG 20" in flat
    assert "file format 1.00 ████████████████████" in flat
    assert "…" not in text  # nothing is cut off


def test_nothing_found():
    assert "Nothing was found that would mislead." in printed(audit_images(image_table(), NO_PAIRS, ALL_READABLE))


@pytest.mark.parametrize(
    ("column", "values", "order"),
    [
        ("auc", [0.7, None, 0.9], ["c", "a", "b"]),
        ("ece", [0.2, None, 0.1], ["c", "a", "b"]),
        ("fpr", [0.1, None, 0.2], ["a", "c", "b"]),
        *(
            (column, [0.2, None, 0.1], ["c", "a", "b"])
            for column in ("cost", "seconds", "optimism", "auc_p_best", "spread_auc")
        ),
        ("status", ["ok", "failed: x", "ok"], ["b", "a", "c"]),
        ("backbone", ["", "x", "b"], ["c", "b", "a"]),  # an ensemble has none
        ("tied", ["", "", "yes"], ["c", "a", "b"]),
        ("fn", pd.array([2, None, 1], "Int64"), ["c", "a", "b"]),
        ("rank", pd.array([None, 2, 1], "Int64"), ["c", "b", "a"]),
        ("auc", [0.7, 0.7, 0.7], ["a", "b", "c"]),
    ],
)
def test_sorted_by_a_column_the_best_comes_first(column, values, order):
    frame = pd.DataFrame({"name": ["a", "b", "c"], "kind": "model", "status": "ok", "val_auc": 0.5})
    shown = ["rank", "backbone", "accuracy", "auc", "n"]
    frame = frame.assign(**dict.fromkeys(shown, 1.0)).assign(**{column: values})
    table = leaderboard_table(frame, column, 80)
    names = next(shown for shown in table.columns if str(shown.header) == "name")
    assert [str(cell) for cell in names.cells] == order


@pytest.mark.parametrize(
    ("status", "width", "gone"),
    [
        ("ok", 153, set()),  # 113 characters in cells, 3 around each of 13, and 1
        ("ok", 152, {"status"}),
        ("ok", 120, {"status", "f1", "augmentation"}),
        ("failed: no memory", 120, {"f1", "augmentation", "precision", "recall"}),
    ],
)
def test_columns_go_where_names_would_be_cut_off(status, width, gone):
    names = {"name": "ensemble-calibrated", "backbone": "tf_efficientnet_lite0", "augmentation": "compression"}
    figures = ["lr", "val_auc", "accuracy", "precision", "recall", "f1", "auc"]
    frame = pd.DataFrame([{"rank": 1, "kind": "model", "status": status, "n": 180, **names}])
    frame = frame.assign(**dict.fromkeys(figures, 0.123456))
    table = leaderboard_table(frame, None, width)
    assert set(frame) - {"kind"} - {str(column.header) for column in table.columns} == gone
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "ensemble-calibrated" in text


def test_on_80_columns_a_long_name_goes_on_below():
    frame = pd.DataFrame([{"rank": 1, "name": "z" * 30, "kind": "model", "status": "ok", "n": 180}])
    frame = frame.assign(backbone="q" * 30, **dict.fromkeys(["val_auc", "accuracy", "auc"], 0.1))
    console = Console(width=80, file=io.StringIO())
    console.print(leaderboard_table(frame, None, 80))
    text = console.file.getvalue()
    assert (text.count("z"), text.count("q"), text.count("…")) == (30, 30, 0)
    assert max(map(len, text.splitlines())) == 80


@pytest.mark.parametrize(
    ("top", "names", "more"),
    [
        (0, ["ensemble", "ensemble", *ALWAYS], "; 5 more not shown (--top)"),
        (1, ["ensemble", "ensemble", "000", "000", *ALWAYS], "; 3 more not shown (--top)"),
        (5, ["ensemble", "ensemble", "000", "000", "001", "001", "002", *ALWAYS], ""),
    ],
)
def test_of_each_run_the_ensembles_and_its_best_models_are_compared(top, names, more, tmp_path):
    found = compare_runs([run_of(tmp_path / "a", FIRST, SECOND), run_of(tmp_path / "b", SECOND, FIRST, FIRST)])
    table = comparison_table(found, top, 80)
    shown = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert list(shown) == ["rank", "run", "name", "backbone", "val_auc", "accuracy", "auc", "n"]
    assert shown["name"] == names
    assert shown["run"][:2] == ["a", "b"]
    assert str(table.title) == f"2 runs on 6 test images, ranked by val_auc{more}"


def test_runs_ranked_by_different_metrics_show_both(tmp_path):
    found = compare_runs([run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND, metric="f1")])
    table = comparison_table(found, 5, 160)
    assert [str(column.header) for column in table.columns][7:10] == ["val_auc", "val_f1", "accuracy"]
    assert str(table.title) == "2 runs on 6 test images, run by run"

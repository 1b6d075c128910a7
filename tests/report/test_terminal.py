"""rfray.report.terminal: the audit at 80 columns, the leaderboard sorted."""

import io

import pandas as pd
import pytest
from rich.console import Console

from rfray.data.audit import audit_images
from rfray.report.terminal import audit_summary, leaderboard_table
from tests.audits import ALL_READABLE, NO_PAIRS, image_table, leaking_audit


def printed(audit):
    console = Console(width=80, file=io.StringIO())
    console.print(audit_summary(audit))
    return console.file.getvalue()


def test_audit_at_80_columns():
    text = printed(leaking_audit())
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "Error: 2 of 10 report images are also among the training images" in flat
    assert "real/<b>|x.jpg" in flat
    assert "│ report │" in text
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
        ("status", ["ok", "failed: x", "ok"], ["b", "a", "c"]),
    ],
)
def test_sorted_by_a_column_the_best_comes_first(column, values, order):
    frame = pd.DataFrame({"name": ["a", "b", "c"], "kind": "model", "status": "ok", "select_auc": 0.5})
    shown = ["rank", "backbone", "accuracy", "auc", "n"]
    frame = frame.assign(**dict.fromkeys(shown, 1.0)).assign(**{column: values})
    table = leaderboard_table(frame, column, 80)
    names = next(shown for shown in table.columns if shown.header == "name")
    assert [str(cell) for cell in names.cells] == order

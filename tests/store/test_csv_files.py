"""What spreadsheets would take for formulas, and ends of lines in names: written as text, read back as it was."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from rfray.store.csv_files import csv_text, read_csv

CELLS = {
    "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
    "+1": "'+1",
    "-2+3": "'-2+3",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "\n=1": "'\n=1",
    "\uff1d1": "'\uff1d1",
    "'=1": "''=1",
    "''-": "'" + "''-",
    "'quoted'": "'quoted'",
    "a=b": "a=b",
    "a\rb": "a\rb",
    "a\r\nb": "a\r\nb",
    "a\nb": "a\nb",
    "": "",
    'a"b,c': 'a"b,c',
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_text_to_spreadsheets_and_comes_back(tmp_path: Path, cell: str) -> None:
    table = pd.DataFrame({"name": ["first", cell], "auc": [-0.5, float("nan")], "n": [-1, 2], "kept": [True, False]})
    file = tmp_path / "x.csv"
    file.write_text(csv_text(table), encoding="utf-8", newline="")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[1:] == [["first", "-0.5", "-1", "True"], [CELLS[cell], "", "2", "False"]]
    pd.testing.assert_frame_equal(read_csv(file, keep_default_na=False, na_values={"auc": [""]}), table)


def test_a_formula_among_categories_is_marked() -> None:
    table = pd.DataFrame({"name": pd.Categorical(["=x", "y"])})
    assert csv_text(table) == "name\n'=x\ny\n"


def test_an_undefined_cell_of_text_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(csv_text(pd.DataFrame({"name": ["=1", None], "n": [1, 2]})), encoding="utf-8", newline="")
    assert file.read_text() == "name,n\n'=1,1\n,2\n"
    assert read_csv(file)["name"].isna().tolist() == [False, True]

"""The records of all evaluations of a bundle -> evaluations.csv: a row a set, mean and worst at the bottom."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rfray.errors import RunError
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.external_validation import COMPARED, ROW_COLUMNS, calibration_share
from rfray.evaluation.leaderboard import CONFUSION, COUNT, LOWER_IS_BETTER, NUMBER, TEXT
from rfray.store.csv_files import csv_text
from rfray.store.evaluation_dir import MEAN, SUMMARY, WORST, EvaluationRecord
from rfray.store.files import write_whole
from rfray.store.records import find_record

COUNTED = ("n", "real", "fake", "unreadable", "exact", "alike")
FIGURES = [column for column, dtype in ROW_COLUMNS.items() if dtype == NUMBER and "_p_" not in column]
"""Columns of the main vote's row on each set, but for counts and tests between rows."""
SUMMARY_COLUMNS = {
    "name": TEXT,
    **dict.fromkeys((*COUNTED, "n_groups", *CONFUSION), COUNT),
    **dict.fromkeys((*FIGURES, TEST_COLUMNS[-1]), NUMBER),
    **{f"{name}{end}": NUMBER for name in COMPARED for end in ("_claimed", "_p_claimed")},
    **dict.fromkeys(("best_threshold", "best_balanced_accuracy", "calibration_share"), NUMBER),
    "where": TEXT,
}
"""Column of evaluations.csv -> dtype. `exact` and `alike`: left out, as the detector has learned from them; empty where
that was not looked for. `…_claimed`: of the bundle's test images, `…_p_claimed` the test against that. `best_threshold`
is chosen on the very images; `calibration_share`: of the lost balanced accuracy, what it would bring back."""
JUDGED = [column for column in FIGURES if column != "threshold" and not column.endswith(("_low", "_high"))]
JUDGED += [TEST_COLUMNS[-1], "best_balanced_accuracy"]
"""Columns that have a mean and a worst; those of the ends of intervals would be no intervals of these."""


def records_in(folder: Path) -> list[EvaluationRecord]:
    """The records in a folder of evaluations, by name. Raises RunError where one is damaged."""
    files = sorted(folder.glob("*/evaluation.json"))
    remedy = "delete its folder, and evaluate again"
    found = [record for file in files if (record := find_record(file, EvaluationRecord, remedy=remedy)) is not None]
    for file, record in zip(files, found, strict=True):
        if file.parent.name != record.name:
            raise RunError(f"{file} is not of this evaluation but of {record.name}: put the folders back")
    return found


def summary_of(records: Sequence[EvaluationRecord]) -> pd.DataFrame:
    """SUMMARY_COLUMNS: one row an evaluation, then the mean of each figure and the worst one, of those defined."""
    rows = []
    for record in records:
        row = {key: getattr(record, key) for key in ("name", "where", *COUNTED)}
        row |= {column: record.figures.get(column) for column in ("n_groups", *CONFUSION, *FIGURES, TEST_COLUMNS[-1])}
        for name, one in record.comparisons.items():
            row |= {f"{name}_claimed": one.claimed, f"{name}_p_claimed": one.p}
        if record.best is not None:
            share = calibration_share(record.figures, record.claimed, record.best)
            row |= {"best_threshold": record.best.value, "calibration_share": share}
            row["best_balanced_accuracy"] = record.best.balanced_accuracy
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype(SUMMARY_COLUMNS)
    worst = {one: frame[one].max() if one in LOWER_IS_BETTER else frame[one].min() for one in JUDGED}
    ends = pd.DataFrame([{"name": MEAN, **frame[JUDGED].mean()}, {"name": WORST, **worst}], columns=list(frame))
    whole = pd.concat([frame, ends.astype(SUMMARY_COLUMNS)], ignore_index=True)
    return whole.fillna({column: "" for column, dtype in SUMMARY_COLUMNS.items() if dtype == TEXT})


def write_summary(folder: Path, records: Sequence[EvaluationRecord]) -> pd.DataFrame:
    """Writes evaluations.csv into a folder; returns what is in it."""
    frame = summary_of(records)
    write_whole(folder / SUMMARY, csv_text(frame))
    return frame

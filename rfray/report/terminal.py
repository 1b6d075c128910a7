"""the leaderboard, the audit -> what the terminal shows of them."""

from collections.abc import Iterator

import pandas as pd
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rfray.errors import InputError, nearest_first
from rfray.evaluation.ensemble import WORST
from rfray.evaluation.leaderboard import LOWER_IS_BETTER, as_text
from rfray.evaluation.run_comparison import Comparison
from rfray.report.audit_tables import baseline_sentence, count_rows, duplicate_rows, size_rows
from rfray.store.records import Audit

WIDE = ["rank", "name", "status", "backbone", "augmentation", "lr", "accuracy", "precision", "recall", "f1", "auc", "n"]
NARROW = ["rank", "name", "backbone", "accuracy", "auc", "n"]
"""What fits on a line of WIDE_FROM characters, or on a shorter one, besides the val column."""
WIDE_FROM = 120
GRADE_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
"""Finding's grade -> how it is printed; the word stands there too, for those who see no colours."""


def leaderboard_table(frame: pd.DataFrame, sort: str | None, width: int) -> Table:
    """The leaderboard for `width` characters, in its own order or by one column, best value first (text: a to z).

    Raises InputError where there is no such column.
    """
    if sort is not None:
        if sort not in frame.columns:
            raise InputError(f"--sort {sort}: no such column; allowed: {nearest_first(sort, frame.columns, 40)}")
        numeric = pd.api.types.is_numeric_dtype(frame[sort])
        rising = sort in LOWER_IS_BETTER or not numeric
        frame = frame.sort_values(sort, ascending=rising, na_position="last", kind="stable")
    scores = [column for column in frame.columns if column.startswith("val_")]
    val = WORST if WORST in scores else scores[0]
    columns = list(WIDE if width >= WIDE_FROM else NARROW)
    columns.insert(columns.index("accuracy"), val)
    if sort is not None and sort not in columns:
        columns.append(sort)
    title = f"Leaderboard, ranked by {val}" if sort is None else f"Leaderboard, sorted by {sort}"
    return _table(frame, columns, title)


def comparison_table(comparison: Comparison, top: int, width: int) -> Table:
    """The joined leaderboard for `width` characters: of each run its ensembles and its best `top` models."""
    frame = comparison.table
    models = frame["kind"] != "ensemble"
    shown = frame[~models | (models.groupby(frame["run"]).cumsum() <= top)]
    columns = list(WIDE if width >= WIDE_FROM else NARROW)
    columns.insert(columns.index("name"), "run")
    scores = [column for column in frame.columns if column.startswith("val_")]
    columns[columns.index("accuracy") : columns.index("accuracy")] = (
        scores if comparison.ranked_by is None else [comparison.ranked_by]
    )
    left_out = len(frame) - len(shown)
    more = f"; {left_out} more not shown (--top)" if left_out else ""
    return _table(shown, columns, f"{comparison.title}{more}")


def _table(frame: pd.DataFrame, columns: list[str], title: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if pd.api.types.is_numeric_dtype(frame[column]) else "left")
    for kind, row in zip(frame["kind"], as_text(frame)[columns].itertuples(index=False), strict=True):
        table.add_row(*(Text(str(cell)) for cell in row), style="bold" if kind == "ensemble" else None)
    return table


def audit_summary(audit: Audit) -> RenderableType:
    """The audit for the terminal, readable from 80 columns on: tables, the metadata baseline, findings last."""
    return Group(*_audit_lines(audit))


def _audit_lines(audit: Audit) -> Iterator[RenderableType]:
    for shown, filled in (count_rows(audit), size_rows(audit), duplicate_rows(audit)):
        if filled:
            table = Table()
            for number, column in enumerate(shown):
                table.add_column(column, justify="right" if number else "left")
            for row in filled:
                table.add_row(*(Text(cell) for cell in row))
            yield table
    if audit.baseline is not None:
        yield Text(baseline_sentence(audit) or "What each property of the files alone predicts (AUC; 0.5 is chance):")
        telling = [feature for feature in audit.baseline.features if feature.low > 0.5]
        if telling:
            width = max(len(feature.feature) for feature in telling)
            for feature in telling:
                bar = "█" * round(40 * (feature.auc - 0.5))
                yield Text(f"  {feature.feature:<{width}}  {feature.auc:.2f}  {bar}")
    yield Text()
    if not audit.findings:
        yield Text("Nothing was found that would mislead.", style="green")
    for finding in audit.findings:
        yield Text.assemble((f"{finding.grade.capitalize()}: ", GRADE_STYLES[finding.grade]), finding.sentence)
        yield Padding(Text(finding.what_to_do, style="dim"), (0, 0, 0, 2))

"""the leaderboard, the audit -> what the terminal shows of them."""

from collections.abc import Iterator, Sequence
from typing import cast

import pandas as pd
from rich.console import JustifyMethod, RenderableType, group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rfray.errors import InputError, nearest_first
from rfray.evaluation.ensemble import WORST
from rfray.evaluation.label_issues import LabelIssues
from rfray.evaluation.leaderboard import BASELINE, LOWER_IS_BETTER, as_text
from rfray.evaluation.run_comparison import Comparison
from rfray.evaluation.several_tests import main_columns
from rfray.progress.phases import literal
from rfray.report.words import baseline_sentence, count_rows, duplicate_rows, size_rows
from rfray.spec.sweep import CLASSES
from rfray.store.records import Audit

WIDE = (("name", "status", "backbone", "augmentation", "lr"), ("accuracy", "precision", "recall", "f1", "auc", "n"))
NARROW = (("name", "backbone"), ("accuracy", "auc", "n"))
"""What fits on a line of WIDE_FROM characters, or on a shorter one, before the val columns and after them."""
WIDE_FROM = 120
OPTIONAL = ("f1", "augmentation", "precision", "recall", "lr")
"""Columns that go, in this order, where names and headers would be cut off; before them the status where all are ok."""
LABELS_SHOWN = 10
"""Labels that look wrong, the least believed first; label-issues.csv has all."""
REASON = 20
"""Characters of a status for which there is to be room: a long reason goes on below."""
STYLES = {"ensemble": "bold", BASELINE: "dim"}
"""Kinds of rows that are no single model -> how they are printed."""
GRADE_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
"""Finding's grade -> how it is printed; the word stands there too, for those who see no colours."""


def leaderboard_table(frame: pd.DataFrame, sort: str | None, width: int, ranked_by: str | None = None) -> Table:
    """The leaderboard for `width` characters, as it is or by one column, best first (text: a to z), no value last.

    Raises InputError where there is no such column.
    """
    val = ranked_by or (WORST if WORST in frame else next(name for name in frame.columns if name.startswith("val_")))
    if sort is None:
        return _leaderboard(frame, ["rank"], [val], width, f"Leaderboard, ranked by {val}")
    if sort not in frame.columns:
        raise InputError(f"--sort {sort}: no such column; allowed: {nearest_first(sort, frame.columns, 40)}")
    values = frame[sort]
    if is_text := not pd.api.types.is_numeric_dtype(values):
        values = values.mask(values == "")
    rising = is_text or sort in LOWER_IS_BETTER
    frame = frame.loc[values.sort_values(ascending=rising, na_position="last", kind="stable").index]
    return _leaderboard(frame, ["rank"], [val], width, f"Leaderboard, sorted by {sort}", sort)


def comparison_table(comparison: Comparison, top: int, width: int) -> Table:
    """The joined leaderboard for `width` characters: of each run its ensembles, its best `top` models, its baseline."""
    frame = comparison.table
    models = ~frame["kind"].isin(STYLES)
    shown = frame[~models | (models.groupby(frame["run"]).cumsum() <= top)]
    ranked_by = comparison.ranked_by
    scores = [column for column in map(str, frame) if (column == ranked_by if ranked_by else column.startswith("val_"))]
    left_out = len(frame) - len(shown)
    more = f"; {left_out} more not shown (--top)" if left_out else ""
    return _leaderboard(shown, ["rank", "run"], scores, width, f"{comparison.title}{more}")


def _leaderboard(
    frame: pd.DataFrame, first: Sequence[str], scores: Sequence[str], width: int, title: str, *further: str
) -> Table:
    """Ensembles are bold, baselines dim; `further` columns stand at the end unless they are among the others."""
    settings, metrics = WIDE if width >= WIDE_FROM else NARROW
    sets, after = main_columns(frame), metrics.index("auc") + 1
    figures = [*metrics[:after], *(sets if width >= WIDE_FROM else sets[-1:]), *metrics[after:]]
    columns, text = list(dict.fromkeys((*first, *settings, *scores, *figures, *further))), as_text(frame)
    widths = {column: max(literal(cell).cell_len for cell in (column, *text[column])) for column in columns}
    widths["status"] = min(widths.get("status", 0), REASON)
    plain = [*(["status"] if (frame["status"] == "ok").all() else []), *OPTIONAL]
    for optional in (*({one} for one in plain), {*sets[:-2]}, {*sets[-2:-1]}, {*sets[-1:]}):
        if sum(widths[column] + 3 for column in columns) >= width:
            columns = [column for column in columns if column not in optional - {*further}]
    table = Table(title=literal(title))
    for column in columns:
        side: JustifyMethod = "right" if pd.api.types.is_numeric_dtype(frame[column]) else "left"
        table.add_column(literal(column), justify=side, overflow="fold")  # a name that is cut off is no use
    for kind, row in zip(frame["kind"], text[columns].itertuples(index=False), strict=True):
        table.add_row(*map(literal, row), style=STYLES.get(kind))
    return table


def evaluations_table(summary: pd.DataFrame, width: int) -> Table:
    """evaluations.csv for `width` characters: a line a set, then mean and worst."""
    text = as_text(summary)
    with_intervals = {"AUC": "auc", "accuracy": "accuracy", "recall": "recall", "false-positive rate": "fpr"}
    table = Table(title="Evaluated")
    table.add_column("images of", overflow="fold")
    for title in ("n", *with_intervals, *(("AUC claimed", "p") if width >= WIDE_FROM else ())):
        table.add_column(title, justify="right")
    for (_, row), (_, said) in zip(summary.iterrows(), text.iterrows(), strict=True):
        cells = [said["name"], f"{row['n']:,}" if pd.notna(row["n"]) else ""]
        for column in with_intervals.values():
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            of_images = pd.notna(row["n"]) and pd.notna(low) and width >= WIDE_FROM
            value = "" if pd.isna(row[column]) else f"{row[column]:.3f}"
            cells.append(f"{value} ({low:.3f} to {high:.3f})" if of_images and value else value)
        if width >= WIDE_FROM:
            p = row["auc_p_claimed"]
            cells += [said["auc_claimed"][:5], "< 0.0001" if p < 0.0001 else said["auc_p_claimed"]]
        table.add_row(*map(literal, cells), style=None if pd.notna(row["n"]) else "bold")
    return table


@group()
def audit_summary(audit: Audit) -> Iterator[RenderableType]:
    """The audit for the terminal, readable from 80 columns on: tables, the metadata baseline, findings last."""
    for columns, rows in (count_rows(audit), size_rows(audit), duplicate_rows(audit)):
        if rows:
            table = Table()
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left")
            for row in rows:
                table.add_row(*map(literal, row))
            yield table
    if audit.baseline is not None:
        yield literal(
            baseline_sentence(audit) or "What each property of the files alone predicts (AUC; 0.5 is chance):"
        )
        telling = [feature for feature in audit.baseline.features if feature.low > 0.5]
        width = max((len(feature.feature) for feature in telling), default=0)
        for feature in telling:
            yield literal(f"  {feature.feature:<{width}}  {feature.auc:.2f}  {'█' * round(40 * (feature.auc - 0.5))}")
    yield Text()
    if not audit.findings:
        yield Text("Nothing was found that would mislead.", style="green")
    for finding in audit.findings:
        yield Text.assemble((f"{finding.grade.capitalize()}: ", GRADE_STYLES[finding.grade]), literal(finding.sentence))
        yield Padding(literal(finding.what_to_do, "dim"), (0, 0, 0, 2))


@group()
def label_issues_summary(issues: LabelIssues) -> Iterator[RenderableType]:
    """How many labels may be wrong, and the first of them."""
    yield Text()
    yield literal(issues.sentence)
    if issues.table.empty:
        return
    table = Table()
    for column, side in (("path", "left"), ("label", "left"), ("p_fake", "right"), ("part", "left")):
        table.add_column(column, justify=cast(JustifyMethod, side), overflow="fold")
    for row in issues.table.head(LABELS_SHOWN).to_dict("records"):
        cells = (row["path"], CLASSES[row["label"]], f"{row['p_fake']:.3f}", row["part"])
        table.add_row(*(literal(cell) for cell in cells))
    yield table
    if len(issues.table) > LABELS_SHOWN:
        yield literal(f"… and {len(issues.table) - LABELS_SHOWN:,} more in label-issues.csv", "dim")

"""the leaderboard -> a table for the terminal."""

import pandas as pd
from rich.table import Table
from rich.text import Text

from rfray.errors import InputError, nearest_first
from rfray.evaluation.leaderboard import as_text

WIDE = ["rank", "name", "status", "backbone", "augmentation", "lr", "accuracy", "precision", "recall", "f1", "auc", "n"]
NARROW = ["rank", "name", "backbone", "accuracy", "auc", "n"]
"""What fits on a line of WIDE_FROM characters, or on a shorter one, besides the select column."""
WIDE_FROM = 120


def leaderboard_table(frame: pd.DataFrame, sort: str | None, width: int) -> Table:
    """The leaderboard for `width` characters, in its own order or by one column, highest value first (rank: lowest).

    Raises InputError where there is no such column.
    """
    if sort is not None:
        if sort not in frame.columns:
            raise InputError(f"--sort {sort}: no such column; allowed: {nearest_first(sort, frame.columns, 40)}")
        numeric = pd.api.types.is_numeric_dtype(frame[sort])
        frame = frame.sort_values(sort, ascending=sort == "rank" or not numeric, na_position="last", kind="stable")
    select = next(column for column in frame.columns if column.startswith("select_"))
    columns = list(WIDE if width >= WIDE_FROM else NARROW)
    columns.insert(columns.index("accuracy"), select)
    if sort is not None and sort not in columns:
        columns.append(sort)
    table = Table(title=f"Leaderboard, ranked by {select}" if sort is None else f"Leaderboard, sorted by {sort}")
    for column in columns:
        table.add_column(column, justify="right" if pd.api.types.is_numeric_dtype(frame[column]) else "left")
    for row in as_text(frame)[columns].itertuples(index=False):
        table.add_row(*(Text(str(cell)) for cell in row), style="bold" if row.name == "ensemble" else None)
    return table

"""`Groups` -> the page's table by group, and the sentence that names the worst."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from rfray.evaluation.groups import Groups

AT_MOST = 30
"""Groups on the page, the worst first; groups.csv has all."""

TITLES = {"auc": "AUC", "accuracy": "accuracy", "recall": "recall", "false_positive_rate": "false-positive rate"}
"""Measure -> its name on the page."""


@dataclass(frozen=True)
class GroupTable:
    """What the page shows of the groups."""

    worst: str
    """Sentences."""
    notes: list[str]
    """What has to be known to read the table."""
    columns: list[str]
    rows: list[list[str]]
    """Text of the cells; the first names the group."""


def group_table(groups: Groups) -> GroupTable:
    """The table by group as people read it: shares with three decimals, "" where there is no value."""
    shown = groups.table.head(AT_MOST)
    notes = []
    if (groups.table["auc_against"] != "own").any():
        notes.append(
            "Where a group has images of one class alone, its AUC compares them with all test images of the other."
        )
    if len(shown) < len(groups.table):
        notes.append(f"The {len(shown)} worst of {len(groups.table):,} groups; all are in groups.csv.")
    columns = ["group", "real", "fake", *(f"{title} (95 % interval)" for title in TITLES.values()), "AUC against"]
    rows = [_row(dict(row)) for _, row in shown.iterrows()]
    return GroupTable(_worst(groups), notes, columns, [*rows, ["all images", *_row(groups.overall)[1:]]])


def _worst(groups: Groups) -> str:
    worst, measure = dict(groups.table.iloc[0]), groups.measure
    title, overall = TITLES[measure], groups.overall[measure]
    inside = worst[f"{measure}_low"] <= overall <= worst[f"{measure}_high"]
    held = f"The {title} of all images, {overall:.3f}, is {'within' if inside else 'outside'} that interval"
    return (
        f"Of {len(groups.table):,} groups, {_name(worst['group'])} comes off worst: {title} {_span(worst, measure)}, "
        f"n = {worst['n']:,}. {held}{', so this may be chance' if inside else ''}."
    )


def _row(row: dict[str, Any]) -> list[str]:
    against = row.get("auc_against")
    return [
        _name(row["group"]),
        f"{row['real']:,}",
        f"{row['fake']:,}",
        *(_span(row, measure) for measure in TITLES),
        "" if pd.isna(against) else str(against),
    ]


def _name(group: str) -> str:
    return group or "other"


def _span(row: dict[str, Any], measure: str) -> str:
    """The value and its interval; "" where it is undefined."""
    value = row.get(measure)
    if pd.isna(value):
        return ""
    return f"{value:.3f} ({row[f'{measure}_low']:.3f} to {row[f'{measure}_high']:.3f})"

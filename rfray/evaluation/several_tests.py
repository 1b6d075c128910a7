"""Predictions of the leaderboard's rows on several test sets -> its columns auc_<name>, …, auc_mean and auc_worst."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from rfray.evaluation.significance import Evaluated, on_same_images
from rfray.spec.parts import COLUMNS_OF_SETS
from rfray.spec.sweep import DataSettings
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions

MEAN, WORST_SET = (f"auc_{name}" for name in COLUMNS_OF_SETS)
"""Columns: the mean of the AUCs on all test sets, and the smallest."""


def number_columns(data: DataSettings) -> list[str]:
    """The columns of numbers that a leaderboard has for its test sets; none where there is only one.

    Of each set: AUC, its 95 % interval (DeLong, of whole groups), and accuracy at the row's own threshold.
    """
    names = data.test_sets
    of_each = [column for name in names for column in (f"auc_{name}_low", f"auc_{name}_high", f"accuracy_{name}")]
    return [*(f"auc_{name}" for name in names), MEAN, WORST_SET, *of_each] if names else []


def count_columns(data: DataSettings) -> list[str]:
    """The same of counts: how many images of each set were predicted."""
    return [f"n_{name}" for name in data.test_sets]


def set_names(columns: Iterable[Hashable]) -> list[str]:
    """The names of the test sets that a leaderboard with these columns is about, the first one first; none of one."""
    found, counts = list(map(str, columns)), "n_"
    names = [column.removeprefix(counts) for column in found if column.startswith(counts)]
    return [name for name in names if f"accuracy_{name}" in found]


def main_columns(columns: Iterable[Hashable]) -> list[str]:
    """What is shown at once of the further test sets, beside the AUC on the first one."""
    names = set_names(columns)
    return [*(f"auc_{name}" for name in names[1:]), MEAN, WORST_SET] if names else []


def figures_of_sets(
    sets: Mapping[str, Sequence[Evaluated]], groups: Mapping[str, "pd.Series[int] | None"]
) -> pd.DataFrame:
    """The columns of the test sets, indexed by the name of a row; nan where undefined, or not predicted.

    `sets`: name of a set -> the rows that have predicted it; `groups`: -> id of its images -> number of the group, or
    None. The mean and the worst are those of all sets, and undefined where one of the AUCs is. Raises RunError where
    rows disagree on a label.
    """
    table = pd.DataFrame(index=list(dict.fromkeys(row.name for rows in sets.values() for row in rows)), dtype=float)
    for name, rows in sets.items():
        columns = [f"auc_{name}", f"auc_{name}_low", f"auc_{name}_high", f"accuracy_{name}", f"n_{name}"]
        table[columns] = np.nan
        aucs = {row.name: metric("auc", row.test) for row in rows}
        for panel in on_same_images(rows, groups[name]):
            placed = panel.placements
            ends = np.full((len(panel.names), 2), np.nan) if placed is None else placed.intervals
            values = [[aucs[one] for one in panel.names], *ends.T, panel.right.mean(axis=1), len(panel.ids)]
            for column, value in zip(columns, values, strict=True):
                table.loc[panel.names, column] = np.array(value, dtype=float)
    each = table[[f"auc_{name}" for name in sets]]
    return table.assign(**{MEAN: each.mean(axis=1, skipna=False), WORST_SET: each.min(axis=1, skipna=False)})


def constant_row(sets: Mapping[str, Predictions], is_fake: bool) -> dict[str, float]:
    """The columns of the row that calls every image of every set the same; `sets`: name -> any predictions of it."""
    shares = {name: float(test.labels.mean()) for name, test in sets.items()}
    row: dict[str, float] = {f"accuracy_{name}": share if is_fake else 1 - share for name, share in shares.items()}
    row |= {f"n_{name}": len(test) for name, test in sets.items()}
    both = [f"auc_{name}" for name, share in shares.items() if 0 < share < 1]
    return row | dict.fromkeys([*both, *([MEAN, WORST_SET] if len(both) == len(sets) > 0 else [])], 0.5)


def sets_sentence(frame: pd.DataFrame, name: str) -> str | None:
    """What the row of this name comes to on several test sets, the worst one first; None where there is only one."""
    sets = set_names(frame)
    if not sets:
        return None
    row = frame[frame["name"] == name].iloc[0]
    who = "the ensemble" if row["kind"] == "ensemble" else name
    aucs = {one: row[f"auc_{one}"] for one in sets if pd.notna(row[f"auc_{one}"])}
    if len(aucs) < len(sets):
        undefined = ", ".join(one for one in sets if one not in aucs)
        return f"Of {len(sets)} test sets the AUC of {who} on {undefined} is undefined, and so are mean and worst."
    worst, *others = sorted(aucs, key=lambda one: aucs[one])
    low, high = row[f"auc_{worst}_low"], row[f"auc_{worst}_high"]
    rest = ", ".join(f"{one} {aucs[one]:.4f}" for one in sets if one in others)
    return (
        f"Of {len(sets)} test sets {who} is worst on {worst}: AUC {aucs[worst]:.4f} (95 % interval {low:.4f} to "
        f"{high:.4f}); {rest}; mean {row[MEAN]:.4f}. What is said without a name is on {sets[0]}."
    )

"""The ensemble's test predictions, groups of images -> groups.csv: how good it is on each, worst first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rfray.data.sources import matched
from rfray.stats.clusters import groups_in, groups_of_images, share_intervals
from rfray.stats.metrics import confusion
from rfray.stats.paired_tests import placements
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.csv_files import csv_text
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

SHOWN = 3
"""Decimals of a group's figures as people read them: groups that differ by less are alike."""
RATES = ("accuracy", "recall", "false_positive_rate")
GROUP_COLUMNS = {
    "group": "string",
    **dict.fromkeys(("n", "real", "fake"), "Int64"),
    **dict.fromkeys(("auc", "auc_low", "auc_high"), "float64"),
    "auc_against": "string",
    **{f"{rate}{end}": "float64" for rate in RATES for end in ("", "_low", "_high")},
}
"""Column of groups.csv -> its pandas dtype. `auc_against`: own, where the group has both classes; else all real or all
fake, since its images are then compared with all test images of the other class."""


@dataclass(frozen=True)
class Groups:
    """How good a vote is on each group."""

    table: pd.DataFrame
    """One row a group, GROUP_COLUMNS; by `measure`, lowest first. An undefined value is nan."""
    overall: dict[str, Any]
    """The same columns, of all images together."""
    measure: str
    """auc; accuracy where no AUC is defined, or all are the same."""


def groups_of(run: RunDir) -> Groups | None:
    """How good the ensemble's main vote is on each group of test.

    None where there is only one group, no ensemble, or no catalog to read subfolders from. Raises RunError where a file
    is damaged.
    """
    ensemble = run.ensemble()
    pattern = run.sweep().report.group_pattern
    if ensemble is None or (pattern is None and not run.catalog_file.exists()):
        return None
    predictions = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    if pattern is not None:
        names = [matched(pattern, path) for path in predictions.ids]
    else:
        names = run.images("test")["subfolder"].reindex(predictions.ids).fillna("").tolist()
    together = groups_of_images(predictions.ids, groups_in(run, "test"))
    return by_group(predictions, np.array(names, dtype=object), ensemble.threshold, together)


def write_groups(run: RunDir, attributes: Mapping[str, Groups] | None = None) -> str:
    """Writes groups.csv, or deletes it where there is only one group and no `attributes`, by name.

    Its first column is the attribute whose values the groups are; empty for subfolders and `report.group_pattern`.
    Raises RunError as `groups_of`. Returns what to say of images without a group; "" where each has one.
    """
    groups = groups_of(run)
    tables = {**({"": groups} if groups is not None else {}), **(attributes or {})}
    write_group_tables(run.groups_csv, tables)
    if groups is None:
        return "There is only one group of test images (report.group_pattern), so there is no table by group"
    without = int(groups.table.loc[groups.table["group"] == "", "n"].sum())
    return f"In {without} of {groups.overall['n']} test images report.group_pattern finds nothing" if without else ""


def write_group_tables(file: Path, tables: Mapping[str, Groups]) -> None:
    """Writes the groups of each attribute ("" of none), one below the other; deletes the file where there are none."""
    if not tables:
        file.unlink(missing_ok=True)
        return
    columns = dict.fromkeys(column for one in tables.values() for column in one.table)
    rows = [one.table.assign(attribute=name) for name, one in tables.items()]
    write_whole(file, csv_text(pd.concat(rows)[["attribute", *columns]]))


def by_group(
    predictions: Predictions, names: np.ndarray, threshold: float, together: np.ndarray | None = None
) -> Groups | None:
    """The table by group; `names` (n,) text says in which group each image is. None where there is only one.

    `together` (n,) int: images with the same number are one piece of evidence; None: each stands alone.
    """
    members = pd.Series(range(len(names))).groupby(names).indices
    if len(members) < 2:
        return None
    rows = [_row(str(name), predictions, np.asarray(inside), threshold, together) for name, inside in members.items()]
    table = pd.DataFrame(rows, columns=list(GROUP_COLUMNS)).astype(GROUP_COLUMNS)
    measure = "auc" if table["auc"].round(SHOWN).nunique() > 1 else "accuracy"
    table = table.sort_values([measure, "accuracy", "group"], ignore_index=True)
    return Groups(table, _row("", predictions, np.arange(len(predictions)), threshold, together), measure)


def _row(
    name: str, predictions: Predictions, inside: np.ndarray, threshold: float, together: np.ndarray | None
) -> dict[str, Any]:
    """GROUP_COLUMNS of the images at the positions `inside`, without what is undefined; see `share_intervals`."""
    at = confusion(predictions.at(inside), threshold)
    is_fake = predictions.labels[inside] == 1
    called = predictions.p_fake[inside] >= threshold
    everything = np.ones(len(inside), bool)
    counted = {  # rate -> its hits, and what it is a share of
        "accuracy": (called == is_fake, everything),
        "recall": (called & is_fake, is_fake),
        "false_positive_rate": (called & ~is_fake, ~is_fake),
    }
    n, real, fake = len(inside), at.tn + at.fp, at.tp + at.fn
    row: dict[str, Any] = {"group": name, "n": n, "real": real, "fake": fake}
    for rate in RATES:
        hits, of = counted[rate]
        if of.any():
            (ends,) = share_intervals(hits[None], of[None], _numbers(together, inside))
            row |= zip((rate, f"{rate}_low", f"{rate}_high"), (hits.sum() / of.sum(), *ends.tolist()), strict=True)
    against = "own" if real and fake else "all real" if fake else "all fake"
    if against != "own":
        inside = np.concatenate([inside, np.flatnonzero(predictions.labels == (0 if fake else 1))])
    labels = predictions.labels[inside]
    if 0 < labels.sum() < len(labels):
        found = placements(
            labels, predictions.p_fake[None, inside], groups=None if together is None else together[inside]
        )
        low, high = found.intervals[0].tolist()
        row |= {"auc": float(found.aucs[0]), "auc_low": low, "auc_high": high, "auc_against": against}
    return row


def _numbers(together: np.ndarray | None, inside: np.ndarray) -> np.ndarray | None:
    """(m,) int from 0: the numbers of some of the images, or None where no two of them share one."""
    if together is None:
        return None
    values, numbers = np.unique(together[inside], return_inverse=True)
    return None if len(values) == len(inside) else numbers

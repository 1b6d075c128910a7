"""A run's tables and records -> sentences and cells for people, and the templates that hold them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context, select_autoescape
from jinja2.nodes import EvalContext
from markupsafe import Markup

from rfray.data.corruptions import FAMILIES
from rfray.errors import printable
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.groups import SHOWN, Groups
from rfray.evaluation.leaderboard import escaped
from rfray.evaluation.search_findings import amount
from rfray.evaluation.several_tests import MEAN, WORST_SET, set_names
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.records import Audit, Spread

CORRUPTED = {
    "jpeg": "JPEG of quality {}",
    "scale": "scaling down to {} % and back",
    "blur": "a blur of {} px",
    "noise": "noise of {} (of 255)",
}
"""Family of corruptions -> one of them in a sentence."""
METRIC_WORDS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "auc": "AUC",
    "fpr": "false-positive rate",
}
"""Figure -> what it is called; each has an interval."""
OF_GROUPS = {"auc": "AUC", "accuracy": "accuracy", "recall": "recall", "false_positive_rate": "false-positive rate"}
"""The same of a group."""
GROUPS_SHOWN = 30
"""Groups on the page, the worst first; groups.csv has all."""

VOTERS_SHOWN = 8
"""The ensemble and the first of its members, side by side on each test set: more would not be read."""

Table = tuple[list[str], list[list[str]]]
"""Columns and rows; the first column is text."""


@pass_eval_context
def _shown(context: EvalContext, value: Any) -> Any:
    """A value as a page shows it; of names, what could steer how the page is read is escaped, too."""
    is_markup = isinstance(value, Markup) or not context.autoescape
    return printable(value) if isinstance(value, str) and not is_markup else value


TEMPLATES = Environment(
    loader=PackageLoader("rfray", "."),
    autoescape=select_autoescape(["html.j2"]),  # names and reasons come from files and exceptions
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Those of all pages. Markdown escapes with the filter `escaped`."""
TEMPLATES.filters["escaped"] = escaped


def corruption_sentence(frame: pd.DataFrame, name: str) -> str | None:
    """What hurts this row of the leaderboard (the ensemble) most; None where it has no columns of corrupted images."""
    if not set(TEST_COLUMNS) <= set(frame.columns):
        return None
    row: pd.Series[Any] = frame[frame["name"] == name].iloc[0]
    found = {
        CORRUPTED[family].format(strength): row[f"auc_{family}_{strength}"]
        for family, strengths in FAMILIES.items()
        for strength in strengths
    }
    aucs = pd.Series(found, dtype=float).dropna()
    auc = float(row["auc"])
    if aucs.empty or pd.isna(auc):
        return "The AUC of the ensemble under corruption is undefined."
    worst, corruption = aucs.min(), aucs.idxmin()
    if worst >= auc:
        least = f"the least, {worst:.4f}, is under {corruption}"
        return f"No corruption lowers the AUC of the ensemble, {auc:.4f}; {least}."
    return f"What hurts the ensemble most is {corruption}: its AUC falls from {auc:.4f} to {worst:.4f}."


def set_rows(frame: pd.DataFrame, voters: Sequence[str]) -> Table:
    """What an ensemble and its best members come to on each of several test sets, then mean and worst.

    `voters`: the name of the ensemble's row, then those of its members, best first.
    """
    names, sets, by_name = voters[:VOTERS_SHOWN], set_names(frame), frame.set_index("name")
    if not sets:
        return [], []
    first = dict(by_name.loc[names[0]])
    rows = [
        [
            one,
            f"{first[f'n_{one}']:,}",
            _number(first[f"accuracy_{one}"]),
            *(_value_and_interval(dict(by_name.loc[name]), f"auc_{one}") for name in names),
        ]
        for one in sets
    ]
    for title, column in (("mean", MEAN), ("worst", WORST_SET)):
        rows.append([title, "", "", *by_name.loc[[*names], column].map(_number)])
    return [
        "test set",
        "images",
        f"accuracy of {names[0]}",
        *(f"AUC of {name} (95 % interval)" for name in names),
    ], rows


def group_sentence(groups: Groups) -> str:
    """Which group comes off worst, and whether that may be chance."""
    worst, measure = dict(groups.table.iloc[0]), groups.measure
    if groups.table[measure].round(SHOWN).nunique(dropna=False) == 1:
        return (
            f"Of {len(groups.table):,} groups none comes off worse: {OF_GROUPS[measure]} {worst[measure]:.3f} in each."
        )
    title, overall = OF_GROUPS[measure], groups.overall[measure]
    inside = worst[f"{measure}_low"] <= overall <= worst[f"{measure}_high"]
    held = f"{overall:.3f}, is {'within that interval, so this may be chance' if inside else 'outside that interval'}"
    return (
        f"Of {len(groups.table):,} groups, {worst['group'] or 'other'} comes off worst: {title} "
        f"{_value_and_interval(worst, measure)}, n = {worst['n']:,}. The {title} of all images, {held}."
    )


def group_rows(groups: Groups) -> Table:
    """The worst groups, then all images: shares with three decimals, "" where there is no value."""
    columns = ["group", "real", "fake", *(f"{title} (95 % interval)" for title in OF_GROUPS.values()), "AUC against"]
    shown: list[dict[Any, Any]] = groups.table.head(GROUPS_SHOWN).to_dict("records")
    rows = [
        [
            row["group"] or "other",
            f"{row['real']:,}",
            f"{row['fake']:,}",
            *(_value_and_interval(row, measure) for measure in OF_GROUPS),
            "" if pd.isna(row.get("auc_against")) else row["auc_against"],
        ]
        for row in (*shown, {**groups.overall, "group": "all images"})
    ]
    for rate in (name for name in OF_GROUPS if f"{name}_p" in groups.table):
        columns.append(f"{OF_GROUPS[rate]} of the others (p)")
        for cells, one in zip(rows, [*shown, {}], strict=True):
            others, p = one.get(f"{rate}_others"), one.get(f"{rate}_p")
            cells.append("" if pd.isna(p) or p is None else f"{others:.{SHOWN}f} ({p:.2g})")
    return columns, rows


def figure_rows(figures: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of each of METRIC_WORDS in a bundle's figures."""
    rows = []
    for column, name in METRIC_WORDS.items():
        value, low, high = (figures.get(key) for key in (column, f"{column}_low", f"{column}_high"))
        interval = "" if None in (value, low, high) else f"{low:.3f} to {high:.3f}"
        rows.append((name, "undefined" if value is None else f"{value:.4f}", interval))
    return rows


def count_rows(audit: Audit) -> Table:
    """Images and subfolders of each class in each part."""
    counts = {(count.part, count.label): count for count in audit.counts}
    rows = []
    for part in ("train", "val", "left out", *sorted({count.part for count in audit.counts if is_test(count.part)})):
        here = [counts.get((part, label)) for label in range(len(CLASSES))]
        if any(here):
            images, groups = ([getattr(one, what, 0) for one in here] for what in ("images", "groups"))
            rows.append([part, *(f"{n:,}" for n in images), " + ".join(map(str, groups)) if any(groups) else "-"])
    return ["part", *CLASSES, "subfolders"], rows


def size_rows(audit: Audit) -> Table:
    """Least, median and greatest size of each class, and its formats."""
    columns = ["least / median / greatest", *(CLASSES[sizes.label] for sizes in audit.sizes)]
    rows = [
        ["width (pixels)", *(_spread(sizes.width) for sizes in audit.sizes)],
        ["height (pixels)", *(_spread(sizes.height) for sizes in audit.sizes)],
        ["file size (kB)", *(_spread(sizes.file_bytes, 1000) for sizes in audit.sizes)],
        ["bytes per pixel", *(_spread(sizes.bytes_per_pixel) for sizes in audit.sizes)],
        ["format", *(", ".join(f"{name} {n:,}" for name, n in sizes.formats.items()) for sizes in audit.sizes)],
    ]
    return columns, rows if audit.sizes else []


def duplicate_rows(audit: Audit) -> Table:
    """Pairs of like images, by kind, where their two images are, and whether their labels agree."""
    rows = [
        [
            pairs.kind,
            " and ".join(dict.fromkeys((pairs.first, pairs.second))),
            "real and fake" if pairs.across_labels else "same",
            f"{pairs.pairs:,}",
        ]
        for pairs in audit.duplicates
    ]
    return ["like", "where", "labels", "pairs"], rows


def baseline_rows(audit: Audit) -> Table:
    """What each property of the files alone predicts."""
    found = audit.baseline.features if audit.baseline is not None else []
    rows = [[one.feature, f"{one.auc:.2f}", f"{one.low:.2f} to {one.high:.2f}"] for one in found]
    return ["property", "AUC", "95 % interval"], rows


def baseline_sentence(audit: Audit) -> str:
    """What the metadata baseline came to; "" where there is none, or where a finding says it already."""
    said = {finding.sentence for finding in audit.findings}
    return audit.baseline.sentence if audit.baseline is not None and audit.baseline.sentence not in said else ""


def _value_and_interval(row: Mapping[Any, Any], measure: str) -> str:
    if pd.isna(row.get(measure)):
        return ""
    value, low, high = (f"{row[column]:.{SHOWN}f}" for column in (measure, f"{measure}_low", f"{measure}_high"))
    return f"{value} ({low} to {high})"


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.{SHOWN}f}"


def _spread(spread: Spread, unit: float = 1) -> str:
    """One number where all are the same, else least / median / greatest."""
    return " / ".join(dict.fromkeys(amount(value / unit) for value in (spread.min, spread.median, spread.max)))


def judged_images(sweep: Sweep) -> str:
    """What models are chosen on, in sentences."""
    return "images of left-out sources" if sweep.judges_unseen else "the val images"

"""A run's leaderboard, pictures and sweep -> report.html: one file that opens anywhere, without a network."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from rfray.errors import RunError
from rfray.evaluation.groups import groups_of
from rfray.evaluation.leaderboard import (
    LOWER_IS_BETTER,
    TEXT,
    as_text,
    column_types,
    contract_columns,
    false_positives,
    ranked_by,
    read_leaderboard,
)
from rfray.evaluation.search_findings import SearchFindings
from rfray.evaluation.significance import SINGLE, verdict
from rfray.report.audit_plots import AUDIT_PLOTS
from rfray.report.audit_tables import audit_tables, baseline_sentence
from rfray.report.corruption_words import corruption_sentence, is_corrupted
from rfray.report.gallery import gallery_of
from rfray.report.group_table import group_table
from rfray.report.pictures import picture_of, pictures_of
from rfray.report.plots import CORRUPTION, CURVES, HISTORY, confusion_file
from rfray.report.search_plots import SEARCH_PLOTS
from rfray.store.bundle_record import Ensemble, versions
from rfray.store.files import write_whole
from rfray.store.records import Audit
from rfray.store.run_dir import RunDir

SECTIONS = {
    "leaderboard": ("leaderboard", "Leaderboard"),
    "curves": ("curves", "Curves"),
    "confusions": ("confusions", "Confusion matrices"),
    "gallery": ("mistakes", "Mistakes"),
    "groups": ("groups", "Groups"),
    "robustness": ("robustness", "Robustness"),
    "history": ("training", "Training"),
    "search": ("search", "What the search found"),
    "audit": ("audit", "Data audit"),
    "sweep": ("sweep", "The sweep"),
}
"""Part of the page -> its anchor, and the text of the link to it."""
MAIN = ("auc_low", "auc_high", "tied", "auc_worst_corruption", "seconds", "cost")
"""Columns that are shown at once beside those of the contract; the others after a click."""


@dataclass(frozen=True)
class Column:
    """One column of the leaderboard on the page."""

    name: str
    is_text: bool
    rises: bool
    """Whether the first click sorts the lowest value to the top."""
    is_main: bool
    """Whether it is shown at once."""


@dataclass(frozen=True)
class Cell:
    """One cell of the leaderboard on the page."""

    text: str
    value: str
    """What the column is sorted by; "" goes last."""


def write_page(run: RunDir, findings: SearchFindings | None = None) -> None:
    """Writes report.html from leaderboard.csv, ensemble/, plots/, sweep.yaml, unreadable.csv and the audit.

    `findings` are what the page says of the search; without them it says nothing of it.
    Raises RunError where the leaderboard is missing or a file is damaged.
    """
    sweep, frame, ensemble = run.sweep(), read_leaderboard(run), run.ensemble()
    audit = run.audit()
    types, columns = column_types(sweep), _page_columns(contract_columns(sweep), list(frame.columns))
    main = {*contract_columns(sweep), *MAIN, ranked_by(sweep, columns)}
    parts = _parts(run, frame, ensemble, audit, findings)
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=run.name,
            sections=[link for part, link in SECTIONS.items() if part not in parts or parts[part]],
            verdict=list(_verdict(run, frame, ensemble)),
            members=ensemble.members if ensemble is not None else [],
            columns=[_column(column, types.get(column) == TEXT, main) for column in columns],
            rows=list(_table(frame, columns)),
            ranked_by=ranked_by(sweep, columns),
            stamp=audit.stamp if audit is not None else "",
            **parts,
            settings=run.sweep_file.read_text(encoding="utf-8"),
            versions=versions(),
        )
    )
    write_whole(run.report_html, html)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("rfray.report", "."),
        autoescape=True,  # names and reasons come from files and exceptions
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _parts(
    run: RunDir,
    frame: pd.DataFrame,
    ensemble: Ensemble | None,
    audit: Audit | None,
    findings: SearchFindings | None,
) -> dict[str, Any]:
    """Name of a part of the page -> what the template shows there; empty or None: the part is left out."""
    shown = [ensemble.name, *ensemble.members] if ensemble is not None else []
    groups = groups_of(run)
    robustness = search = None
    if ensemble is not None and is_corrupted(frame):
        sentence = corruption_sentence(frame, ensemble.name)
        robustness = {"sentence": sentence, "picture": picture_of(run.plots_folder / CORRUPTION)}
    if findings is not None:
        search = {
            "sentences": findings.sentences,
            "pictures": pictures_of(run.plots_folder, SEARCH_PLOTS),
        }
    return {
        "curves": pictures_of(run.plots_folder, CURVES) if shown else [],
        "confusions": pictures_of(run.plots_folder, map(confusion_file, shown)),
        "gallery": gallery_of(run, ensemble),
        "groups": group_table(groups) if groups is not None else None,
        "robustness": robustness,
        "history": picture_of(run.plots_folder / HISTORY),
        "search": search,
        "audit": _audit(run, audit) if audit is not None else None,
    }


def _verdict(run: RunDir, frame: pd.DataFrame, ensemble: Ensemble | None) -> Iterator[str]:
    """What a reader should know who reads nothing else: what was chosen, how good it is, how sure it is the better one.

    A sentence each; then what was asked for, and what is missing.
    """
    models, trained = frame[frame["kind"].isin(SINGLE)], frame[frame["kind"] == "model"]
    if "repeats" in trained:
        trained = trained[trained["repeats"] == ""]
    again = int((frame["repeats"] != "").sum()) if "repeats" in frame else 0
    failed = int(trained["status"].str.startswith("failed").sum())
    not_kept = int((trained["status"] == "not kept").sum())
    trials = f"{_counted(len(trained), 'finished trial')} ({failed} failed, {not_kept} not kept)"
    if probes := int((frame["kind"] == "probe").sum()):
        trials += f" and {_counted(probes, 'probe')}"
    if again:
        trials += f", and {_counted(again, 'training')} of finalists again"
    if ensemble is None:
        yield f"No ensemble was made of {trials}."
    else:
        # by val: the best by its test metrics would be flattered
        best, *others = models.loc[models["n"].notna(), "name"]
        voting = len(ensemble.members)
        those = f"the {voting} best vote" if voting > 1 else "the best votes"
        if ensemble.members != [best, *others][:voting]:  # weighted, or of different backbones
            those = f"{voting} vote" if voting > 1 else "one votes"
        on = "the val images"
        if _is_of_folds(frame, ensemble):
            on = "all training images, of each by the models that have not learned from it"
        yield f"Of {trials}, {those} in the ensemble, chosen by {ensemble.chosen_by} on {on}."
        row = _row(frame, ensemble.name)
        images = _counted(row["n"], "test image")
        yield f"On {images}, which nothing was chosen on, the ensemble reaches {_reached(row)}."
        yield verdict(run, frame) or f"The best single model, {best}, reaches {_reached(_row(frame, best))}."
    if asked := false_positives(run, frame):
        yield asked
    if unreadable := len(run.unreadable()):
        yield f"{_counted(unreadable, 'image')} could not be read and took no part ({run.unreadable_file.name})."


def _is_of_folds(frame: pd.DataFrame, ensemble: Ensemble) -> bool:
    return bool((frame.set_index("name")["kind"].reindex(ensemble.members) == "fold").all())


def _audit(run: RunDir, audit: Audit) -> dict[str, Any]:
    """What the page shows of the audit: findings, tables (each a heading, its columns and rows) and plots."""
    return {
        "findings": audit.findings,
        "baseline": baseline_sentence(audit),
        "tables": audit_tables(audit),
        "pictures": pictures_of(run.audit_folder, AUDIT_PLOTS),
    }


def _reached(row: "pd.Series[Any]") -> str:
    """Accuracy and AUC of a row, each with its 95 % interval."""

    def value(column: str, name: str) -> str:
        if pd.isna(row[column]):
            return f"{name} undefined"
        return f"{name} {row[column]:.4f} (95 % interval {row[f'{column}_low']:.4f} to {row[f'{column}_high']:.4f})"

    return f"{value('accuracy', 'accuracy')} and {value('auc', 'AUC')}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _row(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """The leaderboard's row of a trial or ensemble. Raises RunError where it has none."""
    found = frame[frame["name"] == name]
    if found.empty:
        raise RunError(f"leaderboard.csv has no row {name}; `rfray ensemble` writes it anew")
    return found.iloc[0]


def _page_columns(contract: list[str], columns: list[str]) -> list[str]:
    """All columns, those that say what came out first and the longest last: the table is wider than most screens."""
    settings = ["kind", "backbone", "augmentation", "lr"]
    front = [column for column in contract if column not in (*settings, "members")]
    front[front.index("auc") + 1 : front.index("auc") + 1] = ["auc_low", "auc_high", "tied"]
    further = (column for column in columns if column not in (*front, *settings, "members"))
    return [*front, *settings, *further, "members"]


def _column(name: str, is_text: bool, main: Collection[str]) -> Column:
    return Column(name, is_text, is_text or name in LOWER_IS_BETTER, name in main)


def _table(frame: pd.DataFrame, columns: list[str]) -> Iterator[dict[str, Any]]:
    text = as_text(frame)
    for index in range(len(frame)):
        values = frame.iloc[index]
        cells = [
            Cell(text[column].iloc[index], "" if pd.isna(values[column]) else str(values[column])) for column in columns
        ]
        yield {"kind": values["kind"], "failed": values["status"].startswith("failed"), "cells": cells}

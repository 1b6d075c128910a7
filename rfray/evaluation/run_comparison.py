"""Leaderboards and ensembles of several runs on test -> one table, and paired tests between the ensembles.

Reads each run's sweep.yaml, catalog.parquet, leaderboard.csv and ensemble/; writes where it is told to.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rfray.errors import InputError, RunError
from rfray.evaluation.leaderboard import TEXT, contract_columns, escaped, markdown_table, ranked_by, read_leaderboard
from rfray.evaluation.significance import (
    DELONG,
    Judged,
    Panel,
    against,
    group_numbers,
    on_same_images,
    shown,
    told_apart,
)
from rfray.stats.bootstrap import bootstrap, percentile_intervals, resample
from rfray.stats.paired_tests import holm, mcnemar
from rfray.stats.predictions import read_predictions
from rfray.store.ensemble_record import read_ensemble
from rfray.store.files import replace_text, replacing
from rfray.store.run_dir import RunDir
from rfray.store.tables import read_catalog

READ = ("sweep.yaml", "catalog.parquet", "leaderboard.csv", "ensemble/*")
"""Patterns of the files of a run that are read."""
MCNEMAR = "McNemar's exact test"
TESTED = ("auc", "accuracy")
TEST_COLUMNS = ["first", "second", "n", "outcome"] + [
    f"{measure}_{what}"
    for measure in TESTED
    for what in ("first", "second", "difference", "low", "high", "p", "p_corrected")
]


@dataclass(frozen=True)
class Comparison:
    """Several runs, side by side."""

    images: int
    """Of test."""
    ranked_by: str | None
    """The column that `table` is sorted by; None where the runs were ranked by different ones."""
    table: pd.DataFrame
    """`run`, then the columns of the runs' leaderboards, all their rows; best first where the runs were ranked by one
    column, and `rank` is the place in this table then; else run by run, each in its own order and with its own rank."""
    main: list[str]
    """`run` and the columns that each leaderboard begins with."""
    tests: pd.DataFrame
    """One row a pair of runs, `first` and `second`: of the ensembles that they hand over `auc_…` (DeLong's paired test)
    and `accuracy_…` (McNemar's exact one, at each one's own threshold): `first`, `second`, `difference` with its 95 %
    interval `low` to `high` (of accuracy by bootstrap), `p`, and `p_corrected` by Holm's method for all pairs.
    `outcome` is that of the AUC: the first beats, is tied with or falls behind the second. nan where undefined."""
    notes: list[str]
    """What a reader should know besides, a sentence each."""

    @property
    def title(self) -> str:
        """What the table shows."""
        order = "run by run" if self.ranked_by is None else f"ranked by {self.ranked_by}"
        return f"{self.table['run'].nunique()} runs on {self.images:,} test images, {order}"


def compare_runs(runs: Sequence[RunDir]) -> Comparison:
    """Joins the runs' leaderboards and tests each pair of ensembles.

    Raises InputError for fewer than two different runs, and RunError where one has no ensemble or leaderboard, or where
    their test parts differ in the path, label or content of any image.
    """
    names = run_names(runs)
    for run in runs:
        if read_ensemble(run) is None:
            where = run.shown(run.path)
            raise RunError(f"{where} has no ensemble to compare; `rfray ensemble {where}` makes one")
    catalogs = [read_catalog(run) for run in runs]
    tests = [_part(catalog, "test") for catalog in catalogs]
    _check_same(names, tests)
    judged = [_handed_over(run, name, test) for run, name, test in zip(runs, names, tests, strict=True)]
    (panel,) = on_same_images(judged)
    group_ids = [catalog[catalog["part"] == "test"].set_index("path")["group_id"] for catalog in catalogs]
    # what any run takes for alike is no independent evidence: the groups of the run that has the fewest
    groups = group_numbers(panel.ids, min(group_ids, key=lambda ids: ids.nunique()))
    column, table = _joined(runs, names)
    contract = {name for run in runs for name in contract_columns(run.sweep())}
    main = [name for name in table.columns if name == "run" or name in contract]
    return Comparison(len(panel.ids), column, table, main, _tests(panel, groups), _notes(names, catalogs, column))


def run_names(runs: Sequence[RunDir]) -> list[str]:
    """What each run is called: its folder, with as many of those around it as it takes to tell the runs apart.

    Raises InputError for fewer than two different runs.
    """
    for where, times in Counter(_real(run) for run in runs).items():
        if times > 1:
            raise InputError(f"{where} was given {times} times; name different runs")
    if len(runs) < 2:
        raise InputError(f"given {', '.join(str(run.where) for run in runs)} alone; name two runs or more")
    parts = [str(run.where).split("/") for run in runs]
    names = []
    for place in parts:
        length = 1
        while sum(other[-length:] == place[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(place[-length:]))
    return names


def _real(run: RunDir) -> str:
    return run.where if isinstance(run.where, str) else str(run.where.resolve())


def sentences(comparison: Comparison) -> list[str]:
    """One on each pair of ensembles: which is better, by how much, and how sure that is; then the notes."""
    pairs = comparison.tests.to_dict("records")
    return [_sentence(pair, len(pairs)) for pair in pairs] + comparison.notes


def write_comparison(comparison: Comparison, file: Path) -> list[Path]:
    """Writes all rows to `file`: a .csv (and the tests to <name>-tests.csv beside it), or a .md that has both.

    Returns what was written. Raises InputError for another ending.
    """
    check_ending(file)
    if file.suffix == ".md":
        replace_text(file, _markdown(comparison))
        return [file]
    tests = file.with_name(f"{file.stem}-tests.csv")
    for path, frame in ((file, comparison.table), (tests, comparison.tests)):
        with replacing(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
    return [file, tests]


def check_ending(file: Path) -> None:
    """Raises InputError where a comparison can't be written to a file of this name."""
    if file.suffix not in (".csv", ".md"):
        raise InputError(f"--out {file}: given {file.suffix or 'no ending'}; allowed: .csv, .md")


def _part(catalog: pd.DataFrame, part: str) -> "pd.Series[Any]":
    """Path of each image of a part -> its label and digest, as one text."""
    chosen = catalog[catalog["part"] == part]
    described = chosen["label"].astype(str) + " " + chosen["digest"]
    return pd.Series(described.to_numpy(), index=chosen["path"].to_numpy(), dtype=object)


def _check_same(names: Sequence[str], tests: Sequence["pd.Series[Any]"]) -> None:
    """Raises RunError, in one message, where test parts differ."""
    problems = []
    for name, test in zip(names[1:], tests[1:], strict=True):
        both = pd.concat([tests[0], test], axis=1, keys=["first", "other"])
        differing = both[both["first"] != both["other"]]  # nan, too, where one has no such image
        if len(differing):
            path, (one, other) = differing.index[0], differing.iloc[0]
            if pd.isna(one) or pd.isna(other):
                how = f"is only in {name if pd.isna(one) else names[0]}"
            else:
                how = "has another label" if one.split()[1:] == other.split()[1:] else "is another picture"
            problems.append(f"{len(differing):,} of {len(both):,} differ between {names[0]} and {name}: {path} {how}")
    if problems:
        raise RunError("the runs report on different images, and can't be compared: " + "; ".join(problems))


def _handed_over(run: RunDir, name: str, test: "pd.Series[Any]") -> Judged:
    """The run's ensemble, called by the run's name. Raises RunError where it speaks of other images than the run."""
    ensemble = read_ensemble(run)
    assert ensemble is not None  # it was looked for before
    predictions = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    if len(predictions) != len(test) or not pd.Index(predictions.ids).isin(test.index).all():
        where = run.shown(run.path)
        raise RunError(f"{where}: its ensemble was made of test; `rfray ensemble {where}` makes it anew")
    return Judged(name, "ensemble", ensemble.val_score, ensemble.threshold, predictions)


def _joined(runs: Sequence[RunDir], names: Sequence[str]) -> tuple[str | None, pd.DataFrame]:
    """The column that all runs are ranked by (None where there are several), and the rows of all leaderboards."""
    frames = [read_leaderboard(run) for run in runs]
    columns: list[str] = []
    types: dict[Any, Any] = {}
    ranked = set()
    for run, frame in zip(runs, frames, strict=True):
        ranked.add(ranked_by(run.sweep(), frame.columns))
        types |= frame.dtypes.to_dict()
        at = 0
        for column in frame.columns:  # what only some have goes where those have it
            if column not in columns:
                columns.insert(at, column)
            at = columns.index(column) + 1
    rows = [
        frame.reindex(columns=columns).astype({column: types[column] for column in columns}).assign(run=name)
        for name, frame in zip(names, frames, strict=True)
    ]
    table = pd.concat(rows, ignore_index=True)[["run", *columns]]
    table = table.fillna({column: "" for column in columns if types[column] == TEXT})
    if len(ranked) > 1:
        return None, table
    (column,) = ranked
    failed = table["status"].str.startswith("failed")
    table = table.assign(_failed=failed).sort_values(
        [column, "_failed"], ascending=[False, True], na_position="last", kind="stable", ignore_index=True
    )
    table["rank"] = pd.Series(range(1, len(table) + 1), dtype="Int64").where(table[column].notna())
    return column, table.drop(columns="_failed")


def _tests(panel: Panel, groups: np.ndarray | None) -> pd.DataFrame:
    """`Comparison.tests` of all pairs of rows; `groups` (n,) int: images that belong together, if any do."""
    pairs = list(combinations(range(len(panel.rows)), 2))
    accuracies = panel.right.mean(axis=1)
    resampled = bootstrap(panel.labels, panel.scores, panel.thresholds, resample(panel.labels, groups))["accuracy"]
    rows: list[dict[str, Any]] = []
    for one, other in pairs:
        (ends,) = percentile_intervals((resampled[one] - resampled[other])[None])
        row = {
            "first": panel.names[one],
            "second": panel.names[other],
            "n": len(panel.labels),
            **dict.fromkeys(TEST_COLUMNS[4:], np.nan),
            "accuracy_first": accuracies[one],
            "accuracy_second": accuracies[other],
            "accuracy_difference": accuracies[one] - accuracies[other],
            "accuracy_low": ends[0],
            "accuracy_high": ends[1],
            "accuracy_p": mcnemar(panel.right[[one]], panel.right[other])[0],
        }
        if panel.placed is not None:
            found = panel.placed.minus(other)
            row["auc_first"], row["auc_second"] = panel.placed.aucs[one], panel.placed.aucs[other]
            row["auc_difference"], row["auc_p"] = found.values[one], found.p_values[one]
            row["auc_low"], row["auc_high"] = found.interval(one)
        rows.append(row)
    for measure in TESTED:
        corrected = holm(np.array([row[f"{measure}_p"] for row in rows]))
        for row, p in zip(rows, corrected, strict=True):
            row[f"{measure}_p_corrected"] = p
    return pd.DataFrame([{**row, "outcome": _outcome(row, "auc")} for row in rows], columns=TEST_COLUMNS)


def _outcome(pair: Mapping[Any, Any], measure: str) -> str:
    """What the first does to the second; "" where there is no p."""
    p, corrected = pair[f"{measure}_p"], pair[f"{measure}_p_corrected"]
    return "" if np.isnan(p) else told_apart(pair[f"{measure}_difference"], p, corrected)


def _sentence(pair: Mapping[Any, Any], pairs: int) -> str:
    measures = [measure for measure in TESTED if not np.isnan(pair[f"{measure}_p"])]
    words = {"auc": ("AUC", DELONG), "accuracy": ("accuracy", MCNEMAR)}
    said = []
    for measure in measures:
        name, test = words[measure]
        of_all = f", {shown(pair[f'{measure}_p_corrected'])} corrected for all {pairs} pairs" if pairs > 1 else ""
        values = pair[f"{measure}_first"], pair[f"{measure}_second"]
        ends = pair[f"{measure}_low"], pair[f"{measure}_high"]
        said.append(f"{name} {against(values, ends, pair[f'{measure}_p'], test, of_all)}")
    return (
        f"On {pair['n']:,} test images the ensemble of {pair['first']} {_outcome(pair, measures[0])} that of "
        f"{pair['second']}: {'; '.join(said)}."
    )


def _notes(names: Sequence[str], catalogs: Sequence[pd.DataFrame], column: str | None) -> list[str]:
    if column is None:
        return ["The runs were ranked by different columns, so each keeps its own ranking."]
    val = [_part(catalog, "val").sort_index() for catalog in catalogs]
    others = [name for name, part in zip(names, val, strict=True) if not part.equals(val[0])]
    if others:
        return [f"{column} of {names[0]} and of {', '.join(others)} was measured on different images."]
    return []


def _markdown(comparison: Comparison) -> str:
    lines = [f"# {escaped(comparison.title)}", ""]
    for sentence in sentences(comparison):
        lines += [escaped(sentence), ""]
    lines += [
        "Without `val_` on test; the positive class is fake. An empty cell: undefined, or not measured.",
        "",
        *markdown_table(comparison.table[comparison.main]),
        "",
        "## Tests between the ensembles",
        "",
        *markdown_table(comparison.tests),
    ]
    return "\n".join(lines) + "\n"

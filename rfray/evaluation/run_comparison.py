"""Leaderboards and ensembles of several runs on test -> one table, and paired tests between the ensembles.

Reads each run's sweep.yaml, catalog.parquet, leaderboard.csv and ensemble/; writes one .csv or .md file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rfray.errors import InputError, RunError
from rfray.evaluation.leaderboard import (
    contract_columns,
    escaped,
    markdown_table,
    ranked_by,
    read_leaderboard,
    val_column,
)
from rfray.evaluation.significance import (
    DELONG,
    Evaluated,
    Panel,
    difference_text,
    group_numbers,
    on_same_images,
    outcome,
    p_text,
)
from rfray.stats.bootstrap import bootstrap, percentile_intervals, resample
from rfray.stats.paired_tests import holm, mcnemar
from rfray.stats.predictions import read_predictions
from rfray.store.bundle_record import Ensemble
from rfray.store.files import replacing, write_whole
from rfray.store.run_dir import RunDir

READ = ("sweep.yaml", "catalog.parquet", "leaderboard.csv", "ensemble/*")
"""Patterns of the files of a run that are read."""
MEASURES = {"auc": ("AUC", DELONG), "accuracy": ("accuracy", "McNemar's exact test")}
"""What is tested -> its name and its test's."""
PAIR_COLUMNS = ["first", "second", "n", "outcome"] + [
    f"{measure}_{what}"
    for measure in MEASURES
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
    column, and `rank` is the rank in this table then; else run by run, each in its own order and with its own rank."""
    main: list[str]
    """`run` and the columns that each leaderboard begins with."""
    tests: pd.DataFrame
    """One row a pair of runs, `first` and `second`: of their ensembles' main votes `auc_…` (DeLong's paired test) and
    `accuracy_…` (McNemar's exact one, at each one's own threshold): `first`, `second`, `difference` with its 95 %
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

    Raises:
        InputError: for fewer than two different runs.
        RunError: where one has no ensemble or leaderboard, or their test images differ in path, label or content.
    """
    names = run_names(runs)
    ensembles = [_ensemble(run) for run in runs]
    catalogs = [run.catalog() for run in runs]
    tests = [_images(catalog, "test") for catalog in catalogs]
    _check_same(names, tests)
    given = zip(runs, names, ensembles, tests, strict=True)
    (panel,) = on_same_images([_evaluated(*one) for one in given])
    group_ids = [catalog[catalog["part"] == "test"].set_index("path")["group_id"] for catalog in catalogs]
    # what any run takes for alike is no independent evidence: the groups of the run that has the fewest
    groups = group_numbers(panel.ids, min(group_ids, key=lambda ids: ids.nunique()))
    column, main, table = _joined(runs, names)
    return Comparison(len(panel.ids), column, table, main, _tests(panel, groups), _notes(names, catalogs, column))


def run_names(runs: Sequence[RunDir]) -> list[str]:
    """What each run is called: its folder, with as many of those around it as it takes to tell the runs apart.

    Raises:
        InputError: for fewer than two different runs.
    """
    real = [run.where if isinstance(run.where, str) else str(run.where.resolve()) for run in runs]
    for where in real:
        if (times := real.count(where)) > 1:
            raise InputError(f"{where} was given {times} times; name different runs")
    if len(runs) < 2:
        raise InputError(f"given {', '.join(str(run.where) for run in runs)} alone; name two runs or more")
    folders = [str(run.where).split("/") for run in runs]
    names = []
    for own in folders:
        length = 1
        while sum(other[-length:] == own[-length:] for other in folders) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def comparison_sentences(comparison: Comparison) -> list[str]:
    """One on each pair of ensembles: which is better, by how much, and how sure that is; then the notes."""
    pairs = comparison.tests.to_dict("records")
    return [_sentence(pair, len(pairs)) for pair in pairs] + comparison.notes


def write_comparison(comparison: Comparison, file: Path) -> list[Path]:
    """Writes all rows to `file`: a .csv (and the tests to <name>-tests.csv beside it), or a .md that has both.

    Returns what was written. Raises InputError for another ending.
    """
    check_ending(file)
    if file.suffix == ".md":
        write_whole(file, _markdown(comparison))
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


def _ensemble(run: RunDir) -> Ensemble:
    ensemble = run.ensemble()
    if ensemble is None:
        where = run.shown(run.path)
        raise RunError(f"{where} has no ensemble to compare; `rfray ensemble {where}` makes one")
    return ensemble


def _images(catalog: pd.DataFrame, part: str) -> "pd.Series[Any]":
    """Path of each image of a part -> its label and digest, as one text."""
    chosen = catalog[catalog["part"] == part].set_index("path")
    return (chosen["label"].astype(str) + " " + chosen["digest"]).astype(object)


def _check_same(names: Sequence[str], tests: Sequence["pd.Series[Any]"]) -> None:
    """Raises RunError, in one message, where test images differ."""
    problems = []
    for name, test in zip(names[1:], tests[1:], strict=True):
        both = pd.concat([tests[0], test], axis=1, keys=["first", "other"])
        differing = both[both["first"] != both["other"]]  # nan, too, where one has no such image
        if len(differing):
            path, (one, other) = differing.index[0], differing.iloc[0]
            if pd.isna(one) or pd.isna(other):
                how = f"is only in {name if pd.isna(one) else names[0]}"
            else:
                how = "has another label" if one.split()[1:] == other.split()[1:] else "is another image"
            problems.append(f"{len(differing):,} of {len(both):,} differ between {names[0]} and {name}: {path} {how}")
    if problems:
        raise RunError("the runs have different test images, and can't be compared: " + "; ".join(problems))


def _evaluated(run: RunDir, name: str, ensemble: Ensemble, test: "pd.Series[Any]") -> Evaluated:
    """The run's ensemble, called by the run's name. Raises RunError where it has predicted other images."""
    predictions = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    if len(predictions) != len(test) or not pd.Index(predictions.ids).isin(test.index).all():
        where = run.shown(run.path)
        raise RunError(f"{where}: its ensemble was made of other test images; `rfray ensemble {where}` makes it anew")
    return Evaluated(name, "ensemble", ensemble.val_score, ensemble.threshold, predictions)


def _joined(runs: Sequence[RunDir], names: Sequence[str]) -> tuple[str | None, list[str], pd.DataFrame]:
    """The column that all runs are ranked by (None where there are several), `Comparison.main` and `.table`."""
    sweeps, frames = [run.sweep() for run in runs], [read_leaderboard(run) for run in runs]
    contract = contract_columns(sweeps[0])
    place = contract.index(val_column(sweeps[0]))
    main = ["run", *contract[:place], *dict.fromkeys(map(val_column, sweeps)), *contract[place + 1 :]]
    table = pd.concat([frame.assign(run=name) for name, frame in zip(names, frames, strict=True)], ignore_index=True)
    table = table.reindex(columns=list(dict.fromkeys([*main, *table.columns])))
    text = [name for name in table.columns if isinstance(table[name].dtype, pd.StringDtype)]
    table[text] = table[text].fillna("")
    ranked: set[str] = {ranked_by(sweep, frame.columns) for sweep, frame in zip(sweeps, frames, strict=True)}
    if len(ranked) > 1:
        return None, main, table
    column = ranked.pop()
    failed = table["status"].str.startswith("failed")
    order = pd.DataFrame({"score": table[column], "failed": failed}).sort_values(
        ["score", "failed"], ascending=[False, True], na_position="last", kind="stable"
    )
    table = table.loc[order.index].reset_index(drop=True)
    table["rank"] = pd.Series(range(1, len(table) + 1), dtype="Int64").where(table[column].notna())
    return column, main, table


def _tests(panel: Panel, groups: np.ndarray | None) -> pd.DataFrame:
    """`Comparison.tests` of all pairs of rows; `groups` (n,) int: images that belong together, if any do."""
    accuracies = panel.right.mean(axis=1)
    resampled = bootstrap(panel.labels, panel.scores, panel.thresholds, resample(panel.labels, groups))["accuracy"]
    rows: list[dict[str, Any]] = []
    for one, other in combinations(range(len(panel.rows)), 2):
        low, high = percentile_intervals((resampled[one] - resampled[other])[None])[0].tolist()
        p = mcnemar(panel.right[[one]], panel.right[other])[0]
        row = {"first": panel.names[one], "second": panel.names[other], "n": len(panel.labels), "auc_p": np.nan}
        row |= _measured("accuracy", accuracies[one], accuracies[other], low, high, p)
        if panel.placements is not None:
            found, aucs = panel.placements.minus(other), panel.placements.aucs
            row |= _measured("auc", aucs[one], aucs[other], *found.interval(one), found.p_values[one])
        rows.append(row)
    for measure in MEASURES:
        corrected = holm(np.array([row[f"{measure}_p"] for row in rows]))
        for row, p in zip(rows, corrected, strict=True):
            row[f"{measure}_p_corrected"] = p
    return pd.DataFrame([{**row, "outcome": _outcome(row, "auc")} for row in rows], columns=PAIR_COLUMNS)


def _measured(measure: str, first: float, second: float, low: float, high: float, p: float) -> dict[str, Any]:
    values = {"first": first, "second": second, "difference": first - second, "low": low, "high": high, "p": p}
    return {f"{measure}_{name}": value for name, value in values.items()}


def _outcome(pair: Mapping[Any, Any], measure: str) -> str:
    """What the first does to the second; "" where there is no p."""
    p, corrected = pair[f"{measure}_p"], pair[f"{measure}_p_corrected"]
    return "" if np.isnan(p) else outcome(pair[f"{measure}_difference"], p, corrected)


def _sentence(pair: Mapping[Any, Any], pairs: int) -> str:
    measures = [measure for measure in MEASURES if not np.isnan(pair[f"{measure}_p"])]
    texts = []
    for measure in measures:
        name, test = MEASURES[measure]
        first, second, low, high, p, corrected = (
            pair[f"{measure}_{what}"] for what in ("first", "second", "low", "high", "p", "p_corrected")
        )
        of_all = f", {p_text(corrected)} corrected for all {pairs} pairs" if pairs > 1 else ""
        texts.append(f"{name} {difference_text((first, second), (low, high), p, test, of_all)}")
    return (
        f"On {pair['n']:,} test images the ensemble of {pair['first']} {_outcome(pair, measures[0])} that of "
        f"{pair['second']}: {'; '.join(texts)}."
    )


def _notes(names: Sequence[str], catalogs: Sequence[pd.DataFrame], column: str | None) -> list[str]:
    if column is None:
        return ["The runs were ranked by different columns, so each keeps its own ranking."]
    val = [_images(catalog, "val").sort_index() for catalog in catalogs]
    others = [name for name, images in zip(names, val, strict=True) if not images.equals(val[0])]
    return [f"{column} of {names[0]} and of {', '.join(others)} was measured on different images."] if others else []


def _markdown(comparison: Comparison) -> str:
    paragraphs = [
        f"# {escaped(comparison.title)}",
        *map(escaped, comparison_sentences(comparison)),
        "Without `val_` on test; the positive class is fake. An empty cell: undefined, or not measured.",
        "\n".join(markdown_table(comparison.table[comparison.main])),
        "## Tests between the ensembles",
        "\n".join(markdown_table(comparison.tests)),
    ]
    return "\n\n".join(paragraphs) + "\n"

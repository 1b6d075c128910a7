"""Leaderboards and ensembles of several runs on test -> one table, and paired tests between the ensembles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rfray.errors import InputError, RunError
from rfray.evaluation import leaderboard
from rfray.evaluation.leaderboard import escaped, guessing, markdown_table, val_column
from rfray.evaluation.several_tests import main_columns
from rfray.evaluation.significance import (
    BOOTSTRAPPED_IMAGES,
    Evaluated,
    Panel,
    difference_text,
    on_same_images,
    outcome,
)
from rfray.spec.parts import TEST
from rfray.stats.intervals import bootstrap, percentile_intervals
from rfray.stats.paired_tests import accuracy_p_values, holm
from rfray.stats.predictions import read_predictions
from rfray.store.csv_files import csv_text
from rfray.store.files import clear_left_over, write_whole
from rfray.store.run_dir import Part, RunDir

READ = ("sweep.yaml", "digests.json", "catalog.parquet", "leaderboard.csv", "ensemble/*")
"""Patterns of the files of a run that are read."""
COMPARED = {"auc": "AUC", "accuracy": "accuracy"}
"""What is tested -> its name in a sentence."""
TESTED = ("first", "second", "difference", "low", "high", "p", "p_corrected", "tested_by")
PAIR_COLUMNS = [
    *("first", "second", "n", "n_groups", "outcome"),
    *(f"{measure}_{what}" for measure in COMPARED for what in TESTED),
    "test_set",
]


@dataclass(frozen=True)
class Comparison:
    """Several runs, side by side."""

    images: int
    """Of test, the first test set where there are several."""
    ranked_by: str | None
    """The column that `table` is sorted by; None where the runs were ranked by different ones."""
    table: pd.DataFrame
    """`run`, then the columns of the runs' leaderboards, all their rows; best first where the runs were ranked by one
    column, and `rank` is the rank in this table then; else run by run, each in its own order and with its own rank."""
    main: list[str]
    """`run`, the columns that each leaderboard begins with, and those of further test sets."""
    tests: pd.DataFrame
    """One row a pair of runs, `first` and `second`, on the (first) test set (`test_set` is "") and, by name, on each
    further one that all runs have with the same images: of their ensembles' main votes `auc_…` and `accuracy_…` (at
    each one's own threshold): `first`, `second`, `difference` with its 95 % interval `low` to `high` (of accuracy by
    bootstrap, and nan for more than BOOTSTRAPPED_IMAGES), `p`, `p_corrected` by Holm's method for all rows, and the
    name of the test, `tested_by`: DeLong's and McNemar's, or those for groups where images belong together
    (`n_groups` is less than `n`). `outcome` is that of the AUC: the first beats, is tied with or falls behind the
    second. nan where undefined."""
    warnings: list[str]
    """One on each run whose ensemble is no better than guessing."""
    sentences: list[str]
    """One on each pair of ensembles: which is better, by how much, and how sure that is; then on how runs differ."""

    @property
    def title(self) -> str:
        """What the table shows."""
        order = "run by run" if self.ranked_by is None else f"ranked by {self.ranked_by}"
        return f"{self.table['run'].nunique()} runs on {self.images:,} test images, {order}"


def compare_runs(runs: Sequence[RunDir]) -> Comparison:
    """Joins the runs' leaderboards and tests each pair of ensembles.

    Raises InputError for fewer than two different runs, RunError where one has no ensemble or leaderboard, or their
    test images differ in path, label or content.
    """
    names = run_names(runs)
    for run in runs:
        run.check_images()
    tests = [run.images("test") for run in runs]
    _check_same(names, tests)
    panels, differing = {"": _panel(runs, names, ["test"] * len(runs))}, list[str]()
    for name, parts in _shared_sets(runs).items():
        images = [_contents(run.images(part)).sort_index() for run, part in zip(runs, parts, strict=True)]
        changed = [one for one, each in zip(names, images, strict=True) if not each.equals(images[0])]
        if changed:
            differing.append(f"auc_{name} of {names[0]} and of {', '.join(changed)} was measured on different images.")
        else:
            panels[name] = _panel(runs, names, parts)
    column, main, table = _joined(runs, names)
    pairs = _tests(panels)
    found = [guessing(run, leaderboard.read_leaderboard(run)) for run in runs]
    warnings = [f"{name}: {warning}" for name, warning in zip(names, found, strict=True) if warning]
    others = f"{len(pairs)} {'pairs' if len(panels) == 1 else 'tests'}" if len(pairs) > 1 else ""
    sentences = [_sentence(pair, others) for pair in pairs.to_dict("records")]
    val = [_contents(run.images("val")).sort_index() for run in runs]
    elsewhere = ", ".join(name for name, images in zip(names, val, strict=True) if not images.equals(val[0]))
    if column is None:
        sentences.append("The runs were ranked by different columns, so each keeps its own ranking.")
    elif elsewhere:
        sentences.append(f"{column} of {names[0]} and of {elsewhere} was measured on different images.")
    return Comparison(len(tests[0]), column, table, main, pairs, warnings, [*sentences, *differing])


def run_names(runs: Sequence[RunDir]) -> list[str]:
    """Each run's folder, with as many around it as tell the runs apart. Raises InputError for fewer than two runs."""
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


def write_comparison(comparison: Comparison, file: Path) -> list[Path]:
    """Writes a .csv of all rows, and the tests to <name>-tests.csv beside it, or a .md of both; returns the files."""
    tests = file.with_name(f"{file.stem}-tests.csv")
    clear_left_over(file, tests)
    if file.suffix == ".md":
        paragraphs = [
            f"# {escaped(comparison.title)}",
            *(f"**{escaped(warning)}**" for warning in comparison.warnings),
            *map(escaped, comparison.sentences),
            "Without `val_` on test; the positive class is fake. An empty cell: undefined, or not measured.",
            markdown_table(comparison.table[comparison.main]),
            "## Tests between the ensembles",
            markdown_table(comparison.tests),
        ]
        write_whole(file, "\n\n".join(paragraphs) + "\n")
        return [file]
    write_whole(file, csv_text(comparison.table))
    write_whole(tests, csv_text(comparison.tests))
    return [file, tests]


def check_ending(file: Path) -> None:
    """Raises InputError where a comparison can't be written to a file of this name."""
    if file.suffix not in (".csv", ".md"):
        raise InputError(f"--out {file}: given {file.suffix or 'no ending'}; allowed: .csv, .md")


def _contents(images: pd.DataFrame) -> "pd.Series[Any]":
    """Path -> label and digest, as one text."""
    return (images["label"].astype(str) + " " + images["digest"]).astype(object)


def _check_same(names: Sequence[str], tests: Sequence[pd.DataFrame]) -> None:
    """Raises RunError, in one message, where test images differ."""
    problems = []
    for name, test in zip(names[1:], tests[1:], strict=True):
        both = pd.concat(map(_contents, (tests[0], test)), axis=1, keys=["first", "other"])
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


def _shared_sets(runs: Sequence[RunDir]) -> dict[str, list[Part]]:
    """Name of each test set that all runs have, and that is not the first one of all -> its part in each of them."""
    given = [run.sweep().data.test_sets for run in runs]
    shared = {
        name: [sets.get(name, TEST) for sets in given] for name in given[0] if all(name in sets for sets in given)
    }
    return {name: parts for name, parts in shared.items() if {*parts} != {TEST}}


def _panel(runs: Sequence[RunDir], names: Sequence[str], parts: Sequence[Part]) -> Panel:
    """The runs' ensembles on the same test images, which are these parts of theirs. Raises RunError as `_evaluated`."""
    images = [run.images(part) for run, part in zip(runs, parts, strict=True)]
    # what any run takes for alike is no independent evidence: the groups of the run that has the fewest
    groups = min((each["group_id"] for each in images), key=lambda ids: ids.nunique())
    rows = [_evaluated(*given) for given in zip(runs, names, parts, images, strict=True)]
    (panel,) = on_same_images(rows, groups)
    return panel


def _evaluated(run: RunDir, name: str, part: Part, test: pd.DataFrame) -> Evaluated:
    """The run's ensemble, called by the run's name. Raises RunError where there is none, or it saw other images."""
    ensemble, where = run.ensemble(), run.shown(run.path)
    if ensemble is None:
        raise RunError(f"{where} has no ensemble to compare; `rfray ensemble {where}` makes one")
    run.check(file := run.ensemble_predictions_file(ensemble.name, part))
    predictions = read_predictions(file)
    if len(predictions) != len(test) or not pd.Index(predictions.ids).isin(test.index).all():
        raise RunError(f"{where}: its ensemble was made of other test images; `rfray ensemble {where}` makes it anew")
    return Evaluated(name, "ensemble", np.nan, ensemble.threshold, predictions)


def _joined(runs: Sequence[RunDir], names: Sequence[str]) -> tuple[str | None, list[str], pd.DataFrame]:
    """The column that all runs are ranked by (None where there are several), `Comparison.main` and `.table`."""
    sweeps, frames = [run.sweep() for run in runs], [leaderboard.read_leaderboard(run) for run in runs]
    contract = leaderboard.contract_columns(sweeps[0])
    place = contract.index(val_column(sweeps[0]))
    main = ["run", *contract[:place], *dict.fromkeys(map(val_column, sweeps)), *contract[place + 1 :]]
    table = pd.concat([frame.assign(run=name) for name, frame in zip(names, frames, strict=True)], ignore_index=True)
    table = table.reindex(columns=list(dict.fromkeys([*main, *table.columns])))
    text = [name for name in table.columns if isinstance(table[name].dtype, pd.StringDtype)]
    table[text] = table[text].fillna("")
    main += [name for name in main_columns(table) if name not in main]
    column, *others = {leaderboard.ranked_by(sweep, list(frame)) for sweep, frame in zip(sweeps, frames, strict=True)}
    return (None, main, table) if others else (column, main, leaderboard.ranked(table, column))


def _tests(panels: Mapping[str, Panel]) -> pd.DataFrame:
    """`Comparison.tests` of all pairs of rows on each test set: its name (or "") -> its panel."""
    rows = [row | {"test_set": name} for name, panel in panels.items() for row in _pairs(panel)]
    pairs = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    for measure in COMPARED:
        pairs[f"{measure}_p_corrected"] = holm(pairs[f"{measure}_p"].to_numpy(float))
    return pairs.assign(outcome=[*map(outcome, pairs["auc_difference"], pairs["auc_p"], pairs["auc_p_corrected"])])


def _pairs(panel: Panel) -> list[dict[str, Any]]:
    """The same of one test set, without what takes all of them."""
    accuracies, placed = panel.right.mean(axis=1), panel.placements
    resampled = np.full((len(panel.names), 1), np.nan)
    if len(panel.ids) <= BOOTSTRAPPED_IMAGES:
        resampled = bootstrap(panel.labels, panel.scores, panel.thresholds, panel.resample())["accuracy"]
    rows: list[dict[str, Any]] = []
    for one, other in combinations(range(len(panel.names)), 2):
        ends = percentile_intervals((resampled[one] - resampled[other])[None])[0]
        p_value = accuracy_p_values(panel.right[[one]], panel.right[other], panel.groups)[0]
        found = {"accuracy": (accuracies, ends, p_value)}
        if placed is not None:
            differences = placed.minus(other)
            found["auc"] = placed.aucs, differences.intervals[one], differences.p_values[one]
        row = {
            "first": panel.names[one],
            "second": panel.names[other],
            "n": len(panel.labels),
            "n_groups": panel.n_groups,
        }
        for measure, (values, (low, high), p) in found.items():
            figures = (values[one], values[other], values[one] - values[other], low, high, p)
            row[f"{measure}_tested_by"] = panel.tests[measure]
            row |= {f"{measure}_{what}": value for what, value in zip(TESTED, figures, strict=False)}
        rows.append(row)
    return rows


def _sentence(pair: Mapping[Any, Any], others: str) -> str:
    """`others`: for what p is corrected, "" where it is the only test."""
    does, texts = [], []
    for measure, name in COMPARED.items():
        first, second, difference, *ends, p, corrected, test = (pair[f"{measure}_{what}"] for what in TESTED)
        if not np.isnan(p):
            does.append(outcome(difference, p, corrected))
            texts.append(f"{name} {difference_text((first, second, *ends, p, corrected), test, others)}")
    first, second, name = pair["first"], pair["second"], pair["test_set"]
    where = f"On {pair['n']:,} test{f' ({name})' if name else ''} images"
    return f"{where} the ensemble of {first} {does[0]} that of {second}: {'; '.join(texts)}."

"""A run's records and test predictions -> leaderboard.csv and leaderboard.md: a row a trial or vote, and a baseline."""

import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError, printable
from rfray.evaluation import left_out
from rfray.evaluation.ensemble import PARTS, TEST_COLUMNS, WORST, robustness
from rfray.evaluation.several_tests import (
    constant_row,
    count_columns,
    figures_of_sets,
    main_columns,
    number_columns,
    sets_sentence,
)
from rfray.evaluation.significance import (
    INTERVALS,
    SINGLE,
    TESTS,
    WORDS,
    Evaluated,
    significance,
    verdict,
)
from rfray.evaluation.unseen import unseen_columns, unseen_figures
from rfray.spec.parts import TEST
from rfray.spec.sweep import CLASSES, MaxFpr, Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats import operating_point
from rfray.stats.clusters import groups_in, groups_of_images
from rfray.stats.guessing import constant_answer, constant_figures, no_better
from rfray.stats.metrics import METRICS, confusion, measured
from rfray.stats.operating_point import OperatingPoint, choose_point, point_on_test
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions
from rfray.store.bundle_record import Ensemble, Vote
from rfray.store.csv_files import csv_text, read_csv
from rfray.store.files import write_whole
from rfray.store.records import TrialResult
from rfray.store.run_dir import Part, RunDir, TrialDir

CONFUSION = ("tn", "fp", "fn", "tp")
TEXT, COUNT, NUMBER = "string", "Int64", "float64"
"""The pandas dtypes of the columns; no value is "" in a text column, <NA> in a count, nan in a number."""
WAIT_ALLOWED = 0.1
"""Share of the training time that a model may wait for images; chosen: to wait less would save a tenth at most."""
OF_FOLDS = (
    "Of a row whose kind is `fold`, the `val_` column is on its own fold of the training images; where such models "
    "vote, the vote's covers all training images, each predicted only by models that were not trained on it."
)
"""What a reader has to know where there are models of folds: their val column is of other images."""
OF_ROTATIONS = (
    "Of a model, the `val_` columns are on sources that it has not learned from (`left_out`). Some sources are harder "
    "than others: of a model that did not leave out each of them, what ends in `_unseen` and `_unseen_worst` is an "
    "estimate for all, from what the other models came to. Where a finalist votes, it was trained without each source "
    "in turn, and its val images are all that were left out, each predicted by a model without its source."
)
"""The same where sources are left out."""
LOWER_IS_BETTER = frozenset(
    {"rank", "fp", "fn", "seconds", "cost", "wait_share", "optimism", *TESTS, *operating_point.POINT} - {"temperature"}
    | {f"spread_{column}" for column in ("accuracy", "auc", *(f"val_{name}" for name in METRICS))}
)
"""The columns in which the lowest value is the best, where a leaderboard has them."""
BASELINE = "baseline"
"""The kind of the row of who always calls the larger class."""
USUAL = ("backbone", "augmentation", "lr", "pretrained", "image_size", "batch_size")
"""Settings of a trial that have a column in every leaderboard, as every axis has."""
RESULT_COLUMNS = {"best_epoch": COUNT, "epochs": COUNT, "seconds": NUMBER, "wait_share": NUMBER}
"""Column -> dtype of what a trial's result says of its training."""

Row = dict[str, Any]
"""Column -> value of a trial or a vote, and `test`: its test predictions, if there are any."""


def column_types(sweep: Sweep) -> dict[str, str]:
    """Column of every leaderboard of this sweep -> its pandas dtype; those to `threshold` come first in all."""
    kinds: dict[Any, str] = {float: NUMBER, int: COUNT}
    fields = {column: Trial.model_fields[name] for column, name in _settings(sweep).items()}
    settings = {column: kinds.get(field.annotation, TEXT) for column, field in fields.items()}
    types = {
        "rank": COUNT,
        **dict.fromkeys(("name", "kind", "status", "members"), TEXT),
        **{name: settings[name] for name in USUAL[:3]},
        **dict.fromkeys((val_column(sweep), "accuracy", "precision", "recall", "f1", "auc"), NUMBER),
        **dict.fromkeys((*CONFUSION, "n"), COUNT),
        **dict.fromkeys(("threshold", *METRICS), NUMBER),
        **RESULT_COLUMNS,
        **settings,
        **dict.fromkeys(operating_point.POINT, NUMBER),
        **dict.fromkeys(left_out.COLUMNS if sweep.probes() else (), NUMBER),
        **dict.fromkeys(unseen_columns(sweep) if sweep.judges_unseen else (), NUMBER),
        **dict.fromkeys(("left_out",) if sweep.judges_unseen else (), TEXT),
        "n_groups": COUNT,
        **dict.fromkeys((*INTERVALS, *TESTS), NUMBER),
        **dict.fromkeys(WORDS, TEXT),
        "optimism": NUMBER,
    }
    if sweep.resources.price_per_hour is not None:
        types["cost"] = NUMBER
    if sweep.search.warm_start:
        types["taken_from"] = TEXT
    if sweep.repeats:
        types["repeats"] = TEXT
    if sweep.search.seeds > 1:
        over_seeds = [f"{name}_{column}" for column in _repeated(sweep) for name in ("mean", "spread")]
        types |= {"seeds": COUNT, **dict.fromkeys(over_seeds, NUMBER)}
    types |= dict.fromkeys(number_columns(sweep.data), NUMBER)
    types |= dict.fromkeys(count_columns(sweep.data), COUNT)
    return types


def contract_columns(sweep: Sweep) -> list[str]:
    """The columns that every leaderboard begins with, in this order; more may follow."""
    names = list(column_types(sweep))
    return names[: names.index("threshold") + 1]


def val_column(sweep: Sweep) -> str:
    """The value of the val metric on val: val_<metric>."""
    return f"val_{sweep.search.metric}"


def ranked_by(sweep: Sweep, columns: Collection[Hashable]) -> str:
    """The column by which a leaderboard with these columns is ranked, and its members were chosen."""
    chosen = unseen_columns(sweep)[sweep.search.judge == "unseen_worst"] if sweep.judges_unseen else val_column(sweep)
    return WORST if WORST in columns else chosen


def ranked(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows best first by this column, ties as they were; last, without a rank, undefined, failed, baseline."""
    last = frame["status"].str.startswith("failed") + 2 * (frame["kind"] == BASELINE).astype(int)
    order = frame.assign(last=last).sort_values([column, "last"], ascending=[False, True], kind="stable").index
    frame = frame.loc[order].reset_index(drop=True)
    return frame.assign(rank=pd.Series(range(1, len(frame) + 1), dtype=COUNT).where(frame[column].notna()))


def build_leaderboard(run: RunDir) -> pd.DataFrame:
    """One row for every finished trial and one for every vote, ranked by `ranked_by`, ties by name; a baseline last.

    Its columns are those of `column_types` and of `robustness`; every metric without `val_` is on test, at the row's
    own threshold, which its own val predictions give.
    Raises RunError where a file is damaged or predictions contradict each other, DataError if val allows no threshold.
    """
    sweep, ensemble, more = run.sweep(), run.ensemble(), robustness(run)
    rows = [_of_trial(sweep, trial, result) for trial in run.models() if (result := trial.result()) is not None]
    votes = ensemble.votes if ensemble is not None else []
    rows += [_of_vote(run, vote, val_column(sweep)) for vote in votes]
    unseen = unseen_figures(run, sweep, votes) if sweep.judges_unseen else {}
    tests: dict[str, Predictions] = {row["name"]: row["test"] for row in rows if "test" in row}
    types = column_types(sweep) | {column: NUMBER for values in more.values() for column in values}
    cells = [row | more.get(row["name"], {}) | unseen.get(row["name"], {}) for row in rows]
    frame = pd.DataFrame(cells, columns=list(types))
    frame = ranked(_typed(frame, types).sort_values("name", ignore_index=True), ranked_by(sweep, types))
    chosen_by = ranked_by(sweep, types) if sweep.judges_unseen else val_column(sweep)
    evaluated = _evaluated(frame, chosen_by, tests)
    sure = significance(evaluated, None if ensemble is None else ensemble.name, groups_in(run, TEST))
    frame[sure.columns] = sure.reindex(frame["name"]).set_axis(frame.index)
    frame["optimism"] = frame[val_column(sweep)] - frame[sweep.search.metric]  # Efron and Tibshirani (1993), chapter 17
    if sweep.resources.price_per_hour is not None:
        frame["cost"] = frame["seconds"] / 3600 * sweep.resources.price_per_hour
    if sweep.search.seeds > 1:
        _add_spread(frame, _repeated(sweep))
    sets = {name: tests if part == TEST else _predicted(run, part) for name, part in sweep.data.test_sets.items()}
    if sets:
        rows_of = {name: _evaluated(frame, chosen_by, predicted) for name, predicted in sets.items()}
        found = figures_of_sets(rows_of, {name: groups_in(run, part) for name, part in sweep.data.test_sets.items()})
        frame[found.columns] = found.reindex(frame["name"]).set_axis(frame.index)
    main = [name for name in _detectors(frame, ensemble) if name in tests]
    if main:
        of_main = {name: predicted[main[0]] for name, predicted in sets.items() if main[0] in predicted}
        frame = _with_baseline(frame, tests[main[0]], of_main, groups_in(run, TEST))
    return _typed(frame, types)


def write_leaderboard(run: RunDir) -> pd.DataFrame:
    """Writes leaderboard.csv (full precision), leaderboard.md; returns, raises as `build_leaderboard`."""
    frame = build_leaderboard(run)
    run.write_vouched(run.leaderboard_csv, csv_text(frame).encode())
    write_whole(run.leaderboard_md, _markdown(run, frame))
    return frame


def read_leaderboard(run: RunDir) -> pd.DataFrame:
    """leaderboard.csv with the dtypes of `build_leaderboard`. Raises RunError where there is none of this sweep."""
    always = column_types(run.sweep())
    types = {**always, **dict.fromkeys((WORST, *TEST_COLUMNS), NUMBER)}
    try:
        frame = read_csv(
            run.leaderboard_csv, dtype=types, keep_default_na=False, na_values=[""], float_precision="round_trip"
        )
    except FileNotFoundError:
        raise RunError(f"{run.leaderboard_csv} is missing; `rfray ensemble` writes it") from None
    except ValueError as error:
        raise RunError(f"{run.leaderboard_csv} is damaged ({error}); `rfray ensemble` writes it anew") from None
    if list(frame) not in [[*always, *more] for more in ((), (WORST,), TEST_COLUMNS, (WORST, *TEST_COLUMNS))]:
        raise RunError(f"{run.leaderboard_csv} has other columns than this sweep; `rfray ensemble` writes it anew")
    run.check(run.leaderboard_csv)
    return _typed(frame, types)


def made_of(run: RunDir, frame: pd.DataFrame) -> Iterator[Path]:
    """The files whose figures on test a leaderboard has, and the record of the votes in it."""
    counts = {"n": TEST} | {f"n_{name}": part for name, part in run.sweep().data.test_sets.items() if part != TEST}
    predicted = frame[frame[[*counts]].notna().any(axis=1) & (frame["kind"] != BASELINE)]
    for row in predicted[["name", "kind", *counts]].to_dict("records"):
        for part in (part for column, part in counts.items() if pd.notna(row[column])):
            is_vote, name = row["kind"] == "ensemble", row["name"]
            yield run.ensemble_predictions_file(name, part) if is_vote else run.trial(name).predictions_file(part)
    if (predicted["kind"] == "ensemble").any():
        yield run.ensemble_file


def test_figures(frame: pd.DataFrame, name: str) -> dict[str, float | None]:
    """What the row of this name has of test: metrics, counts, intervals; None where undefined."""
    row = frame[frame["name"] == name].iloc[0]
    chosen = [*METRICS, *CONFUSION, "n", *INTERVALS, *operating_point.POINT]
    return {column: None if pd.isna(row[column]) else float(row[column]) for column in chosen}


def guessing(run: RunDir, frame: pd.DataFrame) -> str | None:
    """The first line where the ensemble (or the best single model) is no better than guessing.

    Raises RunError where ensemble.json is damaged.
    """
    names = _detectors(frame, run.ensemble())
    return no_better(test_figures(frame, names[0])) if names else None


def on_several_sets(run: RunDir, frame: pd.DataFrame) -> str | None:
    """What the ensemble (or the best single model) comes to on several test sets; None where there is only one.

    Raises RunError where ensemble.json is damaged.
    """
    names = _detectors(frame, run.ensemble())
    return sets_sentence(frame, names[0]) if names else None


def waiting(frame: pd.DataFrame) -> str | None:
    """A sentence where models waited for images for more than WAIT_ALLOWED of their training time, else None."""
    shares = frame.set_index("name")["wait_share"].dropna()
    slow = shares[shares > WAIT_ALLOWED]
    if slow.empty:
        return None
    return (
        f"In {len(slow)} of {len(shares)} trials the model waited for images for more than {100 * WAIT_ALLOWED:.0f} % "
        f"of the training time, at most {100 * slow.max():.0f} % ({slow.idxmax()}). More resources.cpu for a trial, a "
        "cheaper augmentation, or a data.cache that has room for all images makes them faster."
    )


def false_positives(run: RunDir, frame: pd.DataFrame) -> str | None:
    """Which false-positive rate the sweep asks for, and which the ensemble has on test; None where there is none.

    Raises RunError where ensemble.json is damaged or has no row.
    """
    ensemble, rule = run.ensemble(), run.sweep().ensemble.threshold
    if ensemble is None or not isinstance(rule, MaxFpr):
        return None
    rows = frame[frame["name"] == ensemble.name]
    if rows.empty:
        raise RunError(f"{run.leaderboard_csv} has no row {ensemble.name}; `rfray ensemble` writes it anew")
    row = rows.iloc[0].to_dict()
    if pd.isna(row["fpr"]):
        return None
    asked, low, high = rule.max_fpr, row["fpr_low"], row["fpr_high"]
    found = "more than" if low > asked else "less than" if high < asked else "in keeping with"
    return (
        f"False-positive rate of {row['name']}: at most {100 * asked:.3g} % was asked for; "
        f"{100 * row['fpr_val']:.3g} % on val, where the threshold {row['threshold']:.4g} was chosen; "
        f"{100 * row['fpr']:.3g} % on test, 95 % interval {100 * low:.3g} % to {100 * high:.3g} %: {found} what was "
        "asked for."
    )


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table as people read it: metrics with 4 decimals, other numbers short, "" where there is no value."""
    measures = (*METRICS, *INTERVALS, *operating_point.POINT, "optimism")

    def text(value: Any, is_measure: bool) -> str:
        if pd.isna(value):
            return ""
        if not isinstance(value, float):
            return str(value)
        return f"{value:.4f}" if is_measure else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    are_measures = {
        column: column in measures or column.startswith(("val_", "auc_", "accuracy_")) for column in map(str, frame)
    }
    return pd.DataFrame({name: [text(value, those) for value in frame[name]] for name, those in are_measures.items()})


def markdown_table(frame: pd.DataFrame) -> str:
    """A table as `as_text` has it, numbers to the right."""
    sides = ["---:" if pd.api.types.is_numeric_dtype(frame[column]) else "---" for column in frame]
    rows = [[escaped(cell) for cell in row] for row in as_text(frame).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [[escaped(str(name)) for name in frame], sides, *rows])


def escaped(cell: str) -> str:
    """Text that Markdown shows as it is: on one line, no new cells, no markup, no HTML."""
    return re.sub(r"([\\|<>&`*\[\]])", r"\\\1", printable(" ".join(cell.split())))


def _settings(sweep: Sweep) -> dict[str, str]:
    """Column -> field of a trial: the usual ones and every axis; `trial_` where the name is an outcome's."""
    outcomes = {"name", "kind", "status", "members", *METRICS, *CONFUSION, "n", "threshold", *RESULT_COLUMNS}
    names = dict.fromkeys((*USUAL, *sweep.trial.axes()))
    return {f"trial_{name}" if name in outcomes else name: name for name in names}


def _repeated(sweep: Sweep) -> dict[str, None]:
    """The columns of which there are mean and spread over the trainings of one finalist with different seeds."""
    return dict.fromkeys((val_column(sweep), "accuracy", "auc"))


def _of_trial(sweep: Sweep, trial: TrialDir, result: TrialResult) -> Row:
    row: Row = {"name": trial.id, "kind": result.kind, "status": "ok", "repeats": result.repeats}
    for column, name in _settings(sweep).items():
        if result.kind != "probe" or name in (*PROBED, "head"):  # a probe was not trained
            value = getattr(result.trial, name)
            row[column] = str(value).lower() if isinstance(value, bool) else value
    if result.status == "failed":
        lines = (result.reason or "").strip().splitlines()
        return row | {"status": f"failed: {lines[0] if lines else 'no reason was given'}"}
    row |= {name: getattr(result, name) for name in (*RESULT_COLUMNS, "taken_from")} | {val_column(sweep): result.score}
    if (found := left_out.probe_left_out(trial, result)) is not None and found.worst is not None:
        row |= {"auc_left_out": found.mean, "auc_left_out_worst": found.worst.auc}
    if trial.predictions_file("test").exists():
        val = trial_predictions(trial, "val")
        return row | _on_test(val, trial_predictions(trial, "test"), choose_point(val, sweep.ensemble))
    return row if trial.weights_file.exists() else row | {"status": "not kept"}


def _of_vote(run: RunDir, vote: Vote, val_column: str) -> Row:
    row = {"name": vote.name, "kind": "ensemble", "status": "ok", "members": " ".join(vote.members)}
    val, test = (read_predictions(run.ensemble_predictions_file(vote.name, part)) for part in PARTS)
    point = OperatingPoint(vote.threshold, vote.unsure)
    return row | {val_column: vote.val_score} | _on_test(val, test, point)


def _on_test(val: Predictions, test: Predictions, point: OperatingPoint) -> Row:
    """Everything that is measured on test at an operating point."""
    counts = asdict(confusion(test, point.threshold)) | {"n": len(test), "threshold": point.threshold}
    return {"test": test, **measured(test, point.threshold), **counts, **point_on_test(val, test, point)}


def _detectors(frame: pd.DataFrame, ensemble: Ensemble | None) -> list[str]:
    """Names of the rows that have predicted test: the main vote, or where there is none the single models by val."""
    there = frame["name"] == ensemble.name if ensemble is not None else frame["kind"].isin(SINGLE)
    return frame.loc[there & frame["n"].notna(), "name"].tolist()


def _evaluated(frame: pd.DataFrame, val: str, tests: Mapping[str, Predictions]) -> list[Evaluated]:
    """The rows that have predicted a test set (name of a row -> its predictions), in the order of the frame."""
    rows = frame.loc[frame["name"].isin(tests), ["name", "kind", val, "threshold"]].to_numpy().tolist()
    return [Evaluated(name, kind, score, threshold, tests[name]) for name, kind, score, threshold in rows]


def _predicted(run: RunDir, part: Part) -> dict[str, Predictions]:
    """Name of a row -> its predictions on a further test set, if there are any."""
    ensemble, files = run.ensemble(), {trial.id: trial.predictions_file(part) for trial in run.models()}
    for vote in ensemble.votes if ensemble is not None else ():
        files[vote.name] = run.ensemble_predictions_file(vote.name, part)
    return {name: read_predictions(file) for name, file in files.items() if file.exists()}


def _with_baseline(
    frame: pd.DataFrame, test: Predictions, sets: Mapping[str, Predictions], groups: "pd.Series[int] | None"
) -> pd.DataFrame:
    """The frame with a last row of what needs no model: always calling the larger class, where test has both.

    It has no val score, so no rank, and no part in the tests between rows. `sets`: name of each of several test sets ->
    predictions of its images; `groups` as for `significance`.
    """
    figures, last = constant_figures(test, groups_of_images(test.ids, groups)), len(frame)
    if (constant := constant_answer(figures)) is None:
        return frame
    frame = frame.reindex(range(last + 1))
    row = {"name": f"always-{constant[0]}", "kind": BASELINE, "status": "ok", **figures}
    row |= constant_row(sets, constant[0] == CLASSES[1])
    for column, value in row.items():
        frame.loc[last, column] = value
    return frame


def _add_spread(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Adds how many trainings a finalist had, their mean and standard deviation (n - 1); of two values or more."""
    val, *_ = columns
    models = frame[(frame["kind"] == "model") & frame[val].notna()]
    for _, alike in models.groupby(models["repeats"].where(models["repeats"] != "", models["name"])):
        if len(alike) > 1:
            frame.loc[alike.index, "seeds"] = len(alike)
            for column in columns:
                values = alike[column].dropna().tolist()
                if len(values) > 1:
                    frame.loc[alike.index, [f"mean_{column}", f"spread_{column}"]] = mean(values), stdev(values)


def _typed(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """The frame with these dtypes, and "" for no text."""
    frame = frame.astype({column: dtype for column, dtype in types.items() if column in frame})
    return frame.fillna({column: "" for column, dtype in types.items() if dtype == TEXT})


def _markdown(run: RunDir, frame: pd.DataFrame) -> str:
    sweep, audit = run.sweep(), run.audit()
    counted = ", ".join(str(n) for n in frame["n"].dropna().unique()) or "no"
    shown = [*contract_columns(sweep), *main_columns(frame)]
    shown += [column for column in (*unseen_columns(sweep), "left_out", WORST, TEST_COLUMNS[-1]) if column in frame]
    chosen_by = f"the {sweep.search.metric} on val"
    if sweep.judges_unseen:
        over = "smallest" if sweep.search.judge == "unseen_worst" else "mean"
        chosen_by = f"the {over} {sweep.search.metric} over the sources that were left out in turn"
    if WORST in frame:
        chosen_by = (
            f"the smallest {sweep.search.metric} on val as it is and under each of {len(CORRUPTION_NAMES)} "
            "corruptions, which only trials whose weights were kept have"
        )
    warning = guessing(run, frame)
    paragraphs = [
        f"# Leaderboard of {escaped(run.name)}",
        f"**{escaped(warning)}**" if warning else "",
        f"Chosen and ranked by `{ranked_by(sweep, shown)}`, {chosen_by}. The metrics and counts "
        f"without `val_` are on test (n: {counted} images), which nothing was chosen on; the positive "
        "class is fake. An empty cell: undefined, or not measured.",
        OF_ROTATIONS if sweep.judges_unseen else OF_FOLDS if (frame["kind"] == "fold").any() else "",
        *(escaped(said or "") for said in (verdict(run, frame), on_several_sets(run, frame))),
        *(escaped(said or "") for said in (false_positives(run, frame), waiting(frame))),
        escaped(best.sentence) if (best := left_out.best_left_out(run)) is not None else "",
        f"**Audit: {escaped(audit.stamp)}**" if audit is not None and audit.stamp else "",
        markdown_table(frame[shown]),
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"

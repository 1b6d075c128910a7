"""A run's records and test predictions -> leaderboard.csv and leaderboard.md, one row a trial or ensemble."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from statistics import mean, stdev
from typing import Any

import pandas as pd

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError
from rfray.evaluation.ensemble import PARTS
from rfray.evaluation.robustness import TEST_COLUMNS, WORST, robustness
from rfray.evaluation.significance import INTERVALS, TESTS, Judged, certainty, verdict
from rfray.spec.sweep import Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats import operating_point
from rfray.stats.metrics import METRICS, confusion, measured
from rfray.stats.operating_point import OperatingPoint, asked_and_got, choose_point, held_against_test
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions
from rfray.store.audit_record import read_audit
from rfray.store.ensemble_record import Vote, read_ensemble
from rfray.store.files import replace_text, replacing
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, TrialDir
from rfray.store.tables import read_catalog

CONFUSION = ("tn", "fp", "fn", "tp")
TEXT, COUNT, NUMBER = "string", "Int64", "float64"
"""The pandas dtypes of the columns; no value is "" in a text column, <NA> in a count, nan in a number."""
CORRUPTED = ((WORST,), TEST_COLUMNS)
"""Columns (NUMBER) that are there, all or none of a group, where the predictions on corrupted images are."""
WAIT_ALLOWED = 0.1
"""Share of the training time."""
OF_FOLDS = (
    "Of a row whose kind is `fold`, the `val_` column is on its own fold of the training images; where such models "
    "vote, the vote's is on all training images, of each by the models that have not learned from it."
)
"""What a reader has to know where there are models of folds: their val column is of other images."""
LOWER_IS_BETTER = frozenset({"rank", "fp", "fn", "seconds", "wait_share", *operating_point.COLUMNS} - {"temperature"})
"""The columns in which the lowest value is the best."""


def contract_columns(sweep: Sweep) -> list[str]:
    """The columns that every leaderboard begins with, in this order; more may follow."""
    return (
        f"rank,name,kind,status,members,backbone,augmentation,lr,{val_column(sweep)},"
        "accuracy,precision,recall,f1,auc,tn,fp,fn,tp,n,threshold"
    ).split(",")


def val_column(sweep: Sweep) -> str:
    """The value of the val metric on val: val_<metric>."""
    return f"val_{sweep.search.metric}"


def ranked_by(sweep: Sweep, columns: Iterable[str]) -> str:
    """The column by which a leaderboard with these columns is ranked, and its members were chosen."""
    return WORST if WORST in columns else val_column(sweep)


def column_types(sweep: Sweep) -> dict[str, str]:
    """The columns of every leaderboard of this sweep, in order, each with its pandas dtype; `CORRUPTED` may follow."""
    outcomes = _outcome_types(sweep)
    settings = {column: _dtype(field) for column, field in _setting_columns(sweep).items()}
    sure = {**dict.fromkeys((*INTERVALS, *TESTS), NUMBER), "tied": TEXT, "optimism": NUMBER}
    cost = {} if sweep.resources.price_per_hour is None else {"cost": NUMBER}
    origin = {"taken_from": TEXT} if sweep.search.warm_start else {}
    again = {"repeats": TEXT} if sweep.repeats else {}
    if sweep.search.seeds > 1:
        again |= {"seeds": COUNT, **dict.fromkeys(_over_seeds(sweep), NUMBER)}
    types = {
        **outcomes,
        **settings,
        **dict.fromkeys(operating_point.COLUMNS, NUMBER),
        **sure,
        **cost,
        **origin,
        **again,
    }
    return {column: types[column] for column in (*contract_columns(sweep), *types)}


def build_leaderboard(run: RunDir) -> pd.DataFrame:
    """One row for every finished trial and one for every vote, ranked by `ranked_by`, failed ones last.

    Columns and dtypes as `column_types` and CORRUPTED say; every metric without `val_` is on test, at the
    row's own threshold, which its own val predictions give. `certainty` says what its intervals and p values are;
    `optimism` is how much better the val metric is on val. Raises RunError where a record or a
    predictions file of the run is damaged or predictions contradict each other, DataError where val does
    not allow the choice of a threshold.
    """
    sweep = run.sweep()
    rows = [_trial_row(sweep, trial, result) for trial in run.models() if (result := trial.result()) is not None]
    ensemble = read_ensemble(run)
    if ensemble is not None:
        rows += [_vote_row(sweep, run, vote) for vote in ensemble.votes]
    corrupted = robustness(run)
    types = {**column_types(sweep), **dict.fromkeys(next(iter(corrupted.values()), ()), NUMBER)}
    rows = _ranked([{**row, **corrupted.get(row["name"], {})} for row in rows], ranked_by(sweep, types))
    judged = [
        Judged(row["name"], row["kind"], row.get(val_column(sweep)), row["threshold"], row["predictions"])
        for row in rows
        if "predictions" in row
    ]
    handed_over = None if ensemble is None else ensemble.name
    sure: dict[Any, dict[Any, Any]] = certainty(judged, handed_over, _groups(run)).to_dict("index")
    rows = [{**row, **sure.get(row["name"], {}), "optimism": _optimism(sweep, row)} for row in rows]
    if sweep.search.seeds > 1:
        rows = _with_spread(sweep, rows)
    return _frame(rows, types)


def write_leaderboard(run: RunDir) -> pd.DataFrame:
    """Writes leaderboard.csv (full precision) and its Markdown twin; returns what `build_leaderboard` built.

    The Markdown is stamped with the errors of the run's audit. Raises what `build_leaderboard` raises.
    """
    frame = build_leaderboard(run)
    with replacing(run.leaderboard_csv) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    replace_text(run.leaderboard_md, _markdown(run, frame))
    return frame


def read_leaderboard(run: RunDir) -> pd.DataFrame:
    """leaderboard.csv with the dtypes that `build_leaderboard` gave it.

    Raises RunError where it is missing or not this sweep's.
    """
    always = column_types(run.sweep())
    types = {**always, **dict.fromkeys(chain(*CORRUPTED), NUMBER)}
    try:
        frame = pd.read_csv(
            run.leaderboard_csv, dtype=types, keep_default_na=False, na_values=[""], float_precision="round_trip"
        )
    except FileNotFoundError:
        raise RunError(f"{run.leaderboard_csv} is missing; `rfray ensemble` writes it") from None
    except ValueError as error:
        raise RunError(f"{run.leaderboard_csv} is damaged ({error}); `rfray ensemble` writes it anew") from None
    corrupted = chain(*(group for group in CORRUPTED if group[0] in frame))
    if list(frame.columns) != [*always, *corrupted]:
        raise RunError(f"{run.leaderboard_csv} has other columns than this sweep; `rfray ensemble` writes it anew")
    return frame.fillna({column: "" for column, dtype in types.items() if dtype == TEXT})


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table as people read it: metrics with 4 decimals, other numbers short, "" where there is no value."""
    return pd.DataFrame({column: [_shown(column, value) for value in frame[column]] for column in frame.columns})


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


def cost_of(seconds: float, price_per_hour: float) -> float:
    """What `seconds` of one trial cost, in the currency of the price."""
    return seconds / 3600 * price_per_hour


def false_positives(run: RunDir, frame: pd.DataFrame) -> str | None:
    """A sentence where the sweep asks for a false-positive rate: what the vote handed over has of it; else None.

    Raises RunError where ensemble.json is damaged or has no row.
    """
    ensemble = read_ensemble(run)
    if ensemble is None:
        return None
    rows = frame[frame["name"] == ensemble.name]
    if rows.empty:
        raise RunError(f"{run.leaderboard_csv} has no row {ensemble.name}; `rfray ensemble` writes it anew")
    return asked_and_got(run.sweep().ensemble, rows.iloc[0].to_dict())


def test_figures(frame: pd.DataFrame, name: str) -> dict[str, float | None]:
    """What the row of this name says of test: metrics, counts, intervals; None where undefined."""
    row = frame[frame["name"] == name].iloc[0]
    columns = [*METRICS, *CONFUSION, "n", *INTERVALS, *operating_point.COLUMNS]
    return {column: None if pd.isna(row[column]) else float(row[column]) for column in columns}


def _outcome_types(sweep: Sweep) -> dict[str, str]:
    """The columns that say what came out, not what was set."""
    return {
        "rank": COUNT,
        **dict.fromkeys(("name", "kind", "status", "members"), TEXT),
        val_column(sweep): NUMBER,
        **dict.fromkeys(METRICS, NUMBER),
        **dict.fromkeys((*CONFUSION, "n"), COUNT),
        "threshold": NUMBER,
        **dict.fromkeys(("best_epoch", "epochs"), COUNT),
        "seconds": NUMBER,
        "wait_share": NUMBER,
    }


def _setting_columns(sweep: Sweep) -> dict[str, str]:
    """Column -> field of `Trial`: the usual ones and every axis; `trial_` where the name is an outcome's."""
    fields = dict.fromkeys(
        ("backbone", "augmentation", "lr", "pretrained", "image_size", "batch_size", *sweep.trial.axes())
    )
    outcomes = _outcome_types(sweep)
    return {f"trial_{field}" if field in outcomes else field: field for field in fields}


def _dtype(field: str) -> str:
    kind = Trial.model_fields[field].annotation
    return NUMBER if kind is float else COUNT if kind is int else TEXT


def _trial_row(sweep: Sweep, trial: TrialDir, result: TrialResult) -> dict[str, Any]:
    row: dict[str, Any] = {"name": trial.id, "kind": result.kind, "repeats": result.repeats}
    for column, field in _setting_columns(sweep).items():
        if result.kind == "probe" and field not in (*PROBED, "head"):
            continue  # it was not trained
        value = getattr(result.trial, field)
        row[column] = str(value).lower() if isinstance(value, bool) else value
    if result.status == "failed":
        lines = (result.reason or "").strip().splitlines()
        return {**row, "status": f"failed: {lines[0] if lines else 'no reason was given'}"}
    row |= {
        "status": "ok",
        val_column(sweep): result.score,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "wait_share": result.wait_share,
    }
    if sweep.search.warm_start:
        row["taken_from"] = result.taken_from
    if (price := sweep.resources.price_per_hour) is not None:
        row["cost"] = cost_of(result.seconds, price)
    if trial.predictions_file("test").exists():
        val = trial_predictions(trial, "val")
        return {**row, **_measured(val, trial_predictions(trial, "test"), choose_point(val, sweep.ensemble))}
    return row if trial.weights_file.exists() else {**row, "status": "not kept"}


def _vote_row(sweep: Sweep, run: RunDir, vote: Vote) -> dict[str, Any]:
    val, test = (read_predictions(run.ensemble_predictions_file(vote.name, part)) for part in PARTS)
    return {
        "name": vote.name,
        "kind": "ensemble",
        "status": "ok",
        "members": " ".join(vote.members),
        val_column(sweep): vote.val_score,
        **_measured(val, test, OperatingPoint(vote.threshold, vote.unsure)),
    }


def _measured(val: Predictions, test: Predictions, point: OperatingPoint) -> dict[str, Any]:
    return {
        **measured(test, point.threshold),
        **asdict(confusion(test, point.threshold)),
        "n": len(test),
        "threshold": point.threshold,
        **held_against_test(val, test, point),
        "predictions": test,  # no column: what `certainty` is worked out from
    }


def _optimism(sweep: Sweep, row: Mapping[str, Any]) -> float | None:
    """The val metric on val minus the same on test."""
    chosen, reported = row.get(val_column(sweep)), row.get(sweep.search.metric)
    return None if chosen is None or reported is None else chosen - reported


def _over_seeds(sweep: Sweep) -> dict[str, tuple[str, Callable[[list[float]], float]]]:
    """Column -> of which column it is what, over the trainings of one finalist with different seeds."""
    return {
        f"{name}_{column}": (column, of)
        for column in dict.fromkeys((val_column(sweep), "accuracy", "auc"))
        for name, of in (("mean", mean), ("spread", stdev))
    }


def _with_spread(sweep: Sweep, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of finalists, and of their trainings with other seeds, with how many they are, mean and spread.

    The spread is the standard deviation, for which there must be two values (n - 1 in the denominator).
    """
    trained: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "model" and row.get(val_column(sweep)) is not None:
            trained[row["repeats"] or row["name"]].append(row)
    known: dict[str, dict[str, Any]] = {}
    for alike in trained.values():
        if len(alike) < 2:
            continue
        said: dict[str, Any] = {"seeds": len(alike)}
        for name, (column, of) in _over_seeds(sweep).items():
            values = [row[column] for row in alike if row.get(column) is not None]
            said[name] = of(values) if len(values) > 1 else None
        known |= {row["name"]: said for row in alike}
    return [{**row, **known.get(row["name"], {})} for row in rows]


def _groups(run: RunDir) -> "pd.Series[int] | None":
    """Id of each test image -> its group_id; None where the run has no catalog."""
    if not run.catalog_file.exists():
        return None
    catalog = read_catalog(run)
    return catalog[catalog["part"] == "test"].set_index("path")["group_id"]


def _ranked(rows: Iterable[dict[str, Any]], val: str) -> list[dict[str, Any]]:
    """Best val score first, ties by name; then those without a score, which get no rank: undefined, failed."""

    def place(row: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
        score = row.get(val)
        return score is None, row["status"].startswith("failed"), -(score or 0.0), row["name"]

    ordered = sorted(rows, key=place)
    return [{**row, "rank": None if row.get(val) is None else rank} for rank, row in enumerate(ordered, start=1)]


def _frame(rows: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(types)).astype(dict(types))
    return frame.fillna({column: "" for column, dtype in types.items() if dtype == TEXT})


def _shown(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    if column in (*METRICS, *INTERVALS, *operating_point.COLUMNS, "optimism") or column.startswith(("val_", "auc_")):
        return f"{value:.4f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _markdown(run: RunDir, frame: pd.DataFrame) -> str:
    sweep = run.sweep()
    counted = ", ".join(str(n) for n in frame["n"].dropna().unique()) or "no"
    columns = [*contract_columns(sweep), *(group[-1] for group in CORRUPTED if group[-1] in frame)]
    audit = read_audit(run.audit_file)
    lines = [
        f"# Leaderboard of {escaped(run.name)}",
        "",
        f"Chosen and ranked by `{ranked_by(sweep, columns)}`, {_chosen_by(sweep, columns)}. The metrics and counts "
        f"without `val_` are on test (n: {counted} images), which nothing was chosen on; the positive "
        "class is fake. An empty cell: undefined, or not measured.",
        "",
        *([OF_FOLDS, ""] if (frame["kind"] == "fold").any() else []),
        *([escaped(said), ""] if (said := verdict(run, frame)) else []),
        *([escaped(asked), ""] if (asked := false_positives(run, frame)) else []),
        *([escaped(slow), ""] if (slow := waiting(frame)) else []),
        *([f"**Audit: {escaped(audit.stamp)}**", ""] if audit is not None and audit.stamp else []),
        *markdown_table(frame[columns]),
    ]
    return "\n".join(lines) + "\n"


def _chosen_by(sweep: Sweep, columns: Iterable[str]) -> str:
    if WORST not in columns:
        return f"the {sweep.search.metric} on val"
    return (
        f"the smallest {sweep.search.metric} on val as it is and under each of {len(CORRUPTION_NAMES)} "
        "corruptions, which only trials whose weights were kept have"
    )


def markdown_table(frame: pd.DataFrame) -> list[str]:
    """The lines of a table as `as_text` has it, numbers to the right."""
    text = as_text(frame)
    lines = [
        [str(column) for column in text],
        ["---:" if pd.api.types.is_numeric_dtype(frame[column]) else "---" for column in frame],
    ]
    lines += [[escaped(cell) for cell in row] for row in text.itertuples(index=False)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def escaped(cell: str) -> str:
    """Text that Markdown shows as it is: on one line, no new cells, no markup, no HTML."""
    return re.sub(r"([\\|<>&`*\[\]])", r"\\\1", " ".join(cell.split()))

"""A run's records and test predictions -> leaderboard.csv and leaderboard.md, one row a trial or vote."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

import pandas as pd

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError
from rfray.evaluation.ensemble import PARTS
from rfray.evaluation.robustness import TEST_COLUMNS, WORST, robustness
from rfray.evaluation.significance import INTERVALS, TESTS, Evaluated, significance, verdict
from rfray.spec.sweep import MaxFpr, Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats import operating_point
from rfray.stats.metrics import METRICS, confusion, measured
from rfray.stats.operating_point import OperatingPoint, choose_point, point_on_test
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions
from rfray.store.bundle_record import Vote
from rfray.store.files import replacing, write_whole
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, TrialDir

CONFUSION = ("tn", "fp", "fn", "tp")
TEXT, COUNT, NUMBER = "string", "Int64", "float64"
"""The pandas dtypes of the columns; no value is "" in a text column, <NA> in a count, nan in a number."""
WAIT_ALLOWED = 0.1
"""Share of the training time that a model may wait for images; chosen: to wait less would save a tenth at most."""
OF_FOLDS = (
    "Of a row whose kind is `fold`, the `val_` column is on its own fold of the training images; where such models "
    "vote, the vote's is on all training images, of each by the models that have not learned from it."
)
"""What a reader has to know where there are models of folds: their val column is of other images."""
LOWER_IS_BETTER = frozenset({"rank", "fp", "fn", "seconds", "wait_share", *operating_point.COLUMNS} - {"temperature"})
"""The columns in which the lowest value is the best."""

RESULT_COLUMNS = {"best_epoch": COUNT, "epochs": COUNT, "seconds": NUMBER, "wait_share": NUMBER}
"""Column -> dtype of what a trial's result says of its training."""


@dataclass
class LeaderboardEntry:
    """What one row is made from: a trial or a vote."""

    name: str
    kind: Any
    status: str
    score: float | None = None
    """The val metric on val."""
    trial: Trial | None = None
    result: TrialResult | None = None
    """Of a trial that did not fail."""
    repeats: str | None = None
    members: list[str] = field(default_factory=list)
    test: Predictions | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    """Column -> value: what was measured on test, and what only all rows together give."""

    def add_figures(self, val: Predictions, test: Predictions, point: OperatingPoint) -> "LeaderboardEntry":
        """The same entry with everything that is measured on test at its operating point."""
        self.test = test
        self.figures |= measured(test, point.threshold) | asdict(confusion(test, point.threshold))
        self.figures |= {"n": len(test), "threshold": point.threshold, **point_on_test(val, test, point)}
        return self


def columns(sweep: Sweep) -> dict[str, tuple[str, Callable[[LeaderboardEntry, str], Any]]]:
    """Column -> its pandas dtype and what makes its value from a row's entry, in the order of the file.

    First those of the contract, to `threshold`; those of `robustness` may follow.
    """
    usual = ("backbone", "augmentation", "lr", "pretrained", "image_size", "batch_size")
    outcomes = {"name", "kind", "status", "members", *METRICS, *CONFUSION, "n", "threshold", *RESULT_COLUMNS}
    settings = {  # every axis is a column; `trial_` where the name is an outcome's
        f"trial_{name}" if name in outcomes else name: (_dtype(name), _setting)
        for name in dict.fromkeys((*usual, *sweep.trial.axes()))
    }
    price, val = sweep.resources.price_per_hour, val_column(sweep)
    number, count = (NUMBER, _figure), (COUNT, _figure)
    table: dict[str, tuple[str, Callable[[LeaderboardEntry, str], Any]]] = {
        "rank": count,
        **dict.fromkeys(("name", "kind", "status"), (TEXT, getattr)),
        "members": (TEXT, lambda entry, _: " ".join(entry.members)),
        **{name: settings[name] for name in usual[:3]},
        val: (NUMBER, lambda entry, _: entry.score),
        **dict.fromkeys(("accuracy", "precision", "recall", "f1", "auc"), number),
        **dict.fromkeys((*CONFUSION, "n"), count),
        "threshold": number,
        **dict.fromkeys(METRICS, number),
        **{name: (dtype, _of_result) for name, dtype in RESULT_COLUMNS.items()},
        **settings,
        **dict.fromkeys((*operating_point.COLUMNS, *INTERVALS, *TESTS), number),
        "tied": (TEXT, _figure),
        "optimism": (NUMBER, lambda entry, _: _optimism(entry.score, entry.figures.get(sweep.search.metric))),
    }
    if price is not None:
        table["cost"] = NUMBER, lambda entry, _: entry.result and cost_of(entry.result.seconds, price)
    if sweep.search.warm_start:
        table["taken_from"] = TEXT, _of_result
    if sweep.repeats:
        table["repeats"] = TEXT, getattr
    if sweep.search.seeds > 1:
        table |= {"seeds": count, **dict.fromkeys(_over_seeds(sweep), number)}
    return table


def contract_columns(sweep: Sweep) -> list[str]:
    """The columns that every leaderboard begins with, in this order; more may follow."""
    names = list(columns(sweep))
    return names[: names.index("threshold") + 1]


def val_column(sweep: Sweep) -> str:
    """The value of the val metric on val: val_<metric>."""
    return f"val_{sweep.search.metric}"


def ranked_by(sweep: Sweep, columns: Iterable[str]) -> str:
    """The column by which a leaderboard with these columns is ranked, and its members were chosen."""
    return WORST if WORST in columns else val_column(sweep)


def column_types(sweep: Sweep) -> dict[str, str]:
    """The columns of every leaderboard of this sweep, in order, each with its pandas dtype."""
    return {name: dtype for name, (dtype, _) in columns(sweep).items()}


def build_leaderboard(run: RunDir) -> pd.DataFrame:
    """One row for every finished trial and one for every vote, ranked by `ranked_by`, failed ones last.

    `columns` and those of `robustness`; every metric without `val_` is on test, at the row's own threshold, which its
    own val predictions give.

    Raises:
        RunError: where a record or a predictions file of the run is damaged, or predictions contradict each other.
        DataError: where val does not allow the choice of a threshold.
    """
    sweep, ensemble = run.sweep(), run.ensemble()
    entries = [_of_trial(sweep, trial, result) for trial in run.models() if (result := trial.result()) is not None]
    entries += [_of_vote(run, vote) for vote in (ensemble.votes if ensemble is not None else [])]
    corrupted = robustness(run)
    for entry in entries:
        entry.figures |= corrupted.get(entry.name, {})
    table = columns(sweep) | dict.fromkeys(next(iter(corrupted.values()), ()), (NUMBER, _figure))
    column = ranked_by(sweep, table)
    entries = _ranked(entries, column, table[column][1])
    evaluated = [
        Evaluated(entry.name, entry.kind, entry.score, entry.figures["threshold"], entry.test)
        for entry in entries
        if entry.test is not None
    ]
    sure = significance(evaluated, None if ensemble is None else ensemble.name, _groups(run))
    for entry in entries:
        if entry.name in sure.index:
            entry.figures |= {str(name): value for name, value in sure.loc[entry.name].items()}
    if sweep.search.seeds > 1:
        _add_spread(sweep, entries)
    rows = [{name: make(entry, name) for name, (_, make) in table.items()} for entry in entries]
    return _typed(pd.DataFrame(rows, columns=list(table)), {name: dtype for name, (dtype, _) in table.items()})


def write_leaderboard(run: RunDir) -> pd.DataFrame:
    """Writes leaderboard.csv (full precision) and leaderboard.md; returns what `build_leaderboard` built.

    The Markdown begins with the errors of the run's audit. Raises what `build_leaderboard` raises.
    """
    frame = build_leaderboard(run)
    with replacing(run.leaderboard_csv) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    write_whole(run.leaderboard_md, _markdown(run, frame))
    return frame


def read_leaderboard(run: RunDir) -> pd.DataFrame:
    """leaderboard.csv with the dtypes that `build_leaderboard` gave it.

    Raises:
        RunError: where it is missing or not this sweep's.
    """
    always = column_types(run.sweep())
    types = {**always, **dict.fromkeys((WORST, *TEST_COLUMNS), NUMBER)}
    try:
        frame = pd.read_csv(
            run.leaderboard_csv, dtype=types, keep_default_na=False, na_values=[""], float_precision="round_trip"
        )
    except FileNotFoundError:
        raise RunError(f"{run.leaderboard_csv} is missing; `rfray ensemble` writes it") from None
    except ValueError as error:
        raise RunError(f"{run.leaderboard_csv} is damaged ({error}); `rfray ensemble` writes it anew") from None
    corrupted = [name for name in (WORST, *TEST_COLUMNS) if name in frame]
    if list(frame.columns) != [*always, *corrupted] or set(corrupted) - {WORST} not in (set(), set(TEST_COLUMNS)):
        raise RunError(f"{run.leaderboard_csv} has other columns than this sweep; `rfray ensemble` writes it anew")
    return _typed(frame, types)


def test_figures(frame: pd.DataFrame, name: str) -> dict[str, float | None]:
    """What the row of this name has of test: metrics, counts, intervals; None where undefined."""
    row = frame[frame["name"] == name].iloc[0]
    chosen = [*METRICS, *CONFUSION, "n", *INTERVALS, *operating_point.COLUMNS]
    return {column: None if pd.isna(row[column]) else float(row[column]) for column in chosen}


def cost_of(seconds: float, price_per_hour: float) -> float:
    """What `seconds` of one trial cost, in the currency of the price."""
    return seconds / 3600 * price_per_hour


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
    """A sentence on the false-positive rate that the sweep asks for and that of the ensemble on test.

    None where `ensemble.threshold` is no `max_fpr`, there is no ensemble, or test has no real image. Raises RunError
    where ensemble.json is damaged or has no row.
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
    return pd.DataFrame({column: [_cell(column, value) for value in frame[column]] for column in frame.columns})


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


def _figure(entry: LeaderboardEntry, column: str) -> Any:
    return entry.figures.get(column)


def _of_result(entry: LeaderboardEntry, column: str) -> Any:
    return getattr(entry.result, column, None)


def _setting(entry: LeaderboardEntry, column: str) -> Any:
    name = column.removeprefix("trial_")
    if entry.trial is None or (entry.kind == "probe" and name not in (*PROBED, "head")):
        return None  # a probe was not trained
    value = getattr(entry.trial, name)
    return str(value).lower() if isinstance(value, bool) else value


def _optimism(val: float | None, test: float | None) -> float | None:
    """How much better a row looks by what it was chosen by (Efron and Tibshirani 1993, chapter 17)."""
    return None if val is None or test is None else val - test


def _dtype(name: str) -> str:
    kind = Trial.model_fields[name].annotation
    return NUMBER if kind is float else COUNT if kind is int else TEXT


def _of_trial(sweep: Sweep, trial: TrialDir, result: TrialResult) -> LeaderboardEntry:
    entry = LeaderboardEntry(trial.id, result.kind, "ok", result.score, result.trial, result, result.repeats)
    if result.status == "failed":
        lines = (result.reason or "").strip().splitlines()
        entry.status, entry.score, entry.result = f"failed: {lines[0] if lines else 'no reason was given'}", None, None
    elif trial.predictions_file("test").exists():
        val = trial_predictions(trial, "val")
        entry.add_figures(val, trial_predictions(trial, "test"), choose_point(val, sweep.ensemble))
    elif not trial.weights_file.exists():
        entry.status = "not kept"
    return entry


def _of_vote(run: RunDir, vote: Vote) -> LeaderboardEntry:
    val, test = (read_predictions(run.ensemble_predictions_file(vote.name, part)) for part in PARTS)
    entry = LeaderboardEntry(vote.name, "ensemble", "ok", vote.val_score, members=vote.members)
    return entry.add_figures(val, test, OperatingPoint(vote.threshold, vote.unsure))


def _ranked(
    entries: Iterable[LeaderboardEntry], column: str, make: Callable[[LeaderboardEntry, str], Any]
) -> list[LeaderboardEntry]:
    """Best first by this column, ties by name; then those without a value, which get no rank: undefined, failed."""

    def key(entry: LeaderboardEntry) -> tuple[bool, bool, float, str]:
        score = make(entry, column)
        return score is None, entry.status.startswith("failed"), -(score or 0.0), entry.name

    ordered = sorted(entries, key=key)
    for rank, entry in enumerate(ordered, start=1):
        entry.figures["rank"] = None if make(entry, column) is None else rank
    return ordered


def _over_seeds(sweep: Sweep) -> dict[str, tuple[str, Callable[[list[float]], float]]]:
    """Column -> of which column it is what, over the trainings of one finalist with different seeds."""
    return {
        f"{name}_{column}": (column, of)
        for column in dict.fromkeys((val_column(sweep), "accuracy", "auc"))
        for name, of in (("mean", mean), ("spread", stdev))
    }


def _add_spread(sweep: Sweep, entries: Iterable[LeaderboardEntry]) -> None:
    """Adds mean and spread to finalists and their trainings with other seeds, and how many they are.

    The spread is the standard deviation, for which there must be two values (n - 1 in the denominator).
    """
    trained: dict[str, list[LeaderboardEntry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "model" and entry.score is not None:
            trained[entry.repeats or entry.name].append(entry)
    for alike in (group for group in trained.values() if len(group) > 1):
        found: dict[str, Any] = {"seeds": len(alike)}
        for name, (column, of) in _over_seeds(sweep).items():
            scores = (entry.score if column == val_column(sweep) else entry.figures.get(column) for entry in alike)
            values = [score for score in scores if score is not None]
            found[name] = of(values) if len(values) > 1 else None
        for entry in alike:
            entry.figures |= found


def _groups(run: RunDir) -> "pd.Series[int] | None":
    """Id of each test image -> its group_id; None where the run has no catalog."""
    if not run.catalog_file.exists():
        return None
    catalog = run.catalog()
    return catalog[catalog["part"] == "test"].set_index("path")["group_id"]


def _typed(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """The frame with these dtypes, and "" for no text."""
    frame = frame.astype({column: dtype for column, dtype in types.items() if column in frame})
    return frame.fillna({column: "" for column, dtype in types.items() if dtype == TEXT})


def _cell(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    if column in (*METRICS, *INTERVALS, *operating_point.COLUMNS, "optimism") or column.startswith(("val_", "auc_")):
        return f"{value:.4f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _markdown(run: RunDir, frame: pd.DataFrame) -> str:
    sweep, audit = run.sweep(), run.audit()
    counted = ", ".join(str(n) for n in frame["n"].dropna().unique()) or "no"
    shown = [*contract_columns(sweep), *(column for column in (WORST, TEST_COLUMNS[-1]) if column in frame)]
    chosen_by = f"the {sweep.search.metric} on val"
    if WORST in frame:
        chosen_by = (
            f"the smallest {sweep.search.metric} on val as it is and under each of {len(CORRUPTION_NAMES)} "
            "corruptions, which only trials whose weights were kept have"
        )
    paragraphs = [
        f"# Leaderboard of {escaped(run.name)}",
        f"Chosen and ranked by `{ranked_by(sweep, shown)}`, {chosen_by}. The metrics and counts "
        f"without `val_` are on test (n: {counted} images), which nothing was chosen on; the positive "
        "class is fake. An empty cell: undefined, or not measured.",
        OF_FOLDS if (frame["kind"] == "fold").any() else "",
        *(escaped(said or "") for said in (verdict(run, frame), false_positives(run, frame), waiting(frame))),
        f"**Audit: {escaped(audit.stamp)}**" if audit is not None and audit.stamp else "",
        "\n".join(markdown_table(frame[shown])),
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"

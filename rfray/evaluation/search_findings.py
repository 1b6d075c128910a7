"""A run's trials -> `SearchFindings`: how the best score grew, what it depended on, what was saved, what it cost.

How much an axis matters is measured in the same way for every search algorithm, as it needs only settings and scores:
scikit-learn's random forests learn the val score of some trials, and the permutation importance of an axis
(Breiman 2001) is how much worse they predict the other trials once that axis's values are shuffled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold

from rfray.evaluation.leaderboard import cost_of, val_column
from rfray.spec.sweep import Resources, Sweep
from rfray.spec.trial import Range, Trial, epochs_of
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, TrialDir
from rfray.store.tables import training_images

ENOUGH = 8
"""Trials with a score, below which no importance is worked out."""
ROUNDS, FOLDS, TREES = 5, 4, 40
"""Every trial is predicted once a round by a forest of TREES that did not learn from it; seeds are 0, 1, …"""


@dataclass(frozen=True)
class Axis:
    """One axis of the sweep, its values as numbers."""

    name: str
    choices: tuple[str, ...]
    """Of a list: what the numbers 0, 1, … stand for, numbers in rising order; empty for a range."""
    low: float
    high: float
    """Ends of the range, or first and last place in the list."""
    logarithmic: bool


@dataclass(frozen=True)
class Importance:
    """What the val score depends on."""

    shares: "pd.Series[float]"
    """Axis -> its share of the importance of all axes, in [0, 1], the greatest first; they sum to 1."""
    spread: "pd.Series[float]"
    """Axis, in the same order -> standard deviation of that share over ROUNDS divisions of the trials."""
    explained: float
    """Share of the scores' variance that the forests predict in trials they have not seen, in (0, 1]."""


@dataclass(frozen=True)
class SearchFindings:
    """What the search came to. Amounts of training are in `unit`."""

    metric: str
    """Name of the val metric."""
    unit: str
    """GPU-seconds where the sweep gives a trial GPUs (a share of a GPU counts as that share), else slot-seconds: the
    seconds of one trial's place, whatever it is made of."""
    trials: int
    """Trials that were started, whatever became of them."""
    taken_over: int
    """How many of them were trained in an earlier run; their epochs count as they were there."""
    epochs: pd.DataFrame
    """One row an epoch, in the order in which they ended: `trial`; `seconds`; `spent`, all trials' training up to then;
    `score`, nan where it is undefined or its trial has not succeeded; `best` and `best_trial`, the greatest score up to
    then and whose it is. A trial that took over another's state (pbt) has that one's epochs in its history; they stand
    for its own, which it discarded."""
    axes: tuple[Axis, ...]
    settings: pd.DataFrame
    """One row a trial that succeeded with a score, its id as index: one float64 column an axis."""
    scores: "pd.Series[float]"
    """Best val score of each of them, in [0, 1]."""
    importance: Importance | None
    no_importance: str
    """Why there is none, for people; "" where there is one."""
    stopped: int
    """Trials that succeeded with fewer epochs than planned: stopped by the scheduler, or by their patience."""
    saved: float
    """What their other epochs would have taken, each as long as the trial's mean epoch."""
    costs: dict[str, float] | None
    """Trial -> what its training cost; None where the sweep gives no price."""

    @property
    def spent(self) -> float:
        """The training of all trials."""
        return float(self.epochs["spent"].iloc[-1]) if len(self.epochs) else 0.0

    @property
    def steps(self) -> pd.DataFrame:
        """The epochs that brought a better score than all before them."""
        return self.epochs.dropna(subset=["best"]).drop_duplicates("best")

    @property
    def saved_share(self) -> float:
        """What was saved, as a share of what all trials would have taken with all their epochs; 0 where none began."""
        return self.saved / (self.spent + self.saved) if self.saved else 0.0


def search_findings(run: RunDir) -> SearchFindings:
    """Looks through all trials of the run, those that failed or are not finished included: they took time, too.

    Raises RunError where a record or a history is damaged.
    """
    sweep = run.sweep()
    results = {out.id: out.result() for out in run.trials()}
    ended = {name: result for name, result in results.items() if result is not None}
    good = {name: result for name, result in ended.items() if result.status == "ok"}
    ranked = {name: result.score for name, result in good.items() if result.score is not None}
    unit, weight = _unit(sweep.resources)
    epochs = _epochs(run.trials(), ended, val_column(sweep), weight)
    axes, settings = _settings(sweep, [good[name].trial for name in ranked])
    settings.index, scores = pd.Index(list(ranked)), pd.Series(ranked, dtype="float64")
    importance, no_importance = _importance(axes, settings, scores)
    images = training_images(run)
    saved = [seconds for result in good.values() if (seconds := _saved(result, images))]
    price = sweep.resources.price_per_hour
    took = epochs.groupby("trial", sort=False)["seconds"].sum()
    return SearchFindings(
        metric=sweep.search.metric,
        unit=unit,
        trials=len(results),
        taken_over=sum(result.taken_from is not None for result in ended.values()),
        epochs=epochs,
        axes=axes,
        settings=settings,
        scores=scores,
        importance=importance,
        no_importance=no_importance,
        stopped=len(saved),
        saved=weight * sum(saved),
        costs=None if price is None else {str(name): cost_of(float(seconds), price) for name, seconds in took.items()},
    )


def sentences(findings: SearchFindings) -> list[str]:
    """What was found, for people, most telling first."""
    return list(_sentences(findings))


def _sentences(findings: SearchFindings) -> Iterator[str]:
    trials = f"{findings.trials:,} trial" + ("" if findings.trials == 1 else "s")
    yield f"{trials} trained for {amount(findings.spent)} {findings.unit} in all. {_reached(findings)}"
    if findings.taken_over:
        yield f"{findings.taken_over:,} of them were trained in earlier runs, and count here as they did there."
    importance = findings.importance
    if importance is None:
        yield f"What the score depends on can't be said: {findings.no_importance}."
    else:
        listed = ", ".join(f"{name} ({_percent(share)})" for name, share in importance.shares.head(3).items())
        yield (
            f"What the score depends on most, with its share of the importance: {listed}. Measured by the permutation "
            f"importance in random forests, cross-validated on {len(findings.scores):,} trials; from the settings "
            f"alone they predict {_percent(importance.explained)} of the variance of the scores."
        )
    if findings.stopped:
        yield (
            f"{findings.stopped:,} of {trials} ended before the last epoch that was planned, which saved about "
            f"{amount(findings.saved)} {findings.unit}: {_percent(findings.saved_share)} of what all would have taken."
        )
    else:
        yield "Every trial that succeeded was trained to its last planned epoch, so stopping early saved nothing."
    if findings.costs:
        dearest, most = max(findings.costs.items(), key=lambda entry: entry[1])
        yield f"All training cost {amount(sum(findings.costs.values()))}, the dearest trial {amount(most)} ({dearest})."


def _reached(findings: SearchFindings) -> str:
    if findings.steps.empty:
        return "None has come to a score."
    last = findings.steps.iloc[-1]
    return (
        f"The best {findings.metric} on val, {last['best']:.4f}, was reached by {last['best_trial']} after "
        f"{amount(last['spent'])} of them ({_percent(last['spent'] / findings.spent)})."
    )


def amount(value: float) -> str:
    """Seconds or money, for people: three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _unit(resources: Resources) -> tuple[str, float]:
    """Name of the unit, and how many of it a second of one trial is."""
    gpu = resources.gpu  # `auto` is decided on the cluster, and not written down
    return ("GPU-seconds", gpu) if not isinstance(gpu, str) and gpu > 0 else ("slot-seconds", 1.0)


def _epochs(trials: Sequence[TrialDir], ended: Mapping[str, TrialResult], column: str, weight: float) -> pd.DataFrame:
    names = ["seconds", "ended", column]
    histories = [(out.id, history) for out in trials if len(history := out.history())]
    if not histories:
        return pd.DataFrame(columns=["trial", "seconds", "spent", "score", "best", "best_trial"])
    told = pd.concat([history.reindex(columns=names).assign(trial=name) for name, history in histories])
    # histories of earlier versions have no times: their epochs stay in the order of the trials
    told = told.sort_values("ended", kind="stable", ignore_index=True)
    well = np.array([name in ended and ended[name].status == "ok" for name in told["trial"]])
    score = told[column].where(well).astype("float64")
    best = score.cummax().ffill()
    first = score > best.shift().fillna(-np.inf)
    return pd.DataFrame(
        {
            "trial": told["trial"],
            "seconds": told["seconds"],
            "spent": weight * told["seconds"].cumsum(),
            "score": score,
            "best": best,
            "best_trial": told["trial"].where(first).ffill(),
        }
    )


def _saved(result: TrialResult, training_images: int) -> float:
    """Seconds that the epochs which a trial was spared would have taken."""
    planned = epochs_of(result.trial.model_dump(), training_images)
    return (planned - result.epochs) * result.seconds / result.epochs if result.epochs else 0.0


def _settings(sweep: Sweep, trials: Sequence[Trial]) -> tuple[tuple[Axis, ...], pd.DataFrame]:
    """The sweep's axes, and the trials' values on them as numbers."""
    axes, columns = [], {}
    for name, given in sweep.trial.axes().items():
        values = [getattr(trial, name) for trial in trials]
        if isinstance(given, Range):
            axes.append(Axis(name, (), *given.bounds, logarithmic=given.kind == "log"))
        else:
            known = _in_order([one for one in given if not isinstance(one, dict)], values)
            axes.append(Axis(name, tuple(map(_text, known)), 0, len(known) - 1, logarithmic=False))
            values = [known.index(value) for value in values]
        columns[name] = np.array(values, dtype=np.float64)
    return tuple(axes), pd.DataFrame(columns, index=range(len(trials)))


def _in_order(given: Sequence[Any], used: Sequence[Any]) -> list[Any]:
    """All different values: numbers rising, others as the sweep lists them, then those that a mapping led to."""
    known = list(dict.fromkeys([*given, *used]))
    return sorted(known) if all(type(value) in (int, float) for value in known) else known


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _importance(
    axes: Sequence[Axis], settings: pd.DataFrame, scores: "pd.Series[float]"
) -> tuple[Importance | None, str]:
    """The importance, or None and why there is none."""
    if not axes:
        return None, "the sweep has no axis"
    if len(scores) < ENOUGH:
        return None, f"too few trials ({len(scores)} with a score, at least {ENOUGH} are needed)"
    if scores.nunique() == 1:
        return None, "all trials have the same score"
    values = np.column_stack(
        [np.log(settings[axis.name]) if axis.logarithmic else settings[axis.name] for axis in axes]
    )
    rounds, errors = zip(*(_one_round(values, scores.to_numpy(), seed) for seed in range(ROUNDS)), strict=True)
    found, explained = np.maximum(rounds, 0), 1 - float(np.mean(errors)) / float(scores.var(ddof=0))
    total = found.mean(axis=0).sum()
    if explained <= 0 or not total:
        return None, "the settings predict the score of a trial no better than the mean of the others does"
    names = [axis.name for axis in axes]
    shares = pd.Series(found.mean(axis=0) / total, index=names).sort_values(ascending=False, kind="stable")
    each = found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    spread = pd.Series(each.std(axis=0), index=names)
    return Importance(shares, spread[shares.index], explained), ""


def _one_round(values: np.ndarray, scores: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Of each column of `values` (n, k) the rise of the squared error when it is shuffled, (k,); and the error itself.

    Both are means over the n trials, each predicted by a forest that has learned from other ones.
    """
    rises, error = np.zeros(values.shape[1]), 0.0
    for learned, other in KFold(FOLDS, shuffle=True, random_state=seed).split(values):
        forest = RandomForestRegressor(TREES, random_state=seed).fit(values[learned], scores[learned])
        rise = permutation_importance(
            forest,
            values[other],
            scores[other],
            scoring="neg_mean_squared_error",
            n_repeats=1,
            random_state=seed,
        )
        rises += rise.importances_mean * len(other) / len(scores)
        error += float(((forest.predict(values[other]) - scores[other]) ** 2).sum()) / len(scores)
    return rises, error

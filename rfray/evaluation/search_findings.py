"""A run's trials -> `SearchFindings`: how the best score grew, what it depended on, what was saved, what it cost.

How much an axis matters is the same for every search algorithm, as it needs only settings and scores: functional ANOVA
(Hutter, Hoos and Leyton-Brown 2014), as optuna computes it with random forests.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rfray.data.listing import counted
from rfray.evaluation.leaderboard import val_column
from rfray.evaluation.unseen import comparable_scores
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range, epochs_of
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, TrialDir

if TYPE_CHECKING:
    import optuna  # imported where it is needed, as it takes a second

ENOUGH = 8
"""Trials with a score, below which no importance is computed; chosen: a forest of fewer learns nothing."""


@dataclass(frozen=True)
class SearchFindings:
    """What came of the search. Amounts of training are in `unit`."""

    metric: str
    """Name of the val metric."""
    unit: str
    """GPU-seconds where the sweep gives a trial GPUs (a share of a GPU counts as that share), else slot-seconds: the
    seconds of one trial, whatever resources it has."""
    epochs: pd.DataFrame
    """One row an epoch, in the order in which they ended: `trial`; `seconds`; `spent`, all trials' training up to then;
    `score`, nan where it is undefined or its trial has not succeeded; `best` and `best_trial`, the greatest score up to
    then and whose it is."""
    study: "optuna.Study"
    """The trials that succeeded with a score, as optuna has them: user attribute `id`, settings on the axes, score."""
    importance: dict[str, float]
    """Axis -> its share of the variance of the scores that the settings explain, in [0, 1], the greatest first."""
    sentences: list[str]
    """What was found, for people, most telling first."""

    @property
    def spent(self) -> float:
        """The training of all trials."""
        return float(self.epochs["spent"].iloc[-1]) if len(self.epochs) else 0.0

    @property
    def steps(self) -> pd.DataFrame:
        """The epochs that brought a better score than all before them."""
        return self.epochs.dropna(subset=["best"]).drop_duplicates("best")


def search_findings(run: RunDir) -> SearchFindings:
    """Of all trials, also those that failed or go on: they took time, too. Raises RunError where a file is damaged."""
    sweep, trials, images = run.sweep(), run.trials(), run.training_images()
    results = [result for out in trials if (result := out.result()) is not None]
    good = [result for result in results if result.status == "ok"]
    gpu = sweep.resources.gpu  # `auto` is decided on the cluster, and not written down
    unit, weight = ("GPU-seconds", gpu) if not isinstance(gpu, str) and gpu > 0 else ("slot-seconds", 1.0)
    epochs = _epochs(trials, [result.id for result in good], val_column(sweep), weight)
    study = _study(sweep, good, comparable_scores(good))
    importance, why_none = _importance(study)
    found = SearchFindings(sweep.search.metric, unit, epochs, study, importance, [])
    saved = [
        weight * (epochs_of(result.trial.model_dump(), images) - result.epochs) * result.seconds / result.epochs
        for result in good
        if result.epochs
    ]
    return replace(found, sentences=[*_sentences(found, why_none, sweep, len(trials), results, saved)])


def _sentences(
    found: SearchFindings,
    why_none: str,
    sweep: Sweep,
    trials: int,
    results: Sequence[TrialResult],
    saved: Sequence[float],
) -> Iterator[str]:
    """`saved`: what the epochs that each trial was spared would have taken, each as long as its mean epoch.

    Nothing is saved where a budget may have ended them: it was used up.
    """
    failed, price = sum(result.status == "failed" for result in results), sweep.resources.price_per_hour
    good, unfinished = len(results) - failed, trials - len(results)
    those = counted(trials, "trial")
    if good < trials:
        those += f" ({good} succeeded, {failed} failed, {unfinished} not finished)"
    best, spent = "None has come to a score.", found.spent
    if len(found.steps):
        last = found.steps.iloc[-1]
        best = (
            f"The best {found.metric} on val, {last['best']:.4f}, was reached by {last['best_trial']} after "
            f"{amount(last['spent'])} of them ({100 * last['spent'] / spent:.0f} %)."
        )
    yield f"{those} trained for {amount(spent)} {found.unit} in all. {best}"
    if taken_over := sum(result.taken_from is not None for result in results):
        yield f"{taken_over:,} of them were trained in earlier runs, and count here as they did there."
    if found.importance:
        shares = [f"{name} ({100 * share:.0f} %)" for name, share in found.importance.items()]
        yield (
            f"What the score depends on most, with its share of the importance: {', '.join(shares[:3])}. Measured by "
            f"functional ANOVA (optuna) on {len(found.study.trials):,} trials; with few trials the shares are rough."
        )
    else:
        yield f"What the score depends on can't be said: {why_none}."
    if any(saved):
        of, share = counted(len(saved), "trial"), f"{amount(sum(saved))} {found.unit}"
        ended = f"{sum(map(bool, saved)):,} of {of} ended before the last epoch that was planned"
        if sweep.budget is not None:
            yield f"{ended}, as the budget or the scheduler ended them; the rest would have taken about {share} more."
        else:
            share += f": {100 * sum(saved) / (spent + sum(saved)):.0f} % of what all would have taken"
            yield f"{ended}, which saved about {share}."
    else:
        yield "Every trial that succeeded was trained to its last planned epoch, so stopping early saved nothing."
    if price is not None and spent:
        costs = found.epochs.groupby("trial")["seconds"].sum() / 3600 * price
        yield f"All training cost {amount(costs.sum())}, the dearest trial {amount(costs.max())} ({costs.idxmax()})."


def amount(value: float) -> str:
    """Seconds, money or a size, for people: three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _epochs(trials: Sequence[TrialDir], good: Collection[str], column: str, weight: float) -> pd.DataFrame:
    histories = [history.assign(trial=out.id) for out in trials if len(history := out.history())]
    if not histories:
        return pd.DataFrame(columns=["trial", "seconds", "spent", "score", "best", "best_trial"])
    epochs = pd.concat(histories).sort_values("ended", kind="stable", ignore_index=True)
    score = epochs[column].where(epochs["trial"].isin(list(good))).astype("float64")
    best = score.cummax().ffill()
    best_trial = epochs["trial"].where(score > best.shift().fillna(-np.inf)).ffill()
    spent = weight * epochs["seconds"].cumsum()
    return epochs[["trial", "seconds"]].assign(spent=spent, score=score, best=best, best_trial=best_trial)


def _study(sweep: Sweep, ended: Sequence[TrialResult], scores: Mapping[str, float]) -> "optuna.Study":
    """The trials that have a score as optuna has them, in memory."""
    import optuna

    results = [result for result in ended if result.id in scores]
    distributions = {
        name: _distribution(axis, [getattr(result.trial, name) for result in results])
        for name, axis in sweep.trial.axes().items()
        if results
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for result in results:
        params = {name: getattr(result.trial, name) for name in distributions}
        trial = optuna.trial.create_trial(params=params, distributions=distributions, value=scores[result.id])
        trial.set_user_attr("id", result.id)
        study.add_trial(trial)
    return study


def _distribution(axis: list[Any] | Range, used: Sequence[Any]) -> "optuna.distributions.BaseDistribution":
    """A range, or all choices: numbers rising, others as the sweep lists them, then those that a mapping led to."""
    from optuna import distributions

    if not isinstance(axis, Range):
        known = list(dict.fromkeys([*(choice for choice in axis if not isinstance(choice, dict)), *used]))
        numbers = all(type(value) in (int, float) for value in known)
        return distributions.CategoricalDistribution(sorted(known) if numbers else known)
    low, high = min(axis.bounds[0], *used), max(axis.bounds[1], *used)  # also what an earlier sweep allowed
    if axis.kind == "int":
        return distributions.IntDistribution(int(low), int(high))
    return distributions.FloatDistribution(low, high, log=axis.kind == "log")


def _importance(study: "optuna.Study") -> tuple[dict[str, float], str]:
    """The importance, or none and why."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    trials = study.get_trials(deepcopy=False)
    if trials and not trials[0].distributions:
        return {}, "the sweep has no axis"
    if len(trials) < ENOUGH:
        return {}, f"too few trials ({len(trials)} with a score, at least {ENOUGH} are needed)"
    if len({trial.value for trial in trials}) == 1:
        return {}, "all trials have the same score"
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in found.items()}, ""

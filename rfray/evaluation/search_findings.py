"""A run's trials -> `SearchFindings`: how the best score grew, what it depended on, what was saved, what it cost.

How much an axis matters is the same for every search algorithm, as it needs only settings and scores: functional ANOVA
(Hutter, Hoos and Leyton-Brown 2014), as optuna computes it with random forests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rfray.evaluation.leaderboard import cost_of, val_column
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
    trials: int
    """Trials that were started, whatever became of them."""
    taken_over: int
    """How many of them were trained in an earlier run; their epochs count as they were there."""
    epochs: pd.DataFrame
    """One row an epoch, in the order in which they ended: `trial`; `seconds`; `spent`, all trials' training up to then;
    `score`, nan where it is undefined or its trial has not succeeded; `best` and `best_trial`, the greatest score up to
    then and whose it is."""
    study: "optuna.Study"
    """The trials that succeeded with a score, as optuna has them: user attribute `id`, settings on the axes, score."""
    importance: dict[str, float]
    """Axis -> its share of the variance of the scores that the settings explain, in [0, 1], the greatest first."""
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
    """Reads all trials of the run, those that failed or are not finished included: they took time, too.

    Raises:
        RunError: where a record or a history is damaged.
    """
    sweep = run.sweep()
    results = {out.id: out.result() for out in run.trials()}
    ended = {name: result for name, result in results.items() if result is not None}
    good = {name: result for name, result in ended.items() if result.status == "ok"}
    gpu = sweep.resources.gpu  # `auto` is decided on the cluster, and not written down
    unit, weight = ("GPU-seconds", gpu) if not isinstance(gpu, str) and gpu > 0 else ("slot-seconds", 1.0)
    epochs = _epochs(run.trials(), good, val_column(sweep), weight)
    study = _study(sweep, [result for result in good.values() if result.score is not None])
    importance, no_importance = _importance(study)
    images = run.training_images()
    saved = [seconds for result in good.values() if (seconds := _saved(result, images))]
    price = sweep.resources.price_per_hour
    took = epochs.groupby("trial", sort=False)["seconds"].sum()
    return SearchFindings(
        metric=sweep.search.metric,
        unit=unit,
        trials=len(results),
        taken_over=sum(result.taken_from is not None for result in ended.values()),
        epochs=epochs,
        study=study,
        importance=importance,
        no_importance=no_importance,
        stopped=len(saved),
        saved=weight * sum(saved),
        costs=None if price is None else {str(name): cost_of(float(seconds), price) for name, seconds in took.items()},
    )


def search_sentences(findings: SearchFindings) -> Iterator[str]:
    """What was found, for people, most telling first."""
    trials = f"{findings.trials:,} trial" + ("" if findings.trials == 1 else "s")
    yield f"{trials} trained for {amount(findings.spent)} {findings.unit} in all. {_best(findings)}"
    if findings.taken_over:
        yield f"{findings.taken_over:,} of them were trained in earlier runs, and count here as they did there."
    if findings.importance:
        listed = ", ".join(f"{name} ({_percent(share)})" for name, share in list(findings.importance.items())[:3])
        yield (
            f"What the score depends on most, with its share of the importance: {listed}. Measured by functional ANOVA "
            f"(optuna) on {len(findings.study.trials):,} trials; with few trials the shares are rough."
        )
    else:
        yield f"What the score depends on can't be said: {findings.no_importance}."
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


def amount(value: float) -> str:
    """Seconds or money, for people: three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _best(findings: SearchFindings) -> str:
    if findings.steps.empty:
        return "None has come to a score."
    last = findings.steps.iloc[-1]
    return (
        f"The best {findings.metric} on val, {last['best']:.4f}, was reached by {last['best_trial']} after "
        f"{amount(last['spent'])} of them ({_percent(last['spent'] / findings.spent)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _epochs(trials: Sequence[TrialDir], good: Mapping[str, TrialResult], column: str, weight: float) -> pd.DataFrame:
    histories = [history.assign(trial=out.id) for out in trials if len(history := out.history())]
    if not histories:
        return pd.DataFrame(columns=["trial", "seconds", "spent", "score", "best", "best_trial"])
    epochs = pd.concat(histories).sort_values("ended", kind="stable", ignore_index=True)
    score = epochs[column].where(epochs["trial"].isin(list(good))).astype("float64")
    best = score.cummax().ffill()
    first = score > best.shift().fillna(-np.inf)
    return epochs[["trial", "seconds"]].assign(
        spent=weight * epochs["seconds"].cumsum(),
        score=score,
        best=best,
        best_trial=epochs["trial"].where(first).ffill(),
    )


def _saved(result: TrialResult, training_images: int) -> float:
    """Seconds that the epochs which a trial was spared would have taken."""
    planned = epochs_of(result.trial.model_dump(), training_images)
    return (planned - result.epochs) * result.seconds / result.epochs if result.epochs else 0.0


def _study(sweep: Sweep, results: Sequence[TrialResult]) -> "optuna.Study":
    """The trials as optuna has them, in memory; all of them with a score."""
    import optuna

    settings = pd.DataFrame([result.trial.model_dump() for result in results], dtype=object)
    distributions = {
        name: _distribution(axis, settings[name].tolist()) for name, axis in sweep.trial.axes().items() if results
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for result in results:
        params = {name: getattr(result.trial, name) for name in distributions}
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, value=result.score, user_attrs={"id": result.id}
            )
        )
    return study


def _distribution(axis: list[Any] | Range, used: Sequence[Any]) -> "optuna.distributions.BaseDistribution":
    """A range, or all choices: numbers rising, others as the sweep lists them, then those that a mapping led to."""
    from optuna import distributions

    if not isinstance(axis, Range):
        known = list(dict.fromkeys([*(choice for choice in axis if not isinstance(choice, dict)), *used]))
        return distributions.CategoricalDistribution(
            sorted(known) if all(type(value) in (int, float) for value in known) else known
        )
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

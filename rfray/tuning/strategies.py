"""A checked sweep -> its searcher (how settings are proposed) and its scheduler (how weak trials are stopped early)."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import Sweep
from rfray.store.records import EarlierTrial
from rfray.tuning import space
from rfray.tuning.asha import Asha

REPEATS_BEFORE_LISTING = 100
"""After this many proposals that are known already, what is left of a finite space is listed instead: a guess, as a
hundred draws cost milliseconds."""

NO_CONTROLLER = SimpleNamespace(get_live_trials=list)
"""Takes the place of Ray's controller while a scheduler learns the past: no trial is live then."""


class Grid:
    """Every combination once, in the order of the sweep file, but for those that were taken over from earlier runs."""

    def __init__(
        self, sweep: Sweep, earlier: Sequence[EarlierTrial] = (), beginnings: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        done = {one.trial.digest for one in earlier if one.use == "taken over"}
        self._proposals = (
            values
            for values in _distinct(sweep, space.combinations(sweep.trial.axes()))
            if sweep.trial.trial(values).digest not in done
        )

    def ask(self) -> dict[str, Any] | None:
        """Values for the axes; None where there is nothing left to propose."""
        return next(self._proposals, None)

    def tell(self, number: int, score: float | None) -> None:
        """A grid learns nothing."""


class Sampled:
    """Settings drawn by one of optuna's samplers, none of them twice, and none that was taken over."""

    def __init__(
        self,
        sweep: Sweep,
        sampler: BaseSampler,
        earlier: Sequence[EarlierTrial] = (),
        beginnings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._axes = sweep.trial.axes()
        self._distributions = space.distributions(self._axes)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._proposed: list[optuna.Trial] = []
        self._scores: dict[str, float | None] = {}
        self._keys: list[str] = []
        self._sweep = sweep
        for one in earlier:
            self._learn(one)
        for params in beginnings:
            self._study.enqueue_trial(dict(params))
        # the same seed draws all that a random search has drawn before
        self._patience = REPEATS_BEFORE_LISTING + len(self._scores)

    def ask(self) -> dict[str, Any] | None:
        """Values for the axes; None where there is nothing left to propose."""
        for _ in range(self._patience):
            drawn = self._study.ask(self._distributions)
            values = space.settings(drawn.params, self._axes)
            key = self._sweep.trial.trial(values).digest
            if key not in self._scores:
                return self._propose(drawn, key, values)
            self._finish(drawn, self._scores[key])
        return self._first_unseen()

    def tell(self, number: int, score: float | None) -> None:
        """Takes in the best val metric of the `number`-th proposal (from 0), None where it failed.

        May be called again once the trial has trained further.
        """
        key, drawn = self._keys[number], self._proposed[number]
        before = self._scores[key]
        if before is None:
            self._scores[key] = score
            self._finish(drawn, score)
        elif score is not None:
            self._scores[key] = score
            # optuna takes a score once, but a paused trial must count now and may get further later
            self._study.get_trials(deepcopy=False)[drawn.number].value = score

    def _learn(self, one: EarlierTrial) -> None:
        params = space.params_of(one.trial, self._axes)
        if params is None:
            return  # its backbone was left out since
        if one.use == "setting":
            self._study.enqueue_trial(params)
            return
        self._study.add_trial(
            optuna.trial.create_trial(params=params, distributions=self._distributions, value=one.score)
        )
        if one.use == "taken over":
            self._scores[one.trial.digest] = one.score

    def _first_unseen(self) -> dict[str, Any] | None:
        if space.size(self._axes) is None:
            return None
        for values in space.combinations(self._axes):
            key = self._sweep.trial.trial(values).digest
            if key not in self._scores:
                params = {name: axis.index(values[name]) for name, axis in self._axes.items() if isinstance(axis, list)}
                self._study.enqueue_trial(params)
                return self._propose(self._study.ask(self._distributions), key, values)
        return None

    def _propose(self, drawn: optuna.Trial, key: str, values: dict[str, Any]) -> dict[str, Any]:
        self._proposed.append(drawn)
        self._keys.append(key)
        self._scores[key] = None
        return values

    def _finish(self, drawn: optuna.Trial, score: float | None) -> None:
        if score is None:
            self._study.tell(drawn, state=TrialState.FAIL)
        else:
            self._study.tell(drawn, score)


SEARCHERS: dict[str, Callable[..., Grid | Sampled]] = {
    "grid": Grid,
    "random": lambda sweep, earlier=(), beginnings=(): Sampled(sweep, RandomSampler(seed=sweep.seed), earlier),
    "optuna": lambda sweep, earlier=(), beginnings=(): Sampled(
        sweep, TPESampler(seed=sweep.seed, multivariate=True, constant_liar=True), earlier, beginnings
    ),
}
"""Name -> searcher of a sweep, of trials of earlier runs, and of params for some of the axes (see `space.params_of`)
that a searcher which learns tries first. `optuna` is its tree-structured Parzen estimator."""

LEARNING = ("optuna",)
"""Searchers that learn from the scores of other trials."""


class _FirstWaiting:
    """For a scheduler of Ray's: goes only through trials that have not ended, not, after every event, through all."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The trial that waits and was proposed first; those that have not begun come before paused ones."""
        waiting = [
            trial for trial in tune_controller.get_live_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)
        ]
        return min(waiting, key=lambda trial: (trial.status == Trial.PAUSED, str(trial)), default=None)


class NoStopping(_FirstWaiting, FIFOScheduler):
    """Stops no trial."""


@dataclass(frozen=True)
class _Named:
    """A trial by the name that it has in every start of the sweep, not by Ray's own id."""

    trial_id: str


class Median(_FirstWaiting, MedianStoppingRule):
    """Ray's median rule, which knows trials by name, so that a new one can learn the past (`recall`)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._decided: dict[str, tuple[int, str]] = {}

    def recall(self, epochs: Iterable[tuple[str, int, float]], ended: set[str]) -> None:
        """Takes in the epochs of earlier starts as (trial, epoch, score), in order, and which trials have ended.

        A trial that it stops on the way reports that epoch again, and is stopped then.
        """
        last: dict[str, dict[str, Any]] = {}
        for name, epoch, score in epochs:
            if self._decided.get(name, (0, ""))[1] != TrialScheduler.STOP:
                last[name] = {EPOCH: epoch, SCORE: score}
                self.on_trial_result(NO_CONTROLLER, name, last[name])
        for name in last:
            if name in ended:
                self.on_trial_complete(NO_CONTROLLER, name, last[name])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether a trial continues; for an epoch that is reported again the decision stays."""
        name, epoch = str(trial), result.get(EPOCH, 0)
        last, decision = self._decided.get(name, (0, ""))
        if epoch > last:
            decision = str(super().on_trial_result(tune_controller, _Named(name), result))
            self._decided[name] = epoch, decision
        return decision if epoch >= last else str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended."""
        super().on_trial_complete(tune_controller, _Named(str(trial)), result)


SCHEDULERS: dict[str, Callable[[Sweep, int], TrialScheduler]] = {
    "none": lambda *_: NoStopping(),
    "asha": lambda sweep, images: Asha(
        sweep.search.grace_epochs,
        sweep.search.reduction_factor,
        sweep.trial.most_epochs(images),
        planned_trials(sweep),
        images,
        sweep.search.brackets,
    ),
    "median": lambda sweep, _: Median(
        time_attr=EPOCH, metric=SCORE, mode="max", grace_period=sweep.search.grace_epochs, min_samples_required=3
    ),
}
"""Name -> Ray Tune's scheduler, in epochs, of a sweep with so many training images."""

REMOVED = {
    "hyperband": "asha with search.brackets (2 or more), which is Hyperband without waiting for whole brackets; a "
    "killed sweep could not continue where Ray's synchronous Hyperband was",
    "pbt": "none, asha or median. Population-based training has no successor: trials copy each other's weights, so a "
    "killed sweep could not come to the same leaderboard",
}
"""Schedulers of rfray 0.1 -> what is allowed instead, and why they are gone."""


def grid_size(sweep: Sweep) -> int:
    """How many trials it takes to try every setting of a sweep without ranges."""
    return sum(1 for _ in _distinct(sweep, space.combinations(sweep.trial.axes())))


def planned_trials(sweep: Sweep) -> int | None:
    """How many trials a checked sweep asks for: `search.trials`, or all settings where that is fewer or not given.

    None where a budget alone ends it.
    """
    asked, axes = sweep.search.trials, sweep.trial.axes()
    if space.size(axes) is None:
        return asked
    return sum(1 for _ in itertools.islice(_distinct(sweep, space.combinations(axes)), asked))


def _distinct(sweep: Sweep, proposals: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leaves out settings that come to the same trial (weights for a backbone that has none, say)."""
    seen: set[str] = set()
    for values in proposals:
        key = sweep.trial.trial(values).digest
        if key not in seen:
            seen.add(key)
            yield values

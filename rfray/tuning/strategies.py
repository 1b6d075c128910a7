"""SEARCHERS (how settings are proposed), SCHEDULERS (how weak trials are stopped early), and which go together."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import Sweep
from rfray.store.records import EarlierTrial
from rfray.tuning import space
from rfray.tuning.asha import Asha

REPEATS_BEFORE_LISTING = 100
"""After this many proposals that are known already, what is left of a finite space is listed instead."""


class Searcher(Protocol):
    """Proposes settings and learns from how they did."""

    def ask(self) -> dict[str, Any] | None:
        """Values for the axes; None where there is nothing left to propose."""

    def tell(self, number: int, score: float | None) -> None:
        """How the `number`-th proposal (from 0) did: its best val metric, or None where it failed.

        May be told again once it has got further.
        """


class Grid:
    """Every combination once, in the order of the sweep file, but for those that were taken over."""

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
        """See Searcher."""
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
        for drawn in beginnings:
            self._study.enqueue_trial(dict(drawn))
        # the same seed draws all that a random search has drawn before
        self._patience = REPEATS_BEFORE_LISTING + len(self._scores)

    def ask(self) -> dict[str, Any] | None:
        """See Searcher."""
        for _ in range(self._patience):
            drawn = self._study.ask(self._distributions)
            values = space.settings(drawn.params, self._axes)
            key = self._sweep.trial.trial(values).digest
            if key not in self._scores:
                return self._propose(drawn, key, values)
            self._finish(drawn, self._scores[key])
        return self._first_unseen()

    def tell(self, number: int, score: float | None) -> None:
        """See Searcher."""
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
        drawn = space.places(one.trial, self._axes)
        if drawn is None:
            return  # its backbone was left out since
        if one.use == "setting":
            self._study.enqueue_trial(drawn)
            return
        self._study.add_trial(
            optuna.trial.create_trial(params=drawn, distributions=self._distributions, value=one.score)
        )
        if one.use == "taken over":
            self._scores[one.trial.digest] = one.score

    def _first_unseen(self) -> dict[str, Any] | None:
        if space.size(self._axes) is None:
            return None
        for values in space.combinations(self._axes):
            key = self._sweep.trial.trial(values).digest
            if key not in self._scores:
                places = {name: axis.index(values[name]) for name, axis in self._axes.items() if isinstance(axis, list)}
                self._study.enqueue_trial(places)
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


class Search(Protocol):
    """Makes a searcher of a sweep, and of what is known from earlier runs and from probes."""

    def __call__(
        self, sweep: Sweep, earlier: Sequence[EarlierTrial] = (), beginnings: Sequence[Mapping[str, Any]] = ()
    ) -> Searcher:
        """`beginnings`: places on some of the axes (see `space.places`) that a searcher which learns tries first."""


SEARCHERS: dict[str, Search] = {
    "grid": Grid,
    "random": lambda sweep, earlier=(), beginnings=(): Sampled(sweep, RandomSampler(seed=sweep.seed), earlier),
    "optuna": lambda sweep, earlier=(), beginnings=(): Sampled(
        sweep, TPESampler(seed=sweep.seed, multivariate=True, constant_liar=True), earlier, beginnings
    ),
}
"""Name -> searcher. `optuna` is its tree-structured Parzen estimator."""

LEARNING = ("optuna",)
"""Searchers that what other trials came to is of use to."""


@dataclass(frozen=True)
class Known:
    """A trial as a scheduler remembers it: by the name that it has in every start of the sweep, not by Ray's own id."""

    trial_id: str


class ByName:
    """Makes a scheduler of Ray's remember trials by name, so that what it knew can be told to a new one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._decided: dict[str, tuple[int, str]] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial will run."""
        super().on_trial_add(tune_controller, Known(str(trial)))  # type: ignore[misc]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether a trial goes on; what a trial that was started again says anew is decided as before."""
        name, epoch = str(trial), result.get(EPOCH, 0)
        last, decision = self._decided.get(name, (0, ""))
        if epoch > last:
            decision = str(super().on_trial_result(tune_controller, Known(name), result))  # type: ignore[misc]
            self._decided[name] = epoch, decision
        return decision if epoch >= last else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended."""
        super().on_trial_complete(tune_controller, Known(str(trial)), result)  # type: ignore[misc]

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was taken away before it ran."""
        super().on_trial_remove(tune_controller, Known(str(trial)))  # type: ignore[misc]


class InOrder:
    """Makes a scheduler of Ray's look for the next trial among those that are not over: it looks after every event."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first one proposed of those that wait; those that have not begun come before paused ones."""
        waiting = [
            trial for trial in tune_controller.get_live_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)
        ]
        return min(waiting, key=lambda trial: (trial.status == Trial.PAUSED, str(trial)), default=None)


class AllTheWay(InOrder, FIFOScheduler):
    """Stops no trial."""


class Median(InOrder, ByName, MedianStoppingRule):
    """Ray's median rule, with averages that outlive a start of the sweep."""


class Population(PopulationBasedTraining):
    """Ray's population-based training over trials that a searcher proposed.

    Ray refuses every searcher, since one that learns would learn from settings that have changed; REFUSED leaves only
    the random one, which does not.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Takes a trial into the population."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)


SCHEDULERS: dict[str, Callable[[Sweep, int], TrialScheduler]] = {
    "none": lambda *_: AllTheWay(),
    "asha": lambda sweep, images: Asha(
        sweep.search.grace_epochs,
        sweep.search.reduction_factor,
        sweep.trial.most_epochs(images),
        planned_trials(sweep),
        images,
    ),
    "hyperband": lambda sweep, images: HyperBandScheduler(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        max_t=sweep.trial.most_epochs(images),
        reduction_factor=sweep.search.reduction_factor,
    ),
    "median": lambda sweep, _: Median(
        time_attr=EPOCH, metric=SCORE, mode="max", grace_period=sweep.search.grace_epochs, min_samples_required=3
    ),
    "pbt": lambda sweep, _: Population(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        perturbation_interval=sweep.search.grace_epochs,
        hyperparam_mutations=space.mutations(sweep.trial.axes()),
        custom_explore_fn=lambda config: space.within(config, sweep.trial.axes()),
        log_config=False,
    ),
}
"""Name -> Ray Tune's scheduler, in epochs, of a sweep with so many training images."""

PAUSING = ("asha", "hyperband", "pbt")
"""Schedulers that pause a trial or clone another, and so want a checkpoint of Ray's with every report."""

KEEPING = ("hyperband", "pbt")
"""Those of them for which the states of ended trials stay until the sweep's end."""

REFUSED: dict[tuple[str, str], str] = {
    ("grid", "pbt"): "pbt changes settings in the middle of a trial, so they would not stay on the grid; use random",
    ("optuna", "pbt"): "pbt changes the settings that optuna proposed, so it would learn from values that were not "
    "used; use random",
}
"""(algorithm, scheduler) -> why they don't go together."""


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

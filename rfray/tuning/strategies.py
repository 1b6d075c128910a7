"""A checked sweep -> its searcher (how settings are proposed) and its scheduler (how weak trials are stopped early)."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import MedianStoppingRule, TrialScheduler

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.checks import Axes, combinations, planned_trials, settings
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range, Trial
from rfray.store.records import EarlierTrial
from rfray.tuning.asha import Asha, JudgedEpoch

REPEATS_BEFORE_LISTING = 100
"""After this many proposals that are known already, what is left of a finite space is listed instead: a guess, as a
hundred draws cost milliseconds."""


def distribution(axis: list[Any] | Range) -> BaseDistribution:
    """What optuna draws an axis from; a choice is drawn by its position in the list, so that it may be of any type."""
    if isinstance(axis, list):
        return CategoricalDistribution(tuple(range(len(axis))))
    low, high = axis.bounds
    if axis.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=axis.kind == "log")


def params_of(trial: Trial, axes: Axes) -> dict[str, Any] | None:
    """Optuna's params for a trial's values on the axes (the inverse of `settings`); None where it is outside of one."""
    params: dict[str, Any] = {}
    for name, axis in axes.items():
        value = getattr(trial, name)
        if isinstance(axis, list):
            choices = [choice.get(trial.backbone, False) if isinstance(choice, dict) else choice for choice in axis]
            if value not in choices:
                return None
            params[name] = choices.index(value)
        elif axis.bounds[0] <= value <= axis.bounds[1]:
            params[name] = value
        else:
            return None
    return params


class Searcher:
    """Proposes settings, none of them twice, and none that was taken over from an earlier run.

    Drawn by one of optuna's samplers, until its draws bring nothing new; what is left then, or all of it where there is
    no sampler, is proposed in the order of the sweep file. `beginnings` are params for some of the axes to try first.
    """

    def __init__(
        self,
        make_sampler: Callable[..., BaseSampler] | None,
        sweep: Sweep,
        earlier: Sequence[EarlierTrial] = (),
        beginnings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = make_sampler(seed=sweep.seed) if make_sampler else None
        self._axes = sweep.trial.axes()
        self._distributions = {name: distribution(axis) for name, axis in self._axes.items()}
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._proposed: list[tuple[str, int | None]] = []  # digest of the trial, number in the study
        self._known: dict[str, tuple[float | None, int | None]] = {}  # digest -> score and epoch, as `tell` has them
        self._running: dict[int, optuna.Trial] = {}  # number in the study -> a trial that optuna knows no end of
        self._changed: dict[int, FrozenTrial] = {}  # number in the study -> a trial that went on after its end there
        self._sweep: Sweep = sweep
        self._listed: Iterator[dict[str, int]] = combinations(sweep)
        for one in earlier:
            params = params_of(one.trial, self._axes)  # None where its backbone was left out since
            if one.use == "setting" and params is not None:
                self._study.enqueue_trial(params)
            elif params is not None:
                fixed = optuna.trial.create_trial(params=params, distributions=self._distributions, value=one.score)
                self._study.add_trial(fixed)
                if one.use == "taken over":
                    self._known[one.trial.digest] = one.score, None
        for point in beginnings:
            self._study.enqueue_trial(dict(point))
        # the same seed draws all that a random search has drawn before
        self._patience = REPEATS_BEFORE_LISTING + len(self._known) if sampler else 0

    def ask(self, again: Trial | None = None) -> dict[str, Any] | None:
        """Values for the axes; None where there is nothing left to propose.

        `again` is what was proposed here in an earlier start. It is taken in also where it would not be proposed now:
        a grid may have had fewer values then, and a budget no time for the probes by which backbones are chosen.
        """
        if self._changed:
            # optuna takes the end of a trial once: a new study has the others as they were, and those as they are now
            trials = [self._changed.get(one.number, one) for one in self._study.get_trials(deepcopy=False)]
            self._study = optuna.create_study(direction="maximize", sampler=self._study.sampler)
            self._study.add_trials(trials)
            self._running, self._changed = {}, {}
        for drawn in self._draws() if again is None or self._patience else ():
            values = settings(drawn.params, self._axes)
            key = self._sweep.trial.trial(values).digest
            if key in self._known:
                self._finish(drawn.number, *self._known[key])
            elif again is None or key == again.digest:
                return self._take(key, drawn.number, values)
            else:
                self._finish(drawn.number, None, None)
                self._listed = chain([drawn.params], self._listed)
                break
        if again is None:
            return None
        if (params := params_of(again, self._axes)) is None:
            return self._take(again.digest, None, {})
        if not self._patience:
            return self._take(again.digest, self._ask_for(params).number, settings(params, self._axes))
        # not by `enqueue_trial`, as others may be enqueued before it
        running = optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        self._study.add_trial(running)
        place = len(self._study.get_trials(deepcopy=False)) - 1
        return self._take(again.digest, place, settings(params, self._axes))

    def _take(self, key: str, place: int | None, values: dict[str, Any]) -> dict[str, Any]:
        """Takes a trial with this digest as the next proposal; optuna knows it by its `place`, if the axes have it."""
        self._proposed.append((key, place))
        self._known.setdefault(key, (None, None))
        return values

    def tell(self, number: int, score: float | None, epoch: int | None = None) -> None:
        """Takes in how the `number`-th proposal (from 0) did; again once it has trained further.

        Args:
            number: Position among the proposals.
            score: Its best val metric so far, None where it failed.
            epoch: The epoch (from 1) that it has come to, if it waits there or was cut there; optuna calls that pruned,
                and ranks such trials by how far they came, then by score. None for a trial that has come to its end.
        """
        key, place = self._proposed[number]
        before = self._known[key]
        if before[0] is None or (score is not None and before != (score, epoch)):  # who fails later keeps its score
            self._known[key] = score, None if score is None else epoch
            if place is not None:
                self._finish(place, *self._known[key])

    def _draws(self) -> Iterator[optuna.Trial]:
        for _ in range(self._patience):
            yield self._ask_for({})
        for params in self._listed:
            if self._sweep.trial.trial(settings(params, self._axes)).digest not in self._known:
                yield self._ask_for(params)

    def _ask_for(self, params: Mapping[str, Any]) -> optuna.Trial:
        """Optuna's next trial, with these params."""
        if params:
            self._study.enqueue_trial(dict(params))
        drawn = self._study.ask(self._distributions)
        self._running[drawn.number] = drawn
        return drawn

    def _finish(self, place: int, score: float | None, epoch: int | None) -> None:
        """Tells optuna the end of its trial with this number, now or, if it has one already, before the next draw."""
        state = TrialState.FAIL if score is None else TrialState.COMPLETE if epoch is None else TrialState.PRUNED
        if (drawn := self._running.pop(place, None)) is None:
            self._changed[place] = optuna.trial.create_trial(
                state=state,
                value=score,
                params=self._study.get_trials(deepcopy=False)[place].params,
                distributions=self._distributions,
                intermediate_values={} if score is None or epoch is None else {epoch: score},
            )
        elif score is not None and epoch is not None:
            drawn.report(score, epoch)
            self._study.tell(drawn, state=state)
        else:
            self._study.tell(drawn, score, state)


SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "grid": partial(Searcher, None),
    "random": partial(Searcher, RandomSampler),
    "optuna": partial(Searcher, partial(TPESampler, multivariate=True, constant_liar=True)),
}
"""Name -> searcher of a sweep; `optuna` is its tree-structured Parzen estimator."""

LEARNING = ("optuna",)
"""Searchers that learn from the scores of other trials."""

_Named = namedtuple("_Named", "trial_id")
"""For Ray's rule: a trial by the name that it has in every start of the sweep, not by Ray's own id."""


class Median(Asha):
    """Stops trials by Ray's median rule."""

    def __init__(self, grace: int, least: int = 3, rotations: int = 1) -> None:
        """No trial is stopped before `grace` epochs, nor by the median of fewer than `least` others; see `Asha`."""
        super().__init__(grace, factor=2, longest=0, planned=None, training_images=0, rotations=rotations)
        self._rules = [
            MedianStoppingRule(EPOCH, SCORE, "max", grace_period=grace, min_samples_required=least)
            for _ in range(rotations)
        ]
        self._decided: dict[str, tuple[int, str]] = {}

    def recall(self, epochs: Iterable[JudgedEpoch], ended: set[str]) -> None:
        """Takes in the epochs of earlier starts, in order, and which trials have ended.

        A trial that it stops on the way reports that epoch again, and is stopped then.
        """
        no_controller = SimpleNamespace(get_live_trials=list)  # no trial is live then
        last: dict[str, dict[str, Any]] = {}
        for one in epochs:
            if self._decided.get(one.name, (0, ""))[1] != TrialScheduler.STOP:
                last[one.name] = {EPOCH: one.epoch, SCORE: one.score or 0.0}
                self.on_trial_result(no_controller, one.name, last[one.name])
        for name in last.keys() & ended:
            self.on_trial_complete(no_controller, name, last[name])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether a trial continues; for an epoch that is reported again the decision stays."""
        name, epoch = str(trial), result.get(EPOCH, 0)
        last, decision = self._decided.get(name, (0, ""))
        if epoch > last:
            decision = str(self._rule_of(name).on_trial_result(tune_controller, _Named(name), result))
            self._decided[name] = epoch, decision
        return decision if epoch >= last else str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended; one that failed before its first epoch is no rival of the others."""
        super().on_trial_complete(tune_controller, trial, result)
        if EPOCH in result:
            self._rule_of(str(trial)).on_trial_complete(tune_controller, _Named(str(trial)), result)

    def _rule_of(self, name: str) -> MedianStoppingRule:
        return self._rules[self._bracket(name) if len(self._rules) > 1 else 0]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first that has not begun, else the first of those that wait until there is a median."""
        waiting = [one for one in tune_controller.get_live_trials() if one.status in ("PENDING", "PAUSED")]
        return min(waiting, key=lambda one: (one.status == "PAUSED", str(one)), default=None)


SCHEDULERS: dict[str, Callable[..., Asha]] = {
    "none": lambda *_: Asha(grace=1, factor=2, longest=0, planned=None, training_images=0),
    "asha": lambda sweep, images, rotations=1: Asha(
        sweep.search.grace_epochs,
        sweep.search.reduction_factor,
        sweep.trial.most_epochs(images),
        planned_trials(sweep),
        images,
        sweep.search.brackets,
        rotations,
    ),
    "median": lambda sweep, _, rotations=1: Median(sweep.search.grace_epochs, rotations=rotations),
}
"""Name -> Ray Tune's scheduler, in epochs, of a sweep with so many training images, and rotations of what is judged."""

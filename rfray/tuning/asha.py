"""a trial's epochs -> whether it goes on, pauses or ends: asynchronous successive halving by promotion, for Ray Tune.

Algorithm 2 of Li et al. 2020, "A system for massively parallel hyperparameter tuning". Ray's own ASHAScheduler stops
trials: the first ones meet no rivals at their rungs and pass, however weak they are. Here every trial pauses at a rung,
and a free slot goes to the best of those that have waited long enough to have rivals.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.trial import epochs_of


class Asha(TrialScheduler):
    """Pauses a trial at each rung, and has it go on once it is among the best 1 in `factor` that have reached it.

    It remembers trials by the names that they have in every start of the sweep, so that a new one can be told of the
    past (`recall`); a trial's score at a rung is its best until then, as that is what its weights are kept for. Ties go
    to the trial that was proposed first.
    """

    def __init__(self, grace: int, factor: int, longest: int, planned: int | None, training_images: int) -> None:
        """Rungs are at `grace` * `factor` ** k epochs, below `longest`; `planned` is how many trials there will be."""
        super().__init__()
        self._training_images = training_images
        self._factor = factor
        self._planned = planned
        self.rungs: list[int] = []
        while grace < longest:
            self.rungs.append(grace)
            grace *= factor
        self._reached: list[dict[str, float]] = [{} for _ in self.rungs]
        self._gone_on: list[set[str]] = [set() for _ in self.rungs]
        self._order: list[list[str]] = [[] for _ in self.rungs]
        self._has_news = False
        self._over: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._paused: set[str] = set()
        self.running: set[str] = set()
        """Trials that have a slot, or wait for one alone."""
        self.at_once: int | None = None
        self.more_to_come: Callable[[], bool] = lambda: True
        """Whether there may be another new trial."""
        self.has_time: Callable[[str], bool] = lambda name: True
        """Whether there is time for another epoch of a trial."""
        self.fills = False
        """Whether, once no new trial is to come, slots that would be empty go to the best of those that wait."""
        self.on_pause: list[Callable[[str], None]] = []
        """Told of each trial that pauses."""

    def recall(self, name: str, scores: Sequence[float], is_over: bool) -> None:
        """Takes in a trial of earlier starts: its scores after each epoch, and whether it has ended."""
        for epoch, score in enumerate(scores, start=1):
            self._learn(name, epoch, score)
        for rung, gone_on in zip(self.rungs, self._gone_on, strict=True):
            if rung < len(scores):
                gone_on.add(name)
        if is_over:
            self._over.add(name)

    def waits(self, name: str) -> bool:
        """Whether a trial is at a rung that it may not yet go on from."""
        epochs = self._epochs.get(name)
        return epochs in self.rungs and name not in self._gone_on[self.rungs.index(epochs)]

    def next(self) -> str | None:
        """The trial that waits and may go on: of the highest rung that has any, the best one.

        Of those that `fills` lets go on, one of the lowest rung: several that are half trained make a better vote.
        """
        more = self.more_to_come()
        for rung in reversed(range(len(self.rungs))):
            most = len(self._order[rung]) // self._factor
            # or the best of few trials would never be trained to its end
            if (name := self._first_waiting(rung, most if more else max(most, 1))) is not None:
                return name
        if more or not self.fills:
            return None
        waiting = (self._first_waiting(rung, len(self._order[rung])) for rung in range(len(self.rungs)))
        return next((name for name in waiting if name is not None), None)

    @property
    def has_waiting(self) -> bool:
        """Whether any trial waits at a rung."""
        return any(self.waits(name) for name in self._epochs.keys() - self._over - self.running)

    @property
    def to_compare(self) -> int:
        """Epochs up to the second rung: a new trial that can't get there can only be passed over."""
        return self.rungs[1] if len(self.rungs) > 1 else 1

    def _first_waiting(self, rung: int, most: int) -> str | None:
        for name in self._order[rung][:most]:
            if name not in self._gone_on[rung] | self._over | self.running and self.has_time(name):
                return name
        return None

    def begin(self, name: str) -> None:
        """A trial gets a slot: a new one, or one that may go on."""
        self.running.add(name)
        self._paused.discard(name)
        if self.waits(name):
            self._gone_on[self.rungs.index(self._epochs[name])].add(name)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial will run, or run again where its process has died."""
        self.running.add(str(trial))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process has died; Ray starts it again."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on, pauses, or ends as nothing could make it go on any more."""
        name, epoch = str(trial), int(result.get(EPOCH, 0))
        self._learn(name, epoch, result.get(SCORE, 0.0))
        if epoch not in self.rungs or epoch >= epochs_of(trial.config, self._training_images):
            return str(TrialScheduler.CONTINUE)
        rung = self.rungs.index(epoch)
        if name in self._gone_on[rung]:  # it says again where it goes on from
            return str(TrialScheduler.CONTINUE)
        self.running.discard(name)
        if self.next() == name:  # it would get the slot that it leaves
            self.begin(name)
            return str(TrialScheduler.CONTINUE)
        if self._is_out(name):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended, well or not; it keeps its place among its rivals."""
        self.running.discard(str(trial))
        self._over.add(str(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A paused trial has ended."""
        self.on_trial_complete(tune_controller, trial, {})

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A trial that has not begun, else a paused one that may go on; ends those that never will."""
        live = tune_controller.get_live_trials()
        if pending := [trial for trial in live if trial.status == Trial.PENDING]:
            return min(pending, key=str)
        paused = {str(trial): trial for trial in sorted(live, key=str) if trial.status == Trial.PAUSED}
        for newly in paused.keys() - self._paused:
            for told in self.on_pause:  # here, as whoever follows the sweep has heard of its epoch by now
                told(newly)
        self._paused |= paused.keys()
        name = self.next()
        all_is_over = name is None and not self.running and not self.more_to_come()
        if all_is_over or self._has_news:
            for other in paused:
                if all_is_over or self._is_out(other):
                    tune_controller.stop_trial(paused[other])
            self._has_news = False
        if name not in paused or (self.at_once is not None and len(self.running) >= self.at_once):
            return None
        self.begin(name)
        return paused[name]

    def debug_string(self) -> str:
        """What Ray would print."""
        return f"asha: {[len(reached) for reached in self._reached]} trials at epochs {self.rungs}"

    def _learn(self, name: str, epoch: int, score: float) -> None:
        """Takes in an epoch; what a trial that was started again says anew is known already."""
        if epoch <= self._epochs.get(name, 0):
            return
        self._epochs[name] = epoch
        self._best[name] = max(score, self._best.get(name, 0.0))
        if epoch in self.rungs:
            rung = self.rungs.index(epoch)
            reached = self._reached[rung]
            reached[name] = self._best[name]
            self._order[rung] = sorted(reached, key=lambda one: (-reached[one], one))
            self._has_news = True

    def _is_out(self, name: str) -> bool:
        """Whether a waiting trial has so many better ones before it that no trial to come could make it go on."""
        if self._planned is None or not self.waits(name):
            return False
        rung = self.rungs.index(self._epochs[name])
        most = self._planned
        for _ in range(rung + 1):
            most = max(most // self._factor, 1)
        return self._order[rung].index(name) >= most

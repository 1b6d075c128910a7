"""The epochs of a trial -> whether it continues, pauses or stops: asynchronous successive halving by promotion.

Algorithm 2 of Li et al. 2020, "A system for massively parallel hyperparameter tuning". Ray's own ASHAScheduler stops
trials: the first ones meet no rivals at their rungs and pass, however weak they are. Here they wait for rivals.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from math import ceil, inf
from typing import Any, Literal, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.trial import epochs_of


class JudgedEpoch(NamedTuple):
    """One epoch (from 1) of the trial `name`: the val metric after it, None where that is undefined, and the best."""

    name: str
    epoch: int
    score: float | None
    best: float | None


@dataclass
class Rung:
    """A number of epochs at which the trials of one bracket are compared: its rung number `level`, from 0."""

    bracket: int
    level: int
    ranked: list[tuple[float, str]] = field(default_factory=list)
    """(-best score, name) of the trials when they reached the rung: best first, among equals the first proposed."""
    promoted: set[str] = field(default_factory=set)
    """Those that may train beyond the rung."""


class Asha(FIFOScheduler):
    """Pauses a trial at each rung, and lets it continue once it is among the best 1 in `factor` that have reached it.

    It knows trials by the names that they have in every start of the sweep, so that a new one can learn the past
    (`recall`). A trial's score at a rung is its best until then, as its best weights are kept. Without rungs
    (`longest` = 0) no trial ever waits or stops.

    With several brackets this is the asynchronous Hyperband of the same paper: bracket s has its first rung at
    `grace` * `factor` ** s epochs, so that not every setting which starts slowly is passed over after `grace` epochs.
    Trials are divided among the brackets by their number alone, in the proportions of Hyperband (Li et al. 2018).
    """

    def __init__(
        self,
        grace: int,
        factor: int,
        longest: int,
        planned: int | None,
        training_images: int,
        brackets: int = 1,
        rotations: int = 1,
    ) -> None:
        """Rungs are below `longest` epochs; `planned` is how many trials there will be, where that is known.

        Of every `rotations` trials each is judged on other sources: only those of the same ones are rivals.
        """
        super().__init__()
        self._training_images, self._factor = training_images, factor
        self._brackets, self._rotations = brackets, rotations
        self._rungs: dict[tuple[int, int], Rung] = {}  # (epochs, bracket) -> rung, fewest epochs first
        for power in range(longest.bit_length()):  # `factor` is at least 2
            for bracket, rotation in product(range(min(brackets, power + 1)), range(rotations)):
                if (epochs := grace * factor**power) < longest:
                    place = rotation * brackets + bracket
                    self._rungs[epochs, place] = Rung(place, power - bracket)
        self._turns = bracket_turns(brackets, factor)
        self._planned = None if planned is None else [self._bracket(number) for number in range(planned)]
        self._new_scores = False
        self._ended: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._paused: set[str] = set()
        self.running: set[str] = set()
        """Trials that have a slot, or wait for nothing but one."""
        self.at_once = inf
        self.more_to_come: Callable[[], bool] = lambda: True
        """Whether there may be another new trial."""
        self.has_time: Callable[[str], bool] = lambda name: True
        """Whether there is time for another epoch of a trial."""
        self.fills = False
        """Whether, once no new trial is to come, slots that would be empty go to the best of those that wait."""
        self.on_pause: list[Callable[[str], None]] = []
        """Called with the name of each trial that pauses."""

    def recall(self, epochs: Iterable[JudgedEpoch], ended: set[str]) -> None:
        """Takes in the epochs of earlier starts, in order, and which trials have ended."""
        for one in epochs:
            self._learn(one.name, one.epoch, one.score or 0.0)
        for (rung_epochs, bracket), rung in self._rungs.items():
            rung.promoted |= {
                name for name, done in self._epochs.items() if bracket == self._bracket(name) and rung_epochs < done
            }
        self._ended |= ended

    def waits_at(self, name: str) -> Rung | None:
        """The rung that a trial is at and may not yet train beyond, if any."""
        rung = self._rungs.get((self._epochs.get(name, 0), self._bracket(name)))
        return None if rung is None or name in rung.promoted else rung

    def next(self) -> str | None:
        """The trial that waits and may continue: of the highest rung that has any, the best one.

        Of those that `fills` lets continue, one of the lowest rung: several that are half trained make a better vote.
        """
        more = self.more_to_come()
        # or the best of few trials would never be trained to its end
        least = 0 if more else 1
        candidates = [(rung, max(len(rung.ranked) // self._factor, least)) for rung in self._by_epochs(-1)]
        if self.fills and not more:
            candidates += [(rung, len(rung.ranked)) for rung in self._by_epochs(1)]
        for rung, most in candidates:
            for _, name in rung.ranked[:most]:
                if name not in rung.promoted | self._ended | self.running and self.has_time(name):
                    return name
        return None

    def _by_epochs(self, order: Literal[1, -1]) -> list[Rung]:
        """All rungs, those of the fewest (1) or the most (-1) epochs first; rotations take turns."""
        turns = self._rotations > 1
        rungs = [*self._rungs.items()][::order]
        return [rung for _, rung in sorted(rungs, key=lambda one: (order * one[0][0], turns * len(one[1].promoted)))]

    @property
    def rungs(self) -> list[int]:
        """The epochs at which trials of the first bracket pause."""
        return [epochs for epochs, bracket in self._rungs if bracket == 0]

    @property
    def epochs_worthwhile(self) -> int:
        """The fewest epochs that a new trial is worth beginning for: the second rung, where any other trial waits.

        What time is left is worth more to those than to one that can only be passed over.
        """
        waiting = any(self.waits_at(name) for name in self._epochs.keys() - self._ended - self.running)
        return self.rungs[1] if waiting and len(self.rungs) > 1 else 1

    def begin(self, name: str) -> None:
        """A trial gets a slot: a new one, or one that may continue."""
        self.running.add(name)
        self._paused.discard(name)
        if (rung := self.waits_at(name)) is not None:
            rung.promoted.add(name)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial will run, or run again where its process has died."""
        self.running.add(str(trial))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process has died, or could not start; if Ray starts it again, it says so by `on_trial_add`."""
        self.running.discard(str(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial continues, pauses, or stops as nothing could let it continue any more."""
        name, epoch = str(trial), int(result.get(EPOCH, 0))
        self._learn(name, epoch, result.get(SCORE, 0.0))
        rung = self._rungs.get((epoch, self._bracket(name)))
        # one that was promoted reports again the epoch that it continues from
        if rung is None or name in rung.promoted or epoch >= epochs_of(trial.config, self._training_images):
            return str(TrialScheduler.CONTINUE)
        self.running.discard(name)
        if self.next() == name:  # it would get the slot that it leaves
            self.begin(name)
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP if self._is_out(name) else TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended, well or not; it keeps its place among its rivals."""
        self.running.discard(str(trial))
        self._ended.add(str(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A paused trial has ended."""
        self.on_trial_complete(tune_controller, trial, {})

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A trial that has not begun, else a paused one that may continue; stops those that never will."""
        live = tune_controller.get_live_trials()
        if pending := [trial for trial in live if trial.status == Trial.PENDING]:
            return min(pending, key=str)
        paused = {str(trial): trial for trial in sorted(live, key=str) if trial.status == Trial.PAUSED}
        for newly in paused.keys() - self._paused:
            for call in self.on_pause:  # here, as the callbacks have had its last epoch by now
                call(newly)
        self._paused |= paused.keys()
        name = self.next()
        all_is_over = name is None and not self.running and not self.more_to_come()
        if all_is_over or self._new_scores:
            for other in paused:
                if all_is_over or self._is_out(other):
                    tune_controller.stop_trial(paused[other])
            self._new_scores = False
        if name not in paused or len(self.running) >= self.at_once:
            return None
        self.begin(name)
        return paused[name]

    def _bracket(self, trial: str | int) -> int:
        """The bracket of a trial, by its name (which begins with its number) or its number; one for each rotation."""
        turn, rotation = divmod(int(str(trial).split("-")[0]), self._rotations)
        return rotation * self._brackets + self._turns[turn % len(self._turns)]

    def _learn(self, name: str, epoch: int, score: float) -> None:
        """Takes in an epoch; what a trial that was started again reports again is known already."""
        if epoch <= self._epochs.get(name, 0):
            return
        self._epochs[name] = epoch
        self._best[name] = max(score, self._best.get(name, 0.0))
        if (rung := self._rungs.get((epoch, self._bracket(name)))) is not None:
            insort(rung.ranked, (-self._best[name], name))
            self._new_scores = True

    def _is_out(self, name: str) -> bool:
        """Whether a waiting trial has so many better ones before it that no trial to come could let it continue."""
        rung = self.waits_at(name)
        if self._planned is None or rung is None:
            return False
        most: int = self._planned.count(rung.bracket) // self._factor ** (rung.level + 1)
        return rung.ranked.index((-self._best[name], name)) >= max(most, 1)


def bracket_turns(brackets: int, factor: int) -> list[int]:
    """The brackets of so many trials as there are in one run of Hyperband; the trials after them repeat it.

    Hyperband gives bracket s of n ceil(n / (n - s) * factor ** (n - 1 - s)) trials. They are interleaved: the next
    trial goes to the bracket that has got the smallest part of its share.
    """
    shares = [ceil(brackets / (brackets - s) * factor ** (brackets - 1 - s)) for s in range(brackets)]
    turns: list[int] = []
    for _ in range(sum(shares)):
        turns.append(min(range(brackets), key=lambda s: (turns.count(s) + 1) / shares[s]))
    return turns

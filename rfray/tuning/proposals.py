"""The run folder and a searcher -> the next trial that Ray Tune asks for.

The run folder alone holds the search. A proposal is a trial.json, a trial that has ended a result.json; a later start
replays both through a new searcher, so that it knows what the killed one knew, and runs the open trials first.
"""

from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.search import Searcher as RaySearcher

from rfray.errors import RunError
from rfray.progress.metric_keys import EPOCH
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.records import TrialResult, TrialStart, WarmStart, write_record
from rfray.store.run_dir import RunDir, trial_id
from rfray.tuning.asha import Asha
from rfray.tuning.budget import Meter
from rfray.tuning.probe_ranking import points_to_evaluate
from rfray.tuning.recorder import results
from rfray.tuning.strategies import SEARCHERS

COLD = WarmStart()


class RunDirSearcher(RaySearcher):
    """A searcher of Ray Tune that keeps nothing in Ray's snapshot, as the run folder has all of it."""

    def __init__(self, run: RunDir, at_once: int, meter: Meter | None) -> None:
        """At most `at_once` trials have a slot at the same time; none begins that `meter` has no time for."""
        super().__init__(metric="score", mode="max")
        self._run = run
        self._at_once = at_once
        self._meter = meter
        self._live: set[str] = set()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for another trial; what its result is arrives elsewhere."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Writes an empty file: Ray moves it, so there must be one."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __reduce__(self) -> tuple[type[RaySearcher], tuple[()]]:
        """Pickles, for Ray's snapshot, as a searcher that knows nothing."""
        return RaySearcher, ()


class Proposals(RunDirSearcher):
    """Gives Ray Tune its trials: the open ones of the run folder first, then new ones of the searcher."""

    def __init__(
        self,
        run: RunDir,
        sweep: Sweep,
        planned: int | None,
        at_once: int,
        warm: WarmStart = COLD,
        asha: Asha | None = None,
        meter: Meter | None = None,
    ) -> None:
        """At most `planned` trials, if that is known; `asha` decides who continues, if used.

        Raises RunError where the run folder lacks a trial that can't be worked out again.
        """
        super().__init__(run, at_once, meter)
        self._sweep = sweep
        self._planned = planned
        self._asha = asha
        self._taken_over = [one.trial for one in warm.taken_over]
        self._searcher = SEARCHERS[sweep.search.algorithm](sweep, warm.trials, points_to_evaluate(run, sweep))
        self._results = results(run)
        self._starts: list[TrialStart] = []
        self._no_more = False  # the searcher has no other setting, or there is no time for one
        self._epochs: dict[str, int] = {}  # trial -> how many the searcher knows of
        self._replay()
        ended = {result.id for result in self._results}
        self._open = [start for start in self._starts if start.id not in ended]
        if asha is not None:
            asha.at_once, asha.more_to_come, asha.has_time = at_once, self.more_to_come, self._has_time_for
            asha.fills = meter is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next trial; None while enough are running; FINISHED after the last."""
        if len(self._asha.running if self._asha else self._live) >= self._at_once:
            return None
        start = self._next_open()
        if start is None:
            if self._asha is not None and self._asha.next() is not None:
                return None  # one that Ray has, paused
            start = self._new()
        if start is None:
            others = self._asha is not None and (self._asha.running or self._asha.next() is not None)
            return None if others else str(RaySearcher.FINISHED)
        self._live.add(trial_id)
        if self._asha is not None:
            self._asha.begin(start.id)
        return {"id": start.id, **start.trial.model_dump()}

    def more_to_come(self) -> bool:
        """Whether there may be another new trial."""
        return not self._no_more and (self._planned is None or len(self._starts) < self._planned)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Lets the searcher learn from a trial that may stay paused for long."""
        if self._asha is not None:
            self._learn_epoch(result["config/id"], result[EPOCH], result["best_score"])

    def ended(self, result: TrialResult) -> None:
        """Lets the searcher learn from a result that is on disk."""
        self._results.append(result)
        self._epochs[result.id] = result.epochs
        self._learn(result.id, result.score)

    def _next_open(self) -> TrialStart | None:
        """A trial that an earlier start has left open: one that was running, else one that may continue."""
        waiting = [start for start in self._open if self._asha is not None and self._asha.waits(start.id)]
        next_waiting = self._asha.next() if waiting and self._asha is not None else None
        cut_off = (one for one in self._open if one not in waiting and self._has_time_for(one.id))
        start = next(cut_off, next((one for one in waiting if one.id == next_waiting), None))
        if start is not None:
            self._open.remove(start)
        return start

    def _has_time_for(self, name: str) -> bool:
        return self._meter is None or self._meter.can_go_on(self._starts[_number(name)].trial)

    def _new(self) -> TrialStart | None:
        if not self.more_to_come():
            return None
        epochs = self._asha.epochs_worthwhile if self._asha is not None else 1
        if self._meter is not None and not self._meter.has_time_for_any(self._sweep, epochs):
            self._no_more = True
            return None
        number, epochs_known = len(self._starts), sum(self._epochs.values()) if self._asha is not None else 0
        trial = self._propose(number)
        if trial is None:
            self._no_more = True
            return None
        start = self._write_start(number, trial, len(self._results), epochs_known)
        self._starts.append(start)
        if self._meter is not None and not self._meter.has_time(start.trial, epochs=epochs):  # open, for more budget
            self._no_more = True
            return None
        return start

    def _replay(self) -> None:
        """Asks the searcher and lets it learn in the order in which that happened: its random numbers are the same.

        A damaged trial.json is written again from what the searcher proposes on the way.
        Raises RunError where that can't be.
        """
        outs = {_number(out.id): out for out in self._run.trials()}
        results_used = epochs_used = 0
        epochs = judged_epochs(self._run, self._sweep.search.metric) if self._asha is not None else []
        damaged = RunError(f"a trial is missing in {self._run.trials_folder}")
        for number in range(max(max(outs, default=-1) + 1, len(self._taken_over))):
            out, start = outs.get(number), None
            try:
                start = out.start() if out is not None else None
            except RunError as error:
                damaged = error
            if start is not None:
                self._learn_epochs(epochs[epochs_used : start.epochs_known])
                epochs_used = max(epochs_used, min(start.epochs_known, len(epochs)))
                self._learn_results(self._results[results_used : start.results_known])
                results_used = max(results_used, min(start.results_known, len(self._results)))
            trial = self._propose(number)
            if start is None:
                if trial is None or (out is not None and trial_id(number, trial) != out.id):
                    raise RunError(f"{damaged}, and can't be worked out again; start anew with --fresh")
                start = self._write_start(number, trial, results_used, epochs_used)
            self._starts.append(start)
        self._learn_epochs(epochs[epochs_used:])
        self._learn_results(self._results[results_used:])

    def _propose(self, number: int) -> Trial | None:
        """The trial with this number: taken over, or what the searcher proposes next."""
        if number < len(self._taken_over):
            return self._taken_over[number]
        values = self._searcher.ask()
        return None if values is None else self._sweep.trial.trial(values)

    def _write_start(self, number: int, trial: Trial, results_known: int, epochs_known: int) -> TrialStart:
        name = trial_id(number, trial)
        start = TrialStart(id=name, number=number, results_known=results_known, epochs_known=epochs_known, trial=trial)
        out = self._run.trial(name)
        write_record(out.start_file, start, out.mirror)
        return start

    def _learn_epochs(self, epochs: "list[JudgedEpoch]") -> None:
        for one in epochs:
            self._learn_epoch(one.name, one.epoch, one.best)

    def _learn_epoch(self, name: str, epoch: int, best: float | None) -> None:
        if epoch > self._epochs.get(name, 0):
            self._epochs[name] = epoch
            if best is not None:
                self._learn(name, best)

    def _learn_results(self, ended: list[TrialResult]) -> None:
        for result in ended:
            self._learn(result.id, result.score)

    def _learn(self, name: str, score: float | None) -> None:
        proposal = _number(name) - len(self._taken_over)
        if proposal >= 0:  # of those taken over it knows from the beginning
            self._searcher.tell(proposal, score)


class JudgedEpoch(NamedTuple):
    """One epoch of one trial."""

    ended: float
    """Seconds since 1970."""
    name: str
    epoch: int
    """From 1."""
    score: float | None
    """The val metric after it, in [0, 1]; None where it is undefined."""
    best: float | None
    """The best one until then."""


def judged_epochs(run: RunDir, metric: str) -> list[JudgedEpoch]:
    """All epochs of all trials, in the order in which they were judged."""
    found = []
    for out in run.trials():
        best: float | None = None
        for row in out.history().to_dict("records"):
            score = None if isnan(row[f"val_{metric}"]) else float(row[f"val_{metric}"])
            best = max((one for one in (score, best) if one is not None), default=None)
            found.append(JudgedEpoch(row["ended"], out.id, int(row["epoch"]), score, best))
    return sorted(found, key=lambda one: one[:3])


def _number(name: str) -> int:
    return int(name.split("-")[0])

"""the run folder + a searcher -> the next trial that Ray Tune asks for.

The run folder is the truth. What was proposed is a trial.json, what ended a result.json; a later start retraces both
through a new searcher, so that it knows what the killed one knew, and hands the open trials out first.
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
from rfray.tuning.probing import beginnings
from rfray.tuning.recorder import results
from rfray.tuning.strategies import SEARCHERS

COLD = WarmStart()


class OfRunFolder(RaySearcher):
    """What Ray Tune asks for trials where the run folder, not Ray's snapshot, holds all that there is to know."""

    def __init__(self) -> None:
        super().__init__(metric="score", mode="max")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds it all. Ray moves the file, so there must be one."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __reduce__(self) -> tuple[type[RaySearcher], tuple[()]]:
        """Pickles, for Ray's snapshot, as a searcher that knows nothing."""
        return RaySearcher, ()


class Proposals(OfRunFolder):
    """Ray Tune's way to ask for trials: the open ones of the run folder first, then new ones of the searcher."""

    def __init__(
        self,
        run: RunDir,
        sweep: Sweep,
        planned: int | None,
        at_once: int | None,
        warm: WarmStart = COLD,
        asha: Asha | None = None,
        meter: Meter | None = None,
    ) -> None:
        """At most `planned` trials, if that is known, and `at_once` with a slot; `asha` says who goes on, if used."""
        super().__init__()
        self._run = run
        self._sweep = sweep
        self._planned = planned
        self._at_once = at_once
        self._asha = asha
        self._meter = meter
        self._live: set[str] = set()
        self._taken_over = [one.trial for one in warm.taken_over]
        self._searcher = SEARCHERS[sweep.search.algorithm](sweep, warm.trials, beginnings(run, sweep))
        self._results = results(run)
        self._starts: list[TrialStart] = []
        self._no_more = False  # the searcher has no other setting, or there is no time for one
        self._epochs: dict[str, int] = {}  # trial -> how many the searcher knows of
        self._retrace()
        ended = {result.id for result in self._results}
        self._open = [start for start in self._starts if start.id not in ended]
        if asha is not None:
            asha.at_once, asha.more_to_come, asha.has_time = at_once, self.more_to_come, self._has_time_for
            asha.fills = meter is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next trial; None while enough are running; FINISHED after the last."""
        if self._at_once is not None and len(self._asha.running if self._asha else self._live) >= self._at_once:
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
            self._judged(result["config/id"], result[EPOCH], result["best_score"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for another trial; what it came to arrives through `ended`."""
        self._live.discard(trial_id)

    def ended(self, result: TrialResult) -> None:
        """Lets the searcher learn from a result that is on disk."""
        self._results.append(result)
        self._epochs[result.id] = result.epochs
        self._tell(result.id, result.score)

    def _next_open(self) -> TrialStart | None:
        """A trial that an earlier start has left open: one that was in the middle, else one that may go on."""
        waiting = [start for start in self._open if self._asha is not None and self._asha.waits(start.id)]
        may_go_on = self._asha.next() if waiting and self._asha is not None else None
        in_the_middle = (one for one in self._open if one not in waiting and self._has_time_for(one.id))
        start = next(in_the_middle, next((one for one in waiting if one.id == may_go_on), None))
        if start is not None:
            self._open.remove(start)
        return start

    def _has_time_for(self, name: str) -> bool:
        trial = self._starts[int(name.split("-")[0])].trial
        return self._meter is None or self._meter.can_go_on(trial)

    def _new(self) -> TrialStart | None:
        if not self.more_to_come():
            return None
        # where others wait, what time is left is worth more to them than to one that could not catch up with them
        epochs = self._asha.to_compare if self._asha is not None and self._asha.has_waiting else 1
        if self._meter is not None and not self._meter.has_time_for_any(self._sweep, epochs):
            self._no_more = True
            return None
        judged = sum(self._epochs.values()) if self._asha is not None else 0
        start = self._proposed(len(self._starts), self._next(len(self._starts)), len(self._results), judged)
        if start is None:
            self._no_more = True
            return None
        out = self._run.trial(start.id)
        write_record(out.start_file, start, out.mirror)
        self._starts.append(start)
        if self._meter is not None and not self._meter.has_time(start.trial, epochs=epochs):  # open, for more budget
            self._no_more = True
            return None
        return start

    def _retrace(self) -> None:
        """Asks and tells in the order in which it happened: the searcher's random numbers go on where they were.

        What the searcher proposes on the way makes a damaged trial.json whole again.
        Raises RunError where it can't.
        """
        folders = {int(out.id.split("-")[0]): out for out in self._run.trials()}
        told = heard = 0
        epochs = judged_epochs(self._run) if self._asha is not None else []
        damaged = RunError(f"a trial is missing in {self._run.trials_folder}")
        for number in range(max(max(folders, default=-1) + 1, len(self._taken_over))):
            out = folders.get(number)
            try:
                start = out.start() if out is not None else None
            except RunError as error:
                start = None
                damaged = error
            if start is not None:
                for one in epochs[heard : start.epochs_known]:
                    self._judged(one.name, one.epoch, one.best)
                heard = max(heard, min(start.epochs_known, len(epochs)))
                known = min(start.results_known, len(self._results))
                for result in self._results[told:known]:
                    self._tell(result.id, result.score)
                told = max(told, known)
            trial = self._next(number)
            if start is None:
                start = self._proposed(number, trial, told, heard)
                if start is None or (out is not None and start.id != out.id):
                    raise RunError(f"{damaged}, and can't be worked out again; start anew with --fresh")
                out = self._run.trial(start.id)
                write_record(out.start_file, start, out.mirror)
            self._starts.append(start)
        for one in epochs[heard:]:
            self._judged(one.name, one.epoch, one.best)
        for result in self._results[told:]:
            self._tell(result.id, result.score)

    def _next(self, number: int) -> Trial | None:
        """The trial with this number: taken over, or what the searcher proposes next."""
        if number < len(self._taken_over):
            return self._taken_over[number]
        values = self._searcher.ask()
        return None if values is None else self._sweep.trial.trial(values)

    def _proposed(self, number: int, trial: Trial | None, results_known: int, epochs_known: int) -> TrialStart | None:
        if trial is None:
            return None
        return TrialStart(
            id=trial_id(number, trial),
            number=number,
            results_known=results_known,
            epochs_known=epochs_known,
            trial=trial,
        )

    def _judged(self, name: str, epoch: int, best: float | None) -> None:
        if epoch > self._epochs.get(name, 0):
            self._epochs[name] = epoch
            if best is not None:
                self._tell(name, best)

    def _tell(self, name: str, score: float | None) -> None:
        proposal = int(name.split("-")[0]) - len(self._taken_over)
        if proposal >= 0:  # of those taken over it knows from the beginning
            self._searcher.tell(proposal, score)


class JudgedEpoch(NamedTuple):
    """One epoch of one trial."""

    ended: float
    name: str
    epoch: int
    score: float | None
    best: float | None


def judged_epochs(run: RunDir) -> list[JudgedEpoch]:
    """All epochs of all trials, in the order in which they were judged."""
    found = []
    for out in run.trials():
        best: float | None = None
        for _, row in out.history().iterrows():
            score = None if isnan(row.iloc[-1]) else float(row.iloc[-1])
            best = max((one for one in (score, best) if one is not None), default=None)
            found.append(JudgedEpoch(row["ended"], out.id, int(row["epoch"]), score, best))
    return sorted(found, key=lambda one: one[:3])

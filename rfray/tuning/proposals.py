"""The run folder and a searcher -> the next trial that Ray Tune asks for; in the end the best ones again.

The run folder alone holds the search. A proposal is a trial.json, a trial that has ended a result.json; a later start
replays both through a new searcher, so that it knows what the killed one knew, and runs the open trials first.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from math import isnan
from typing import Any

from ray.tune.search import Searcher as RaySearcher

from rfray.data.rotations import fold_count
from rfray.errors import RunError
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.checks import planned_trials
from rfray.spec.sweep import Sweep
from rfray.spec.trial import SEEDS, Trial
from rfray.stats.predictions import predictions_metadata
from rfray.stats.unseen import rotation_effects
from rfray.store.records import Fold, TrialResult, TrialStart, WarmStart, write_record
from rfray.store.run_dir import RunDir, repeat_id, trial_id
from rfray.tuning.asha import Asha, JudgedEpoch
from rfray.tuning.budget import Meter
from rfray.tuning.probing import points_to_evaluate
from rfray.tuning.recorder import ranking, results, was_cut
from rfray.tuning.strategies import LEARNING, SCHEDULERS, SEARCHERS


class Listed(RaySearcher):
    """Gives Ray Tune trials one after the other. It keeps nothing in Ray's snapshot: the run folder has all of it."""

    def __init__(self, scheduler: Asha, at_once: int, starts: Iterator[TrialStart | None]) -> None:
        """At most `at_once` trials have a slot at the same time; where `starts` has None, the next comes later."""
        super().__init__(metric=SCORE, mode="max")
        self.scheduler, self._at_once, self._next = scheduler, at_once, starts

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next trial; None while there may be one later; FINISHED after the last."""
        if len(self.scheduler.running) >= self._at_once:
            return None
        start = next(self._next, str(RaySearcher.FINISHED))
        if not isinstance(start, TrialStart):
            return start
        self.scheduler.begin(start.id)
        return {"id": start.id, **start.trial.model_dump()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: what a trial has come to arrives elsewhere."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, see above."""

    def __reduce__(self) -> tuple[type[RaySearcher], tuple[()]]:
        """Pickles, for Ray's snapshot, as a searcher that knows nothing."""
        return RaySearcher, ()


class Proposals(Listed):
    """Gives Ray Tune its trials: the open ones of the run folder first, then new ones of the searcher."""

    def __init__(self, run: RunDir, sweep: Sweep, at_once: int, warm: WarmStart, meter: Meter | None) -> None:
        """The scheduler of the sweep learns the past too. No trial begins that `meter` has no time for.

        Raises RunError where the run folder lacks a trial that can't be worked out again.
        """
        self._images = run.training_images()
        self._rotations = fold_count(run, sweep) if sweep.judges_unseen else 1
        scheduler = SCHEDULERS[sweep.search.scheduler](sweep, self._images, self._rotations)
        super().__init__(scheduler, at_once, self._all())  # a generator: it starts with the first suggest
        self._run, self._sweep, self._meter = run, sweep, meter
        self._pauses = sweep.search.scheduler == "asha"
        self._planned = planned_trials(sweep)
        self._taken_over = [one.trial for one in warm.taken_over]
        points = points_to_evaluate(run, sweep) if sweep.search.algorithm in LEARNING else []
        self._searcher = SEARCHERS[sweep.search.algorithm](sweep, warm.trials, points)
        self._results = results(run)
        self._starts: list[TrialStart] = []
        self._no_more = False  # the searcher has no other setting, or there is no time for one
        self._epochs: dict[str, int] = {}  # trial -> how many the searcher knows of
        self._scores: dict[int, float] = {}  # number of a trial -> the score that it knows of
        epochs = self._judged_epochs()
        ended = {result.id for result in self._results}
        scheduler.recall(epochs, ended)
        self._replay(epochs if self._pauses else [])
        self._open = [start for start in self._starts if start.id not in ended]
        scheduler.at_once, scheduler.more_to_come, scheduler.has_time = at_once, self.more_to_come, self._has_time_for
        scheduler.fills = meter is not None

    def more_to_come(self) -> bool:
        """Whether there may be another new trial."""
        return not self._no_more and (self._planned is None or len(self._starts) < self._planned)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Lets the searcher learn from a trial that may stay paused for long."""
        if self._pauses:
            self._learn_epoch(result["config/id"], result[EPOCH], result["best_score"])

    def ended(self, result: TrialResult) -> None:
        """Lets the searcher learn from a result that is on disk."""
        self._results.append(result)
        self._epochs[result.id] = result.epochs
        self._learn_result(result)

    def _all(self) -> Iterator[TrialStart | None]:
        """What is open, then new ones; None while nothing is to start, but a paused one may go on now or later."""
        while True:
            paused = self.scheduler.next()
            waiting = {start.id: start for start in self._open if self.scheduler.waits_at(start.id)}
            cut_off = [start for start in self._open if start.id not in waiting and self._has_time_for(start.id)]
            start = cut_off[0] if cut_off else waiting.get(paused or "")
            if start is not None:
                self._open.remove(start)
            elif paused is None:
                start = self._new()
            if start is None and not (self._pauses and (self.scheduler.running or self.scheduler.next() is not None)):
                return
            yield start

    def _has_time_for(self, name: str) -> bool:
        return self._meter is None or self._meter.can_go_on(self._starts[_number(name)].trial)

    def _new(self) -> TrialStart | None:
        if not self.more_to_come():
            return None
        epochs = self.scheduler.epochs_worthwhile
        has_time = self._meter is None or self._meter.has_time_for_any(self._sweep, epochs)
        epochs_known = sum(self._epochs.values()) if self._pauses else 0
        trial = self._propose(len(self._starts)) if has_time else None
        start = None if trial is None else self._write_start(trial, len(self._results), epochs_known)
        if start is not None and (self._meter is None or self._meter.has_time(start.trial, epochs=epochs)):
            return start
        self._no_more = True  # a trial that there is no time for stays open, for more budget
        return None

    def _replay(self, epochs: Sequence[JudgedEpoch]) -> None:
        """Asks the searcher and lets it learn in the order in which that happened: its random numbers are the same.

        A damaged trial.json is written again from what the searcher proposes on the way.
        Raises RunError where that can't be.
        """
        outs = {_number(out.id): out for out in self._run.trials()}
        results_used = epochs_used = 0

        def learn_until(results_known: int, epochs_known: int) -> None:
            nonlocal results_used, epochs_used
            for one in epochs[epochs_used:epochs_known]:
                if _number(one.name) >= len(self._starts):
                    break
                self._learn_epoch(one.name, one.epoch, one.best)
                epochs_used += 1
            for result in self._results[results_used:results_known]:
                if _number(result.id) >= len(self._starts):  # one before it was lost: so many were other ones
                    break
                self._learn_result(result)
                results_used += 1

        damaged = RunError(f"a trial is missing in {self._run.trials_folder}")
        for number in range(max(max(outs, default=-1) + 1, len(self._taken_over))):
            out, start = outs.get(number), None
            try:
                start = out.start() if out is not None else None
            except RunError as error:
                damaged = error
            if start is not None:
                learn_until(start.results_known, start.epochs_known)
            trial = self._propose(number, start.trial if start is not None else None)
            if start is not None:
                self._starts.append(start)
            elif trial is None or (out is not None and trial_id(number, trial) != out.id):
                raise RunError(f"{damaged}, and can't be worked out again; start anew with --fresh")
            else:
                self._write_start(trial, results_used, epochs_used)
        learn_until(len(self._results), len(epochs))

    def _propose(self, number: int, again: Trial | None = None) -> Trial | None:
        """The trial with this number: taken over, or what the searcher proposes next, or proposed before (`again`)."""
        if number < len(self._taken_over):
            return self._taken_over[number]
        values = self._searcher.ask(again)
        return None if values is None else self._sweep.trial.trial(values)

    def _write_start(self, trial: Trial, results_known: int, epochs_known: int) -> TrialStart:
        number = len(self._starts)
        name = trial_id(number, trial)
        start = TrialStart(
            id=name,
            number=number,
            results_known=results_known,
            epochs_known=epochs_known,
            trial=trial,
            fold=(number % self._rotations + 1, self._rotations) if self._rotations > 1 else None,
        )
        self._starts.append(start)
        out = self._run.trial(name)
        write_record(out.start_file, start, out.mirror)
        return start

    def _judged_epochs(self) -> list[JudgedEpoch]:
        """All epochs of all trials, in the order in which they were judged."""
        found = []
        for out in self._run.trials():
            best: float | None = None
            for row in out.history().to_dict("records"):
                score = row[f"val_{self._sweep.search.metric}"]
                score = None if isnan(score) else float(score)
                best = max((one for one in (score, best) if one is not None), default=None)
                found.append((row["ended"], JudgedEpoch(out.id, int(row["epoch"]), score, best)))
        return [one for _, one in sorted(found)]

    def _learn_epoch(self, name: str, epoch: int, best: float | None) -> None:
        if epoch > self._epochs.get(name, 0):
            self._epochs[name] = epoch
            if best is not None:
                self._learn(name, best, epoch)

    def _learn_result(self, result: TrialResult) -> None:
        self._learn(result.id, result.score, result.epochs if was_cut(result, self._images) else None)

    def _learn(self, name: str, score: float | None, epoch: int | None) -> None:
        proposal = (number := _number(name)) - len(self._taken_over)
        if score is not None and self._rotations > 1:  # without what makes its left-out sources easier than others
            self._scores[number], turn = score, number % self._rotations
            score -= rotation_effects((one % self._rotations, its) for one, its in self._scores.items())[turn]
        if proposal >= 0:  # of those taken over it knows from the beginning
            self._searcher.tell(proposal, score, epoch)


def _number(name: str) -> int:
    return int(name.split("-")[0])


def repeated_starts(sweep: Sweep, done: list[TrialResult], rotations: int = 0) -> list[TrialStart]:
    """The trainings of the finalists with other seeds and for each fold, or rotation: all of the best, then the next.

    That of a fold has as many epochs as the finalist's best one, as its own would be chosen on the images that it is
    judged by. For a fold that the finalist itself was judged on it is not trained again.
    """
    kinds: list[tuple[int, Fold | None]] = [(more, None) for more in range(1, sweep.search.seeds)]
    folds = rotations or sweep.data.folds or 0
    kinds += [(0, (number, folds)) for number in range(1, folds + 1)]
    found: list[TrialStart] = []
    for finalist, (more, fold) in product(ranking(done)[: sweep.search.finalists], kinds):
        if fold is not None and fold == finalist.fold:
            continue
        trial = finalist.trial.model_copy(update={"seed": (finalist.trial.seed + more) % SEEDS.stop})
        name, number = repeat_id(finalist.id, trial.seed, fold), len(found)
        start = TrialStart(id=name, number=number, results_known=len(done), repeats=finalist.id, fold=fold, trial=trial)
        found.append(start if fold is None else start.model_copy(update={"keep_epoch": finalist.best_epoch}))
    return found


def in_time(starts: Sequence[TrialStart], meter: Meter, at_once: int) -> list[TrialStart]:
    """The same trainings, of a finalist with fewer epochs each where there is no time for as many as it has.

    So that all its folds are trained; those of the best one first.
    """
    found: list[TrialStart] = []
    left = meter.account.left()
    for _, group in groupby(starts, key=lambda start: start.repeats):
        its = list(group)
        needed = meter.cost([(start.trial, start.keep_epoch or 1) for start in its], at_once)
        share = min(1.0, max(0.0, left) / needed) if needed else 1.0
        shorter = [{"keep_epoch": max(1, int(share * (start.keep_epoch or 1)))} for start in its]
        found += [start.model_copy(update=change) for start, change in zip(its, shorter, strict=True)]
        left -= needed
    return found


def decided(run: RunDir, starts: Iterable[TrialStart]) -> list[TrialStart]:
    """The same trainings, those of folds with what `tta: auto` and `swa: auto` came to on val for their finalist."""
    found = []
    for start in starts:
        if start.fold is not None and start.repeats is not None:
            origin = predictions_metadata(run.trial(start.repeats).predictions_file("val"))
            known = {name: origin.get(name, "none") for name in ("tta", "swa") if getattr(start.trial, name) == "auto"}
            start = start.model_copy(update={"trial": start.trial.model_copy(update=known)})
        found.append(start)
    return found


def written_starts(run: RunDir, starts: Sequence[TrialStart], meter: Meter | None) -> Iterator[TrialStart]:
    """Each one once it is on disk, for as long as there is time; a killed command may have left it there."""
    for start in starts:
        if meter is not None and not meter.has_time(start.trial):
            return
        out = run.trial(start.id)
        try:
            start = out.start()  # it may remember how much fits into memory
        except RunError:
            write_record(out.start_file, start, out.mirror)
        yield start

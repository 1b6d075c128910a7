"""a sweep -> trials on Ray Tune -> the run folder: start, follow, resume.

The run folder is the truth. What was proposed is a trial.json, what ended a result.json; a later start retraces both
through a new searcher, so that it knows what the killed one knew, and hands the open trials out first.
"""

import errno
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console
from rich.text import Text

from rfray.config import Sweep, Trial
from rfray.errors import RfrayError, RunError, SweepFailed
from rfray.evaluation.predictions import predictions_metadata
from rfray.files import file_digest, is_disk_full, no_room
from rfray.run import HEAVY, RunDir, TrialDir, TrialResult, TrialStart, WarmStart, trial_id
from rfray.search.asha import Asha
from rfray.search.budget import Meter, OutOfTime
from rfray.search.cluster import Shares, slots
from rfray.search.damage import mend
from rfray.search.disk import DiskWatch
from rfray.search.display import Display
from rfray.search.follower import Silence
from rfray.search.messages import EPOCH, SCORE
from rfray.search.probing import beginnings
from rfray.search.recorder import Recorder, results, tidy
from rfray.search.strategies import PAUSING, SCHEDULERS, SEARCHERS, ByName, planned_trials
from rfray.search.trackers import TensorBoard, mlflow_callbacks
from rfray.search.warm_start import warm_start
from rfray.search.worker import Job, run_trial, trial_of
from rfray.storage import STATES, Storage

COLD = WarmStart()
NOBODY = SimpleNamespace(get_live_trials=list)
"""Stands in for Ray's controller while a scheduler is told of the past: no trial is live."""


class Proposals(RaySearcher):
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
        super().__init__(metric="score", mode="max")
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

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds it all. Ray moves the file, so there must be one."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __reduce__(self) -> tuple[type[RaySearcher], tuple[()]]:
        """Pickles, for Ray's snapshot, as a searcher that knows nothing."""
        return RaySearcher, ()

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
        return self._meter is None or self._meter.has_time(trial)

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
        self._run.trial(start.id).write_start(start)
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
        epochs = _epochs(self._run) if self._asha is not None else []
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
                self._run.trial(start.id).write_start(start)
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


def run_sweep(
    run: RunDir,
    sweep: Sweep,
    shares: Shares,
    session: Path,
    console: Console,
    trainable: Callable[..., None] = run_trial,
    meter: Meter | None = None,
) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster; all trials' results, in the order they ended.

    `shares` says what each trial gets, `meter` how much of a budget there is, if any. `session` is Ray's temporary
    folder, `trainable` what runs in a trial's process: a function of a setting and a Job.
    Raises RfrayError where Ray ended without running every trial, DiskFullError, and SweepFailed where going on would
    be a waste.
    """
    planned = planned_trials(sweep)
    warm = warm_start(run, sweep, console)
    for found in mend(run):
        console.print(Text(f"Warning: {found}"), soft_wrap=True)
    earlier = results(run)
    tidy(run, sweep, earlier, every_state=False)
    recorder = Recorder(run, sweep, meter)
    has_time = meter is None or meter.has_time_for_any(sweep)
    if (planned is None or len(earlier) < planned) and has_time:
        scheduler = SCHEDULERS[sweep.search.scheduler](sweep)
        asha = scheduler if isinstance(scheduler, Asha) else None
        retrace(scheduler, run)
        display = Display(sweep, planned, earlier, console, meter.deadline if meter else None)
        recorder.follow(display.ended)
        at_once = sweep.search.concurrent or slots(shares)
        # hyperband waits for whole brackets, of which most trials are paused
        most = None if sweep.search.scheduler == "hyperband" else at_once
        proposals = Proposals(run, sweep, planned, most, warm, asha, meter)
        recorder.follow(proposals.ended)
        if asha is not None:
            asha.on_pause += [display.paused, *([meter.paused] if meter else [])]
        followers = [recorder, DiskWatch(session), TensorBoard(run, sweep.search.metric), display]
        followers += [meter] if meter else []
        try:
            _fit(
                run,
                sweep,
                trainable,
                shares,
                at_once,
                proposals,
                scheduler,
                # with asha Ray must not let go of a trial's process when all are proposed: paused ones go on in it
                -1 if planned is None or asha else planned - len(earlier),
                meter,
                [*followers, Silence(), *mlflow_callbacks(sweep)],
            )
        except OSError as error:
            if is_disk_full(error):
                raise no_room(run.path, 0) from error
            raise
        except tune.TuneError as error:
            if os.strerror(errno.ENOSPC) in str(error):  # met by Ray's own files in the run folder
                raise no_room(run.path, 0) from error
            raise next((one.reason for one in followers if one.reason), error) from None
        finally:
            display.close()
            run.forget_ray()
            if any(slot.workers > 1 for slot in shares.kinds):
                from rfray.search.together import free_orphans

                # Tune gives a stopped trial five seconds to end, and the last ones may still be ending their workers
                free_orphans(of_all=True)
    if sweep.search.scheduler == "asha" or not has_time or meter:
        # paused ones of earlier starts that there was no slot for, and those that were ended from outside
        for out in run.trials():
            if not out.result_file.exists() and _is_whole(out):
                recorder.record(out)
    done = results(run)
    if meter is not None and (planned is None or len(done) < planned):
        console.print(Text(_what_is_left(run, sweep, len(done))), soft_wrap=True)
    if meter is None and planned is not None and len(done) < planned:
        raise RfrayError(f"Ray Tune ended after {len(done)} of {planned} trials; the same command goes on")
    tidy(run, sweep, done, every_state=True)
    return done


def _is_whole(out: TrialDir) -> bool:
    """Whether a trial that has not ended has a best epoch, with the weights that its predictions are of."""
    out.mirror.pull(without=(*HEAVY, f"*{STATES}"))
    weights = predictions_metadata(out.predictions_file("select")).get("weights")
    if weights is None or not out.weights_file.exists():
        return weights is not None and isinstance(out.mirror.storage, Storage)  # there they stay where they are
    return file_digest(out.weights_file) == weights


def _what_is_left(run: RunDir, sweep: Sweep, done: int) -> str:
    still_open = len(run.trials()) - done
    begun = f", {still_open} that had no judged epoch yet go on then" if still_open else ""
    return f"The budget of {sweep.search.budget} is used up; a larger search.budget goes on{begun}"


def check_outcome(run: RunDir, sweep: Sweep, done: list[TrialResult]) -> None:
    """Raises SweepFailed, with each failed trial's or probe's reason, where more failed than `search.max_failed`."""
    done = [*(result for out in run.probes() if (result := out.result()) is not None), *done]
    failed = [result for result in done if result.status == "failed"]
    if len(failed) > sweep.search.max_failed:
        raise SweepFailed(
            f"{len(failed)} of {len(done)} trials failed (search.max_failed: {sweep.search.max_failed}):\n"
            + "\n".join(f"  {result.id}: {result.reason}" for result in failed)
            + f"\nThe whole of each trial's error is in {run.trials_folder}/<id>/error.txt"
        )


def retrace(scheduler: TrialScheduler, run: RunDir) -> None:
    """Tells a new scheduler every epoch of earlier starts, in order.

    An open trial that it stops on the way makes its files whole and says that epoch again: then it is stopped.
    """
    epochs = _epochs(run)
    if isinstance(scheduler, Asha):
        for out in run.trials():
            scores = [one.score or 0.0 for one in epochs if one.name == out.id]
            scheduler.recall(out.id, scores, out.result_file.exists())
    if not isinstance(scheduler, ByName):
        return
    last: dict[str, tuple[str, dict[str, float]]] = {}
    for one in epochs:
        name, result = one.name, {EPOCH: one.epoch, SCORE: one.score or 0.0}
        if name not in last:
            scheduler.on_trial_add(NOBODY, name)
        elif last[name][0] == TrialScheduler.STOP:
            continue
        last[name] = (scheduler.on_trial_result(NOBODY, name, result), result)
    for name, (_, result) in last.items():
        if run.trial(name).result_file.exists():
            scheduler.on_trial_complete(NOBODY, name, result)


class _Epoch(NamedTuple):
    """One epoch of one trial."""

    ended: float
    name: str
    epoch: int
    score: float | None
    best: float | None


def _epochs(run: RunDir) -> list[_Epoch]:
    """All epochs of all trials, in the order in which they were judged."""
    found = []
    for out in run.trials():
        best: float | None = None
        for _, row in out.history().iterrows():
            score = None if isnan(row.iloc[-1]) else float(row.iloc[-1])
            best = max((one for one in (score, best) if one is not None), default=None)
            found.append(_Epoch(row["ended"], out.id, int(row["epoch"]), score, best))
    return sorted(found, key=lambda one: one[:3])


def _fit(
    run: RunDir,
    sweep: Sweep,
    trainable: Callable[..., None],
    shares: Shares,
    at_once: int,
    proposals: Proposals,
    scheduler: TrialScheduler,
    missing: int,
    meter: Meter | None,
    callbacks: list[Callback],
) -> None:
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)  # Ray would start them one after the other
    job = Job(run.where, uuid.uuid4().hex[:8], shares, checkpoints=sweep.search.scheduler in PAUSING)
    if meter is not None:
        job = replace(job, deadline=meter.deadline, watches_budget=meter.deadline is None)

    def asked(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([shares.of(trial_of(config)).asked])

    tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, job=job), asked),
        tune_config=tune.TuneConfig(
            search_alg=proposals,
            scheduler=scheduler,
            num_samples=missing,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["id"]),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(
            name=run.ray_folder.name,
            storage_path=str(run.where),
            # a trial that fails says so itself; what Ray sees is a process that died, and starts it again
            failure_config=tune.FailureConfig(max_failures=-1),
            callbacks=callbacks,
            stop=OutOfTime(meter) if meter else None,
            verbose=0,
        ),
    ).fit()

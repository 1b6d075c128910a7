"""a sweep -> trials on Ray Tune -> the run folder: start, follow, resume.

The run folder is the truth. What was proposed is a trial.json, what ended a result.json; a later start retraces both
through a new searcher, so that it knows what the killed one knew, and hands the open trials out first.
"""

import errno
import logging
import os
import uuid
from collections.abc import Callable
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console
from rich.text import Text

from rfray.config import Sweep, Trial
from rfray.errors import RfrayError, RunError, SweepFailed
from rfray.files import is_disk_full, no_room
from rfray.run import RunDir, TrialResult, TrialStart, WarmStart, trial_id
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

COLD = WarmStart()
NOBODY = SimpleNamespace(get_live_trials=list)
"""Stands in for Ray's controller while a scheduler is told of the past: no trial is live."""


class Proposals(RaySearcher):
    """Ray Tune's way to ask for trials: the open ones of the run folder first, then new ones of the searcher."""

    def __init__(self, run: RunDir, sweep: Sweep, planned: int, at_once: int | None, warm: WarmStart = COLD) -> None:
        super().__init__(metric="score", mode="max")
        self._run = run
        self._sweep = sweep
        self._planned = planned
        self._at_once = at_once
        self._live: set[str] = set()
        self._taken_over = [one.trial for one in warm.taken_over]
        self._searcher = SEARCHERS[sweep.search.algorithm](sweep, warm.trials, beginnings(run, sweep))
        self._results = results(run)
        self._starts: list[TrialStart] = []
        self._retrace()
        ended = {result.id for result in self._results}
        self._open = [start for start in self._starts if start.id not in ended]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next trial; None while enough are running; FINISHED after the last."""
        if self._at_once is not None and len(self._live) >= self._at_once:
            return None
        if self._open:
            start = self._open.pop(0)
        elif len(self._starts) >= self._planned or (new := self._new()) is None:
            return str(RaySearcher.FINISHED)
        else:
            start = new
        self._live.add(trial_id)
        return {"id": start.id, **start.trial.model_dump()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for another trial; what it came to arrives through `ended`."""
        self._live.discard(trial_id)

    def ended(self, result: TrialResult) -> None:
        """Lets the searcher learn from a result that is on disk."""
        self._results.append(result)
        self._tell(result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds it all. Ray moves the file, so there must be one."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __reduce__(self) -> tuple[type[RaySearcher], tuple[()]]:
        """Pickles, for Ray's snapshot, as a searcher that knows nothing."""
        return RaySearcher, ()

    def _new(self) -> TrialStart | None:
        start = self._proposed(len(self._starts), self._next(len(self._starts)), len(self._results))
        if start is not None:
            self._run.trial(start.id).write_start(start)
            self._starts.append(start)
        return start

    def _retrace(self) -> None:
        """Asks and tells in the order in which it happened: the searcher's random numbers go on where they were.

        What the searcher proposes on the way makes a damaged trial.json whole again.
        Raises RunError where it can't.
        """
        folders = {int(out.id.split("-")[0]): out for out in self._run.trials()}
        told = 0
        damaged = RunError(f"a trial is missing in {self._run.trials_folder}")
        for number in range(max(max(folders, default=-1) + 1, len(self._taken_over))):
            out = folders.get(number)
            try:
                start = out.start() if out is not None else None
            except RunError as error:
                start = None
                damaged = error
            if start is not None:
                known = min(start.results_known, len(self._results))
                for result in self._results[told:known]:
                    self._tell(result)
                told = max(told, known)
            trial = self._next(number)
            if start is None:
                start = self._proposed(number, trial, told)
                if start is None or (out is not None and start.id != out.id):
                    raise RunError(f"{damaged}, and can't be worked out again; start anew with --fresh")
                self._run.trial(start.id).write_start(start)
            self._starts.append(start)
        for result in self._results[told:]:
            self._tell(result)

    def _next(self, number: int) -> Trial | None:
        """The trial with this number: taken over, or what the searcher proposes next."""
        if number < len(self._taken_over):
            return self._taken_over[number]
        values = self._searcher.ask()
        return None if values is None else self._sweep.trial.trial(values)

    def _proposed(self, number: int, trial: Trial | None, results_known: int) -> TrialStart | None:
        if trial is None:
            return None
        return TrialStart(id=trial_id(number, trial), number=number, results_known=results_known, trial=trial)

    def _tell(self, result: TrialResult) -> None:
        proposal = int(result.id.split("-")[0]) - len(self._taken_over)
        if proposal >= 0:  # of those taken over it knows from the beginning
            self._searcher.tell(proposal, result.score)


def run_sweep(
    run: RunDir,
    sweep: Sweep,
    shares: Shares,
    session: Path,
    console: Console,
    trainable: Callable[..., None] = run_trial,
) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster; all trials' results, in the order they ended.

    `shares` says what each trial gets. `session` is Ray's temporary folder, `trainable` what runs in a trial's process:
    a function of a setting and a Job.
    Raises RfrayError where Ray ended without running every trial, DiskFullError, and SweepFailed where going on would
    be a waste.
    """
    planned = planned_trials(sweep)
    warm = warm_start(run, sweep, console)
    for found in mend(run):
        console.print(Text(f"Warning: {found}"), soft_wrap=True)
    earlier = results(run)
    tidy(run, sweep, earlier, every_state=False)
    if len(earlier) < planned:
        scheduler = SCHEDULERS[sweep.search.scheduler](sweep)
        retrace(scheduler, run)
        display = Display(sweep, planned, earlier, console)
        recorder = Recorder(run, sweep, display.ended)
        at_once = sweep.search.concurrent or slots(shares)
        # hyperband waits for whole brackets, of which most trials are paused
        proposals = Proposals(run, sweep, planned, None if sweep.search.scheduler == "hyperband" else at_once, warm)
        recorder.follow(proposals.ended)
        followers = [recorder, DiskWatch(session), TensorBoard(run, sweep.search.metric), display]
        try:
            _fit(
                run,
                sweep,
                trainable,
                shares,
                at_once,
                proposals,
                scheduler,
                planned - len(earlier),
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
    done = results(run)
    if len(done) < planned:
        raise RfrayError(f"Ray Tune ended after {len(done)} of {planned} trials; the same command goes on")
    tidy(run, sweep, done, every_state=True)
    return done


def check_outcome(run: RunDir, sweep: Sweep, done: list[TrialResult]) -> None:
    """Raises SweepFailed, with each failed trial and its reason, where more failed than `search.max_failed`."""
    failed = [result for result in done if result.status == "failed"]
    if len(failed) > sweep.search.max_failed:
        raise SweepFailed(
            f"{len(failed)} of {len(done)} trials failed (search.max_failed: {sweep.search.max_failed}):\n"
            + "\n".join(f"  {result.id}: {result.reason}" for result in failed)
            + f"\nThe whole of each error is in {run.trials_folder}/<id>/error.txt"
        )


def retrace(scheduler: TrialScheduler, run: RunDir) -> None:
    """Tells a new scheduler every epoch of earlier starts, in order.

    An open trial that it stops on the way makes its files whole and says that epoch again: then it is stopped.
    """
    if not isinstance(scheduler, ByName):
        return
    epochs: list[tuple[float, str, dict[str, float]]] = []
    for out in run.trials():
        history = out.history()
        for _, row in history.iterrows():
            score = row.iloc[-1]
            epochs.append((row["ended"], out.id, {EPOCH: int(row["epoch"]), SCORE: 0.0 if isnan(score) else score}))
    last: dict[str, tuple[str, dict[str, float]]] = {}
    for _, name, result in sorted(epochs, key=lambda epoch: epoch[:2]):
        if name not in last:
            scheduler.on_trial_add(NOBODY, name)
        elif last[name][0] == TrialScheduler.STOP:
            continue
        last[name] = (scheduler.on_trial_result(NOBODY, name, result), result)
    for name, (_, result) in last.items():
        if run.trial(name).result_file.exists():
            scheduler.on_trial_complete(NOBODY, name, result)


def _fit(
    run: RunDir,
    sweep: Sweep,
    trainable: Callable[..., None],
    shares: Shares,
    at_once: int,
    proposals: Proposals,
    scheduler: TrialScheduler,
    missing: int,
    callbacks: list[Callback],
) -> None:
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)  # Ray would start them one after the other
    job = Job(run.where, uuid.uuid4().hex[:8], shares, checkpoints=sweep.search.scheduler in PAUSING)

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
            verbose=0,
        ),
    ).fit()

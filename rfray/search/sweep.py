"""a sweep -> trials on Ray Tune -> the run folder: start, follow, resume.

The run folder is the truth. What was proposed is a trial.json, what ended a result.json; a later start retraces both
through a new searcher, so that it knows what the killed one knew, and hands the open trials out first.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console

from rfray.config import Sweep
from rfray.errors import RfrayError, SweepFailed
from rfray.run import RunDir, TrialResult, TrialStart
from rfray.search.cluster import Slot, slots
from rfray.search.display import Display
from rfray.search.recorder import Recorder, results, tidy
from rfray.search.strategies import PAUSING, SCHEDULERS, SEARCHERS, planned_trials
from rfray.search.trackers import TensorBoard, mlflow_callbacks
from rfray.search.worker import Job, run_trial

ATTEMPTS = 2
"""A failing trial is tried this often in all, then recorded with its reason."""


class Proposals(RaySearcher):
    """Ray Tune's way to ask for trials: the open ones of the run folder first, then new ones of the searcher."""

    def __init__(self, run: RunDir, sweep: Sweep, planned: int, at_once: int | None) -> None:
        super().__init__(metric="score", mode="max")
        self._run = run
        self._sweep = sweep
        self._planned = planned
        self._at_once = at_once
        self._live: set[str] = set()
        self._searcher = SEARCHERS[sweep.search.algorithm](sweep)
        self._starts = [trial.start() for trial in run.trials()]
        self._results = results(run)
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
        values = self._searcher.ask()
        if values is None:
            return None
        number, trial = len(self._starts), self._sweep.trial.trial(values)
        start = TrialStart(
            id=f"{number:05d}-{trial.digest[:6]}", number=number, results_known=len(self._results), trial=trial
        )
        self._run.trial(start.id).write_start(start)
        self._starts.append(start)
        return start

    def _retrace(self) -> None:
        """Asks and tells in the order in which it happened: the searcher's random numbers go on where they were."""
        told = 0
        for start in self._starts:
            while told < start.results_known:
                self._tell(self._results[told])
                told += 1
            self._searcher.ask()
        for result in self._results[told:]:
            self._tell(result)

    def _tell(self, result: TrialResult) -> None:
        self._searcher.tell(self._run.trial(result.id).start().number, result.score)


def run_sweep(run: RunDir, sweep: Sweep, slot: Slot, console: Console) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster; the results of all trials, in the order they ended.

    Raises RfrayError where Ray ended without running every trial.
    """
    planned = planned_trials(sweep)
    earlier = results(run)
    if len(earlier) < planned:
        scheduler = sweep.search.scheduler
        at_once = sweep.search.concurrent or slots(slot)
        # hyperband waits for whole brackets, of which most trials are paused
        proposals = Proposals(run, sweep, planned, None if scheduler == "hyperband" else at_once)
        display = Display(sweep, planned, earlier, console)

        def ended(result: TrialResult) -> None:
            proposals.ended(result)
            display.ended(result)

        callbacks = [
            Recorder(run, sweep, ended),
            TensorBoard(run, sweep.search.metric),
            *mlflow_callbacks(sweep),
            display,
        ]
        try:
            _fit(run, sweep, slot, proposals, planned - len(earlier), callbacks)
        finally:
            display.close()
        shutil.rmtree(run.ray_folder, ignore_errors=True)
    done = results(run)
    if len(done) < planned:
        raise RfrayError(f"Ray Tune ended after {len(done)} of {planned} trials; the same command goes on")
    tidy(run, sweep, sweep_ended=True)
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


def _fit(run: RunDir, sweep: Sweep, slot: Slot, proposals: Proposals, missing: int, callbacks: list[Callback]) -> None:
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    job = Job(run.path, slot.threads, checkpoints=sweep.search.scheduler in PAUSING)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, job=job), tune.PlacementGroupFactory([{"CPU": slot.cpu, "GPU": slot.gpu}])
    )
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=proposals,
            scheduler=SCHEDULERS[sweep.search.scheduler](sweep),
            num_samples=missing,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["id"]),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(
            name=run.ray_folder.name,
            storage_path=str(run.path),
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            callbacks=callbacks,
            verbose=0,
        ),
    ).fit()

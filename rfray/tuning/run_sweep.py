"""A sweep and its run folder -> trials on Ray Tune -> their results: start, follow, resume."""

import errno
import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from rfray.cluster.ray_internals import free_groups
from rfray.cluster.slots import TrialSlots, slot_count
from rfray.data.rotations import fold_count
from rfray.errors import RfrayError, SweepFailed
from rfray.progress.events import SweepBegan
from rfray.progress.phases import say
from rfray.spec.checks import planned_trials
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import file_digest, is_disk_full, no_room
from rfray.store.ownership import holder_of
from rfray.store.records import TrialResult, WarmStart
from rfray.store.run_dir import HEAVY, RunDir
from rfray.store.storage import STATES
from rfray.tuning.budget import BudgetCallback, Meter, enough
from rfray.tuning.callbacks import DiskMonitor, Display, Silence, SweepCallback, TensorBoard, mlflow_callbacks
from rfray.tuning.probing import learn_fold_heads, learn_rotation_heads
from rfray.tuning.proposals import Listed, Proposals, decided, in_time, repeated_starts, written_starts
from rfray.tuning.recorder import Recorder, remove_leftovers, repair, results
from rfray.tuning.strategies import SCHEDULERS
from rfray.tuning.trainable import SweepJob, run_trial, trial_of
from rfray.tuning.warm_start import warm_start


@dataclass(frozen=True)
class SweepContext:
    """What all trials of one start share."""

    run: RunDir
    sweep: Sweep
    shares: TrialSlots
    """What each trial gets."""
    session_folder: Path
    """Ray's temporary folder."""
    console: Console
    meter: Meter | None
    """How much of a budget there is, if any."""

    @property
    def at_once(self) -> int:
        """Most trials that run at the same time."""
        return self.sweep.search.concurrent or slot_count(self.shares)

    @property
    def deadline(self) -> float | None:
        """When a budget by the clock ends, in seconds since 1970."""
        return self.meter.account.deadline if self.meter else None

    def has_time(self, trial: Trial) -> bool:
        """Whether a trial that runs can go on, by what is left of the budget."""
        return self.meter is None or self.meter.can_go_on(trial, runs=True)

    @property
    def has_workers(self) -> bool:
        """Whether trials have several workers each."""
        return any(slot.workers > 1 for slot in self.shares.kinds)


def run_sweep(
    run: RunDir, sweep: Sweep, shares: TrialSlots, session_folder: Path, console: Console, meter: Meter | None = None
) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster, then of its finalists' repeats.

    Returns the results of all trials of the search, in the order in which they ended. Arguments: see `SweepContext`.
    Raises RfrayError where Ray ended without running every trial, DiskFullError, SweepFailed where going on is a waste.
    """
    context = SweepContext(run, sweep, shares, session_folder, console, meter)
    planned, warm = planned_trials(sweep), warm_start(run, sweep, console)
    say(console, *(f"Warning: {problem}" for problem in repair(run)))
    remove_leftovers(run, sweep, results(run))
    recorder = Recorder(run, sweep, meter)
    if sweep.judges_unseen:
        learn_rotation_heads(run, sweep, context.deadline, console)
    _search(context, recorder, warm)
    if meter is not None and not results(run):  # what is kept for finalists is of no use without one
        meter.account.reserve(0.0)
        if not meter.account.is_over():
            _search(context, recorder, warm)
    done = results(run)
    if planned is None or len(done) < planned:
        if meter is None:
            raise RfrayError(f"Ray Tune ended after {len(done)} of {planned} trials; the same command goes on")
        still_open = len(run.trials()) - len(done)
        begun = f", {still_open} that had no judged epoch yet go on then" if still_open else ""
        part = "part for the search of the " if sweep.judges_unseen and sweep.search.finalists else ""
        text = f"The {part}budget of {sweep.search.budget} is used up; a larger search.budget goes on{begun}"
        say(console, text)
    if len(done) == planned or sweep.judges_unseen:
        _repeat_finalists(context, done)
    remove_leftovers(run, sweep, done)
    return done


def _search(context: SweepContext, recorder: Recorder, warm: WarmStart) -> None:
    """Runs the trials that are left, as far as there is time, and records all that have come to a judged epoch."""
    run, sweep, meter = context.run, context.sweep, context.meter
    planned, earlier = planned_trials(sweep), results(run)
    has_time = meter is None or meter.has_time_for_any(sweep)
    if (planned is None or len(earlier) < planned) and has_time:
        proposals = Proposals(run, sweep, context.at_once, warm, meter)
        recorder.on_result = [proposals.ended]
        _fit(context, proposals, recorder, planned, earlier)
    if sweep.search.scheduler == "asha" or not has_time or meter:
        # trials that nothing ended properly: paused in an earlier start and never given a slot again, or killed at the
        # end of a budget; the best epoch counts, where it has the weights that its predictions are of
        for out in run.trials():
            if out.result_file.exists():
                continue
            out.mirror.pull(without=(*HEAVY, f"*{STATES}"))
            expected = predictions_metadata(out.predictions_file("val")).get("weights")  # None: no epoch was judged
            digest = file_digest(out.weights_file) if out.weights_file.exists() else None
            only_at_address = digest is None and out.mirror.storage is not None
            if expected is not None and (digest == expected or only_at_address):
                recorder.record(out)


def _repeat_finalists(context: SweepContext, done: list[TrialResult]) -> None:
    """Trains the best trials again, as the sweep asks for; what a budget leaves no time for is not done."""
    run, sweep, meter = context.run, context.sweep, context.meter
    if meter is not None:
        meter.account.reserve(0.0)
    wanted = decided(run, repeated_starts(sweep, done, fold_count(run, sweep)))
    earlier = [result for one in wanted if (result := run.trial(one.id).result()) is not None]
    missing = [one for one in wanted if not run.trial(one.id).result_file.exists()]
    if not missing:
        return
    todo = f"Training the best trials again: {len(missing)} of {len(wanted)} trainings are to be done"
    say(context.console, todo)
    if meter is None or not meter.account.is_over():
        if sweep.judges_unseen and meter is not None:
            missing = in_time(missing, meter, context.at_once)
        learn_fold_heads(run, sweep, missing, context.deadline)
        no_rungs = SCHEDULERS["none"](sweep, 0)
        listed = Listed(no_rungs, context.at_once, written_starts(run, missing, meter))
        _fit(context, listed, Recorder(run, sweep, meter), len(wanted), earlier)
    left = [one for one in missing if not run.trial(one.id).result_file.exists()]
    if left and meter is None:
        raise RfrayError(f"Ray Tune ended with {len(left)} finalists' trainings missing; the same command goes on")
    if left:
        text = f"No time was left for {len(left)} of the finalists' trainings; a larger search.budget goes on"
        say(context.console, text)


def check_outcome(run: RunDir, sweep: Sweep, done: list[TrialResult]) -> int:
    """How many of the trials failed.

    Raises SweepFailed, with each one's reason, where more trials, probes and repeats failed than allowed. So it does
    where no trial has come to a judged epoch, and says with which budget one would.
    """
    probes = [*filter(None, (out.result() for out in run.probes()))]
    ended = [*probes, *filter(None, (out.result() for out in run.repeats())), *done]
    failed = [result for result in ended if result.status == "failed"]
    if len(failed) > sweep.search.max_failed:
        raise SweepFailed(
            f"{len(failed)} of {len(ended)} trials failed (search.max_failed: {sweep.search.max_failed}):",
            *(f"  {result.id}: {result.reason}" for result in failed),
            f"The whole of each trial's error is in error.txt in its folder, {run.trials_folder}/<id>",
        )
    if all(result.status == "failed" for result in done):
        why = f"all {len(done)} failed, the first one with: {done[0].reason}" if done else "none ended an epoch"
        if any(probe.status == "ok" for probe in probes):
            why += "; `rfray ensemble` has probes only"
        larger = sweep.budget and f". Next: the same command with --set search.budget={enough(run, sweep.budget)}"
        raise SweepFailed(f"no trial was judged: {why}{larger or ''}")
    return sum(result.status == "failed" for result in done)


def _fit(
    context: SweepContext, searcher: Listed, recorder: Recorder, planned: int | None, earlier: list[TrialResult]
) -> None:
    """Has Ray Tune run what the searcher proposes, until it has no more.

    `planned`: how many trials there will be, those that ended `earlier` included, where that is known.
    """
    run, sweep = context.run, context.sweep
    metric, scores = sweep.search.metric, [result.score for result in earlier]
    began = SweepBegan(name=sweep.name, metric=metric, planned=planned, until=context.deadline, earlier=scores)
    display = Display(began, list(sweep.trial.axes()), run.training_images(), context.has_time, context.console)
    recorder.on_result.append(display.ended)
    searcher.scheduler.on_pause += [display.paused, *([context.meter.account.release] if context.meter else [])]
    callbacks = [recorder, DiskMonitor(context.session_folder), TensorBoard(run, metric), display]
    # where trials pause, Ray must not let go of processes when all are proposed: paused ones go on in them
    missing = -1 if planned is None or searcher.scheduler.rungs else planned - len(earlier)
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(context.at_once)  # Ray would start them one after the other
    try:
        _tuner(context, searcher, missing, callbacks).fit()
    except (OSError, tune.TuneError) as error:
        # Ray's own files in the run folder may meet a full disk, too; of that there is only text
        if is_disk_full(error) or os.strerror(errno.ENOSPC) in str(error):
            raise no_room(run.path, 0) from error
        raise
    finally:
        display.close()
        shutil.rmtree(run.ray_folder, ignore_errors=True)
        if (storage := run.mirror.storage) is not None:
            storage.remove_folder(run.ray_folder.name)
        if context.has_workers:
            # Tune gives a stopped trial five seconds to end, and the last ones may still be ending their workers
            free_groups("workers")


def _tuner(context: SweepContext, searcher: Listed, missing: int, callbacks: list[SweepCallback]) -> tune.Tuner:
    """`missing`: how many trials the searcher proposes, -1 where that is not known."""
    run, shares, budget = context.run, context.shares, BudgetCallback(context.meter) if context.meter else None
    deadline = inf if budget and context.deadline is None else context.deadline
    job = SweepJob(run.where, uuid.uuid4().hex[:8], holder_of(run), shares, deadline)

    def asked(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        slot = shares.of(trial_of(config))
        # with several workers, the trial's own process only waits; one byte of memory, so that it fits on any node
        return tune.PlacementGroupFactory([slot.resources if slot.workers == 1 else {"memory": 1.0}])

    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=job), asked),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=searcher.scheduler,
            num_samples=missing,
            # a process that pauses keeps its workers, for which another trial may be waiting
            reuse_actors=not context.has_workers,
            trial_name_creator=lambda trial: str(trial.config["id"]),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(
            name=run.ray_folder.name,
            storage_path=str(run.where),
            # a trial that fails says so itself; what Ray sees is a process that died, and starts it again
            failure_config=tune.FailureConfig(max_failures=-1),
            callbacks=[*callbacks, *([budget] if budget else []), Silence(), *mlflow_callbacks(context.sweep)],
            stop=budget,
            verbose=0,
        ),
    )

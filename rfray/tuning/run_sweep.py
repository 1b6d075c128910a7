"""A sweep and its run folder -> trials on Ray Tune -> their results: start, follow, resume."""

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console
from rich.text import Text

from rfray.cluster.placement_groups import free_workers
from rfray.cluster.slots import TrialSlots, slot_count
from rfray.errors import RfrayError, SweepFailed
from rfray.spec.sweep import Sweep
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import file_digest, is_disk_full, no_room
from rfray.store.records import TrialResult, WarmStart
from rfray.store.run_dir import HEAVY, RunDir, TrialDir
from rfray.store.storage import STATES, Storage
from rfray.tuning.budget import Meter
from rfray.tuning.budget_callbacks import BudgetCallback, OutOfTime
from rfray.tuning.callbacks import DiskMonitor, Silence, SweepCallback
from rfray.tuning.display import Display
from rfray.tuning.integrity import repair
from rfray.tuning.probing import learn_fold_heads
from rfray.tuning.proposals import Listed, Proposals, repeated_starts, written_starts
from rfray.tuning.recorder import Recorder, remove_leftovers, results
from rfray.tuning.strategies import SCHEDULERS, planned_trials
from rfray.tuning.trackers import TensorBoard, mlflow_callbacks
from rfray.tuning.trainable import run_trial
from rfray.tuning.trial_job import SweepJob, trial_of
from rfray.tuning.warm_start import warm_start


@dataclass(frozen=True)
class SweepContext:
    """What all trials of one start share."""

    run: RunDir
    sweep: Sweep
    shares: TrialSlots
    """What each trial gets."""
    session: Path
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

    def print(self, text: str) -> None:
        """Prints a line as it is."""
        self.console.print(Text(text), soft_wrap=True)


def run_sweep(
    run: RunDir, sweep: Sweep, shares: TrialSlots, session: Path, console: Console, meter: Meter | None = None
) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster, then of its finalists' repeats.

    All trials' results, in the order they ended. The arguments are those of `SweepContext`.
    Raises RfrayError where Ray ended without running every trial, DiskFullError, and SweepFailed where going on would
    be a waste.
    """
    context = SweepContext(run, sweep, shares, session, console, meter)
    planned = planned_trials(sweep)
    warm = warm_start(run, sweep, console)
    for problem in repair(run):
        context.print(f"Warning: {problem}")
    earlier = results(run)
    remove_leftovers(run, sweep, earlier)
    recorder = Recorder(run, sweep, meter)
    has_time = meter is None or meter.has_time_for_any(sweep)
    if (planned is None or len(earlier) < planned) and has_time:
        _search(context, planned, warm, earlier, recorder)
    if sweep.search.scheduler == "asha" or not has_time or meter:
        # paused ones of earlier starts that there was no slot for, and those that were ended from outside
        for out in run.trials():
            if not out.result_file.exists() and _is_whole(out):
                recorder.record(out)
    done = results(run)
    if planned is None or len(done) < planned:
        if meter is None:
            raise RfrayError(f"Ray Tune ended after {len(done)} of {planned} trials; the same command goes on")
        context.print(_what_is_left(run, sweep, len(done)))
    if len(done) == planned:
        _repeat_finalists(context, done)
    remove_leftovers(run, sweep, done)
    return done


def _search(
    context: SweepContext, planned: int | None, warm: WarmStart, earlier: list[TrialResult], recorder: Recorder
) -> None:
    run, sweep, meter = context.run, context.sweep, context.meter
    images = run.training_images()
    scheduler = SCHEDULERS[sweep.search.scheduler](sweep, images)
    display = Display(sweep, planned, images, earlier, context.console, context.deadline)
    proposals = Proposals(run, sweep, scheduler, context.at_once, warm, meter)
    recorder.on_result += [display.ended, proposals.ended]
    scheduler.on_pause += [display.paused, *([meter.account.release] if meter else [])]
    # with asha Ray must not let go of processes when all trials are proposed: paused ones go on in them
    missing = -1 if planned is None or sweep.search.scheduler == "asha" else planned - len(earlier)
    _fit(context, proposals, scheduler, missing, recorder, display)


def _repeat_finalists(context: SweepContext, done: list[TrialResult]) -> None:
    """Trains the best trials again, as the sweep asks for; what a budget leaves no time for is not done."""
    run, sweep = context.run, context.sweep
    wanted = repeated_starts(sweep, done)
    earlier = [result for one in wanted if (result := run.trial(one.id).result()) is not None]
    missing = [one for one in wanted if not run.trial(one.id).result_file.exists()]
    if not missing:
        return
    finalists = len({one.repeats for one in wanted})
    which = "the best trial" if finalists == 1 else f"the best {finalists} trials"
    context.print(f"Training {which} again: {len(missing)} of {len(wanted)} trainings are to be done")
    if context.meter is None or not context.meter.account.is_over():
        learn_fold_heads(run, sweep, missing, context.deadline)
        recorder = Recorder(run, sweep, context.meter)
        images = run.training_images()
        display = Display(sweep, len(wanted), images, earlier, context.console, context.deadline)
        recorder.on_result.append(display.ended)
        scheduler = SCHEDULERS["none"](sweep, images)
        listed = Listed(scheduler, context.at_once, written_starts(run, missing, context.meter))
        _fit(context, listed, scheduler, len(missing), recorder, display)
    left = [one for one in missing if not run.trial(one.id).result_file.exists()]
    if left and context.meter is None:
        raise RfrayError(f"Ray Tune ended with {len(left)} finalists' trainings missing; the same command goes on")
    if left:
        budget = f"search.budget of {sweep.search.budget}"
        context.print(f"The {budget} left no time for {len(left)} of the finalists' trainings; a larger one goes on")


def _is_whole(out: TrialDir) -> bool:
    """Whether a trial that has not ended has a best epoch, with the weights that its predictions are of."""
    out.mirror.pull(without=(*HEAVY, f"*{STATES}"))
    weights = predictions_metadata(out.predictions_file("val")).get("weights")
    if weights is None or not out.weights_file.exists():
        return weights is not None and isinstance(out.mirror.storage, Storage)  # there they stay where they are
    return file_digest(out.weights_file) == weights


def _what_is_left(run: RunDir, sweep: Sweep, done: int) -> str:
    still_open = len(run.trials()) - done
    begun = f", {still_open} that had no judged epoch yet go on then" if still_open else ""
    return f"The budget of {sweep.search.budget} is used up; a larger search.budget goes on{begun}"


def check_outcome(run: RunDir, sweep: Sweep, done: list[TrialResult]) -> None:
    """Raises SweepFailed, with each one's reason, where more trials, probes and repeats failed than allowed."""
    others = (*run.probes(), *run.repeats())
    done = [*(result for out in others if (result := out.result()) is not None), *done]
    failed = [result for result in done if result.status == "failed"]
    if len(failed) > sweep.search.max_failed:
        raise SweepFailed(
            f"{len(failed)} of {len(done)} trials failed (search.max_failed: {sweep.search.max_failed}):\n"
            + "\n".join(f"  {result.id}: {result.reason}" for result in failed)
            + f"\nThe whole of each trial's error is in error.txt in its folder, {run.trials_folder}/<id>"
        )


def _fit(
    context: SweepContext,
    searcher: RaySearcher,
    scheduler: TrialScheduler,
    missing: int,
    recorder: Recorder,
    display: Display,
) -> None:
    """Has Ray Tune run what the searcher proposes, until it has no more: `missing` trials, -1 where that is not known.

    Raises RfrayError where Ray has ended for a reason of rfray's.
    """
    sweep, meter = context.sweep, context.meter
    callbacks = [recorder, DiskMonitor(context.session), TensorBoard(context.run, sweep.search.metric), display]
    out_of_time = OutOfTime(meter) if meter else None
    callbacks += [BudgetCallback(meter, out_of_time)] if meter and out_of_time else []
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(context.at_once)  # Ray would start them one after the other
    try:
        _tuner(context, searcher, scheduler, missing, callbacks, out_of_time).fit()
    except (OSError, tune.TuneError) as error:
        if (reason := _reason(error, context.run, callbacks)) is None:
            raise
        raise reason from error
    finally:
        display.close()
        shutil.rmtree(context.run.ray_folder, ignore_errors=True)
        if (storage := context.run.mirror.storage) is not None:
            storage.remove_folder(context.run.ray_folder.name)
        if _has_workers(context.shares):
            # Tune gives a stopped trial five seconds to end, and the last ones may still be ending their workers
            free_workers(orphans_only=False)


def _tuner(
    context: SweepContext,
    searcher: RaySearcher,
    scheduler: TrialScheduler,
    missing: int,
    callbacks: list[SweepCallback],
    out_of_time: OutOfTime | None,
) -> tune.Tuner:
    return tune.Tuner(
        _trainable(context),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=missing,
            # a process that pauses keeps its workers, for which another trial may be waiting
            reuse_actors=not _has_workers(context.shares),
            trial_name_creator=lambda trial: str(trial.config["id"]),
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(
            name=context.run.ray_folder.name,
            storage_path=str(context.run.where),
            # a trial that fails says so itself; what Ray sees is a process that died, and starts it again
            failure_config=tune.FailureConfig(max_failures=-1),
            callbacks=[*callbacks, Silence(), *mlflow_callbacks(context.sweep)],
            stop=out_of_time,
            verbose=0,
        ),
    )


def _trainable(context: SweepContext) -> Callable[..., Any]:
    """The function that Ray Tune calls in a trial's process, with what it asks for."""
    job = SweepJob(
        context.run.where,
        uuid.uuid4().hex[:8],
        context.shares,
        deadline=context.deadline,
        watches_budget=context.meter is not None and context.deadline is None,
    )

    def asked(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([job.shares.of(trial_of(config)).trial_resources])

    trainable: Callable[..., Any] = tune.with_resources(tune.with_parameters(run_trial, job=job), asked)
    return trainable


def _has_workers(shares: TrialSlots) -> bool:
    return any(slot.workers > 1 for slot in shares.kinds)


def _reason(error: Exception, run: RunDir, callbacks: list[SweepCallback]) -> RfrayError | None:
    """Why Ray Tune has ended, where that is a full disk or what a callback has raised; else None."""
    # Ray's own files in the run folder may meet a full disk, too; of that there is only text
    if (isinstance(error, OSError) and is_disk_full(error)) or os.strerror(errno.ENOSPC) in str(error):
        return no_room(run.path, 0)
    return next((one.reason for one in callbacks if one.reason), None)

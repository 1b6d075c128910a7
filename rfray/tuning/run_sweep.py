"""a sweep -> trials on Ray Tune -> the run folder: start, follow, resume."""

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console
from rich.text import Text

from rfray.cluster.placement_groups import free_workers
from rfray.cluster.slots import TrialSlots, slot_count
from rfray.errors import RfrayError, SweepFailed
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import Sweep
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import file_digest, is_disk_full, no_room
from rfray.store.records import TrialResult, WarmStart
from rfray.store.run_dir import HEAVY, RunDir, TrialDir
from rfray.store.storage import STATES, Storage
from rfray.store.tables import training_images
from rfray.tuning.asha import Asha
from rfray.tuning.budget import Meter, OutOfTime
from rfray.tuning.callbacks import Silence
from rfray.tuning.disk_monitor import DiskWatch
from rfray.tuning.display import Display
from rfray.tuning.finalists import Listed, repeats
from rfray.tuning.integrity import mend
from rfray.tuning.probing import learn_without_folds
from rfray.tuning.proposals import Proposals, judged_epochs
from rfray.tuning.recorder import Recorder, results, tidy
from rfray.tuning.strategies import PAUSING, SCHEDULERS, ByName, planned_trials
from rfray.tuning.trackers import TensorBoard, mlflow_callbacks
from rfray.tuning.trainable import Job, run_trial, trial_of
from rfray.tuning.warm_start import warm_start

NOBODY = SimpleNamespace(get_live_trials=list)
"""Stands in for Ray's controller while a scheduler is told of the past: no trial is live."""


@dataclass(frozen=True)
class Conditions:
    """What all trials of one start run under."""

    run: RunDir
    sweep: Sweep
    shares: TrialSlots
    """What each trial gets."""
    session: Path
    """Ray's temporary folder."""
    console: Console
    trainable: Callable[..., None]
    """What runs in a trial's process: a function of a setting and a Job."""
    meter: Meter | None
    """How much of a budget there is, if any."""

    @property
    def at_once(self) -> int:
        """Most trials that run at the same time."""
        return self.sweep.search.concurrent or slot_count(self.shares)


def run_sweep(
    run: RunDir,
    sweep: Sweep,
    shares: TrialSlots,
    session: Path,
    console: Console,
    trainable: Callable[..., None] = run_trial,
    meter: Meter | None = None,
) -> list[TrialResult]:
    """Runs what is left of the sweep on the connected Ray cluster, then of its finalists' repeats.

    All trials' results, in the order they ended. The arguments are those of `Conditions`.
    Raises RfrayError where Ray ended without running every trial, DiskFullError, and SweepFailed where going on would
    be a waste.
    """
    conditions = Conditions(run, sweep, shares, session, console, trainable, meter)
    planned = planned_trials(sweep)
    warm = warm_start(run, sweep, console)
    for found in mend(run):
        console.print(Text(f"Warning: {found}"), soft_wrap=True)
    earlier = results(run)
    tidy(run, sweep, earlier, every_state=False)
    recorder = Recorder(run, sweep, meter)
    has_time = meter is None or meter.has_time_for_any(sweep)
    if (planned is None or len(earlier) < planned) and has_time:
        _search(conditions, planned, warm, earlier, recorder)
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
    if planned is not None and len(done) == planned:
        _repeat_finalists(conditions, done)
    tidy(run, sweep, done, every_state=True)
    return done


def _search(
    here: Conditions, planned: int | None, warm: WarmStart, earlier: list[TrialResult], recorder: Recorder
) -> None:
    images = training_images(here.run)
    scheduler = SCHEDULERS[here.sweep.search.scheduler](here.sweep, images)
    asha = scheduler if isinstance(scheduler, Asha) else None
    retrace(scheduler, here.run)
    deadline = here.meter.deadline if here.meter else None
    display = Display(here.sweep, planned, images, earlier, here.console, deadline)
    recorder.follow(display.ended)
    # hyperband waits for whole brackets, of which most trials are paused
    most = None if here.sweep.search.scheduler == "hyperband" else here.at_once
    proposals = Proposals(here.run, here.sweep, planned, most, warm, asha, here.meter)
    recorder.follow(proposals.ended)
    if asha is not None:
        asha.on_pause += [display.paused, *([here.meter.paused] if here.meter else [])]
    # with asha Ray must not let go of processes when all trials are proposed: paused ones go on in them
    missing = -1 if planned is None or asha else planned - len(earlier)
    _fit(here, proposals, scheduler, missing, recorder, display)


def _repeat_finalists(here: Conditions, done: list[TrialResult]) -> None:
    """Trains the best trials again, as the sweep asks for; what a budget leaves no time for is not done."""
    wanted = repeats(here.sweep, done)
    found = [here.run.trial(one.id).result() for one in wanted]
    earlier = [result for result in found if result is not None]
    missing = [start for start, result in zip(wanted, found, strict=True) if result is None]
    if not missing:
        return
    finalists = len({one.repeats for one in wanted})
    whom = "the best trial" if finalists == 1 else f"the best {finalists} trials"
    text = f"Training {whom} again: {len(missing)} of {len(wanted)} trainings are to be done"
    here.console.print(Text(text), soft_wrap=True)
    if here.meter is None or not here.meter.is_over():
        deadline = here.meter.deadline if here.meter else None
        learn_without_folds(here.run, here.sweep, missing, deadline)
        recorder = Recorder(here.run, here.sweep, here.meter)
        images = training_images(here.run)
        display = Display(here.sweep, len(wanted), images, earlier, here.console, deadline)
        recorder.follow(display.ended)
        listed = Listed(here.run, missing, here.at_once, here.meter)
        _fit(here, listed, SCHEDULERS["none"](here.sweep, images), len(missing), recorder, display)
    left = [start for start in missing if not here.run.trial(start.id).result_file.exists()]
    if left and here.meter is None:
        raise RfrayError(f"Ray Tune ended with {len(left)} finalists' trainings missing; the same command goes on")
    if left:
        budget = f"search.budget of {here.sweep.search.budget}"
        text = f"The {budget} left no time for {len(left)} of the finalists' trainings; a larger one goes on"
        here.console.print(Text(text), soft_wrap=True)


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


def retrace(scheduler: TrialScheduler, run: RunDir) -> None:
    """Tells a new scheduler every epoch of earlier starts, in order.

    An open trial that it stops on the way makes its files whole and says that epoch again: then it is stopped.
    """
    epochs = judged_epochs(run)
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


def _fit(
    here: Conditions,
    searcher: RaySearcher,
    scheduler: TrialScheduler,
    missing: int,
    recorder: Recorder,
    display: Display,
) -> None:
    """Has Ray Tune run what the searcher proposes, until it has no more: `missing` trials, -1 where that is not known.

    Raises RfrayError where Ray has ended for a reason of ours.
    """
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # rfray says in its own words what fails
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(here.at_once)  # Ray would start them one after the other
    run, shares, meter = here.run, here.shares, here.meter
    job = Job(run.where, uuid.uuid4().hex[:8], shares, checkpoints=here.sweep.search.scheduler in PAUSING)
    if meter is not None:
        job = replace(job, deadline=meter.deadline, watches_budget=meter.deadline is None)

    def asked(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([shares.of(trial_of(config)).trial_resources])

    followers = [recorder, DiskWatch(here.session), TensorBoard(run, here.sweep.search.metric), display]
    followers += [meter] if meter else []
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(here.trainable, job=job), asked),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=missing,
                # a process that pauses keeps its workers, for which another trial may be waiting
                reuse_actors=all(slot.workers == 1 for slot in shares.kinds),
                trial_name_creator=lambda trial: str(trial.config["id"]),
                trial_dirname_creator=lambda trial: str(trial.config["id"]),
            ),
            run_config=tune.RunConfig(
                name=run.ray_folder.name,
                storage_path=str(run.where),
                # a trial that fails says so itself; what Ray sees is a process that died, and starts it again
                failure_config=tune.FailureConfig(max_failures=-1),
                callbacks=[*followers, Silence(), *mlflow_callbacks(here.sweep)],
                stop=OutOfTime(meter) if meter else None,
                verbose=0,
            ),
        ).fit()
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
        shutil.rmtree(run.ray_folder, ignore_errors=True)
        if run.mirror.storage is not None:
            run.mirror.storage.remove_folder(run.ray_folder.name)
        if any(slot.workers > 1 for slot in shares.kinds):
            # Tune gives a stopped trial five seconds to end, and the last ones may still be ending their workers
            free_workers(orphans_only=False)

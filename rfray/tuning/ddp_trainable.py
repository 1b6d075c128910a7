"""One trial -> Ray Train's workers, which train it as one: what its process does where a trial has several workers.

The process itself holds nothing that a worker needs, so that no two trials can wait for each other: it asks for a bit
of memory, and Ray gives its workers all that they ask for, or nothing yet. Whatever ends the trial, its workers have
given their resources back before its process goes on.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig, collective
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from rfray.cluster.placement_groups import free_workers
from rfray.cluster.ray_internals import without_group_cleaner
from rfray.errors import GroupMemoryError, GroupStoppedError
from rfray.store.storage import STATES
from rfray.tuning.trial_job import TrialJob, WorkerLostError, train_trial

if TYPE_CHECKING:
    from rfray.training.learner import Epoch

PAUSE = 2.0
"""Seconds between two checks of what holds resources that the workers wait for; to start them takes 20 s or more."""

Report = Callable[[dict[str, Any], list[str]], None]
"""Called with the fields of an Epoch, and warnings. May raise to end the trial."""


def train_ddp(job: TrialJob, report: Report) -> None:
    """Trains with `job.slot.workers` workers; `report` is called in this process.

    Raises what a worker raised, and WorkerLostError where one has died. Where `report` raises, all workers have ended
    before that goes on.
    """
    while True:
        try:
            _train(job, report)
            return
        except GroupMemoryError:
            pass  # trial.json holds now how many images fit


def _train(job: TrialJob, report: Report) -> None:
    slot = job.slot
    events, replies = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
    scaling = ScalingConfig(num_workers=slot.workers, use_gpu=slot.gpu > 0, resources_per_worker=slot.resources)
    try:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:  # ends after the trainer
            run_config = RunConfig(name=job.id, storage_path=folder)
            trainer = without_group_cleaner(TorchTrainer)(
                lambda: _work(job, events, replies), scaling_config=scaling, run_config=run_config
            )
            training = pool.submit(trainer.fit)
            try:
                _forward(events, replies, training, report)
            except BaseException:
                replies.put(False)
                raise
            training.result()
    except ray.train.WorkerGroupError as error:
        raise _cause([_raised(one) for one in error.worker_failures.values()]) from error
    except ray.train.ControllerError as error:
        raise error.controller_failure from error
    finally:
        events.shutdown(force=True)
        replies.shutdown(force=True)


def _forward(events: Queue, replies: Queue, training: "Future[Any]", report: Report) -> None:
    """Calls `report` with every epoch until the training ends, and with the warnings before it."""
    begun, warnings = False, []
    while not training.done():
        try:
            event = events.get(timeout=PAUSE)
        except Empty:
            if not begun:
                free_workers(orphans_only=True)
            continue
        begun = True
        if isinstance(event, str):
            warnings.append(event)
        else:
            report(event, warnings)
            warnings = []
            replies.put(True)


def _raised(failure: BaseException) -> BaseException:
    """What the worker itself raised, which Ray Train wraps; or what Ray says of its death."""
    return next((inner for inner in failure.args if isinstance(inner, BaseException)), failure)


def _cause(failures: list[BaseException]) -> BaseException:
    """What made a group of workers fail: most fail only because another one has."""
    from rfray.training.distributed import is_lost_peer

    lost = [one for one in failures if _is_death(one) or is_lost_peer(one)]
    reasons = [one for one in failures if one not in lost]
    return reasons[0] if reasons else WorkerLostError(str(lost[0]).splitlines()[0])


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RayActorError) or isinstance(getattr(error, "health_check_failure", None), RayActorError)


def _work(job: TrialJob, events: Queue, replies: Queue) -> None:
    """What each worker does: puts warnings, and of the first one every epoch, into `events`."""
    from rfray.training.distributed import this_group

    def on_epoch(epoch: "Epoch") -> None:
        events.put(asdict(epoch))
        if not replies.get():
            raise GroupStoppedError("the trial was ended")

    try:
        if this_group().rank == 0:
            job.out.mirror.pull(removing=STATES)  # another node may have had the trial before
        else:
            job.out.mirror.fetch(job.out.start_file)
        # the barrier has no limit in time: on some nodes the images may have had to be decoded first
        train_trial(job, on_epoch, events.put, wait_for_others=collective.barrier)
    except GroupStoppedError:
        return  # the first worker raises why, or was told to end

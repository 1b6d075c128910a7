"""One trial -> Ray Train's workers, which train it as one: what its process does where a trial has several workers.

The process itself holds nothing that a worker needs, so that no two trials can wait for each other: it asks for a bit
of memory, and Ray gives its workers all that they ask for, or nothing yet. Whatever ends the trial, its workers have
given their resources back before its process goes on.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig, collective
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from rfray.cluster.ray_internals import free_groups, without_group_cleaner
from rfray.errors import GroupMemoryError, GroupStoppedError, first_line
from rfray.store.ownership import work_for
from rfray.store.run_dir import RunDir
from rfray.store.storage import STATES
from rfray.tuning.trainable import TrialJob, WorkerLostError, train_trial

if TYPE_CHECKING:
    from rfray.training.learner import Epoch

CHECK_PAUSE = 2.0
"""Seconds between two checks of what holds resources that the workers wait for; to start them takes 20 s or more."""


def train_ddp(job: TrialJob, report: Callable[[dict[str, Any], list[str]], None]) -> None:
    """Trains with `job.slot.workers` workers, and calls `report` in this process with the fields of each Epoch.

    `report` also gets what the workers have warned of, and may raise to end the trial; all workers have ended before
    that goes on. Raises what a worker raised, and WorkerLostError where one has died.
    """
    slot, begun, ended = job.slot, False, True
    warnings: list[str] = []
    events, replies = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
    scaling = ScalingConfig(num_workers=slot.workers, use_gpu=slot.gpu > 0, resources_per_worker=slot.resources)
    try:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:  # ends after the trainer
            run_config = RunConfig(name=job.id, storage_path=folder)
            trainer_type = without_group_cleaner(TorchTrainer)
            trainer = trainer_type(lambda: _work(job, events, replies), scaling_config=scaling, run_config=run_config)
            training = pool.submit(trainer.fit)
            while not training.done():
                try:
                    event = events.get(timeout=CHECK_PAUSE)
                except Empty:
                    if not begun:
                        free_groups("orphans")
                    continue
                begun = True
                if isinstance(event, str):
                    warnings.append(event)
                    continue
                try:
                    report(event, warnings)
                except BaseException:
                    replies.put(False)
                    raise
                warnings.clear()
                replies.put(True)
            training.result()
    except ray.train.WorkerGroupError as error:
        cause = _cause(list(error.worker_failures.values()))
        if not isinstance(cause, GroupMemoryError):
            raise cause from error
        ended = False
    except ray.train.ControllerError as error:
        raise error.controller_failure from error
    finally:
        events.shutdown(force=True)
        replies.shutdown(force=True)
    if not ended:
        train_ddp(job, report)  # trial.json holds now how many images fit


def _cause(failures: list[BaseException]) -> BaseException:
    """What made a group of workers fail: most fail only because another one has."""
    from rfray.training.distributed import is_lost_peer

    # what a worker has raised itself, which Ray Train wraps; or what Ray says of its death
    own = [next((inner for inner in one.args if isinstance(inner, BaseException)), one) for one in failures]
    lost = [
        one for one in own if isinstance(getattr(one, "health_check_failure", one), RayActorError) or is_lost_peer(one)
    ]
    reasons = [one for one in own if one not in lost]
    return reasons[0] if reasons else WorkerLostError(first_line(lost[0]))


def _work(job: TrialJob, events: Queue, replies: Queue) -> None:
    """What each worker does: puts warnings, and of the first one every epoch, into `events`."""
    from rfray.training.distributed import this_group

    def on_epoch(epoch: "Epoch") -> None:
        events.put(asdict(epoch))
        if not replies.get():
            raise GroupStoppedError("the trial was ended")

    try:
        work_for(RunDir(job.sweep.run), job.sweep.holder)
        if this_group().rank == 0:
            job.out.mirror.pull(removing=STATES)  # another node may have had the trial before
        else:
            job.out.mirror.fetch(job.out.start_file)
        # the barrier has no limit in time: on some nodes the images may have had to be decoded first
        train_trial(job, on_epoch, events.put, wait_for_others=collective.barrier)
    except GroupStoppedError:
        return  # the first worker raises why, or was told to end

"""one trial -> Ray Train's workers, which train it together: what its process does where a trial has several workers.

The process itself holds nothing that a worker needs, so that no two trials can wait for each other: it asks for a bit
of memory, and Ray gives its workers all that they ask for, or nothing yet. Whatever ends the trial, they have given it
back before its process goes on.
"""

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig, collective
from ray.train.torch import TorchTrainer

from rfray.cluster.placement_groups import free_workers
from rfray.cluster.ray_internals import without_group_cleaner
from rfray.cluster.slots import Slot
from rfray.errors import GroupMemoryError, GroupStoppedError
from rfray.spec.trial import Trial
from rfray.store.run_dir import RunDir
from rfray.store.storage import STATES
from rfray.tuning.trainable import GroupLostError, Job, check_in, data_of, remember, time_left

PAUSE = 2.0
"""Seconds between two looks at what holds resources that the workers wait for."""

Report = Callable[[dict[str, Any], list[str]], None]
"""Is told the fields of an Epoch, and warnings. May raise to end the trial."""


@dataclass(frozen=True)
class Order:
    """What every worker needs to know."""

    job: Job
    id: str
    trial: Trial
    slot: Slot
    token: str
    """By which the trial's folder is this group's to write."""


class Desk:
    """Where the first worker tells every epoch, and waits for leave to go on."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()
        self._warnings: list[str] = []

    async def warn(self, sentence: str) -> None:
        """Any worker has something that the user should know."""
        self._warnings.append(sentence)

    async def tell(self, epoch: dict[str, Any]) -> bool:
        """Whether to go on after this epoch."""
        await self._told.put(epoch)
        return await self._answers.get()

    async def next(self) -> tuple[dict[str, Any], list[str]]:
        """Waits for an epoch; with it, what else was said."""
        epoch = await self._told.get()
        said, self._warnings = self._warnings, []
        return epoch, said

    async def answer(self, go_on: bool) -> None:
        """Lets the first worker go on, or end."""
        await self._answers.put(go_on)


def train_together(order: Order, report: Report) -> None:
    """Trains with `order.slot.workers` workers; `report` is called in this process.

    Raises what a worker raised, and GroupLostError where one has died. Where `report` raises, all workers have ended
    before that goes on.
    """
    while True:
        try:
            _train(order, report)
            return
        except GroupMemoryError:
            pass  # trial.json says now how many images fit


def _train(order: Order, report: Report) -> None:
    desk = ray.remote(Desk).options(num_cpus=0).remote()
    slot = order.slot
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            ThreadPoolExecutor(1) as pool,
        ):  # leaves when the trainer has ended
            trainer = without_group_cleaner(TorchTrainer)(
                lambda: _work(order, desk),
                scaling_config=ScalingConfig(
                    num_workers=slot.workers, use_gpu=slot.gpu > 0, resources_per_worker=slot.resources
                ),
                run_config=RunConfig(name=order.id, storage_path=folder),
            )
            training = pool.submit(trainer.train)
            try:
                _listen(desk, training, report)
            except BaseException:
                ray.get(desk.answer.remote(False))
                raise
            training.result()
    except ray.train.WorkerGroupError as error:
        raise _cause([_raised(one) for one in error.worker_failures.values()]) from error
    except ray.train.ControllerError as error:
        raise error.controller_failure from error
    finally:
        ray.kill(desk)


def _listen(desk: Any, training: "Future[Any]", report: Report) -> None:
    """Hands on every epoch until the training ends."""
    told, begun = desk.next.remote(), False
    while not training.done():
        ready, _ = ray.wait([told], timeout=PAUSE)
        if ready:
            begun = True
            report(*ray.get(told))
            ray.get(desk.answer.remote(True))
            told = desk.next.remote()
        elif not begun:
            free_workers(orphans_only=True)


def _raised(failure: BaseException) -> BaseException:
    """What the worker itself raised, which Ray Train wraps; or what Ray says of its death."""
    return next((inner for inner in failure.args if isinstance(inner, BaseException)), failure)


def _cause(failures: list[BaseException]) -> BaseException:
    """What made a group fail: the others fail of it, too."""
    from rfray.training.distributed import is_lost_peer

    lost = [one for one in failures if _is_death(one) or is_lost_peer(one)]
    reasons = [one for one in failures if one not in lost]
    return reasons[0] if reasons else GroupLostError(str(lost[0]).splitlines()[0])


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RayActorError) or isinstance(getattr(error, "health_check_failure", None), RayActorError)


def _work(order: Order, desk: Any) -> None:
    """What each worker does."""
    from rfray.training.distributed import this_group
    from rfray.training.loop import Epoch, Hooks, train

    out, group = RunDir(order.job.run).trial(order.id), this_group()
    if group.is_first:
        out.mirror.pull(removing=STATES)  # another node may have had the trial before
    else:
        out.mirror.fetch(out.start_file)
    sweep, data, warnings = data_of(order.job.run, order.trial, out.start().fold)

    def warn(sentence: str) -> None:
        ray.get(desk.warn.remote(sentence))

    def tell(epoch: Epoch) -> None:
        out.mirror.push(removing=STATES)
        if not ray.get(desk.tell.remote(asdict(epoch))):
            raise GroupStoppedError("the trial was ended")

    for sentence in warnings:
        warn(sentence)
    collective.barrier()  # without a limit in time: on some nodes the images may have had to be decoded first
    hooks = Hooks(tell, partial(remember, out), warn, partial(check_in, out, order.token), time_left(order.job))
    micro_batch = out.start().micro_batch or order.slot.micro_batch
    try:
        train(order.trial, data, out, sweep.search.metric, order.slot.threads, hooks, micro_batch, group)
    except GroupStoppedError:
        return  # the first worker says why, or was told to

"""a bundle -> processes of Ray Serve that have its models, on this machine, and what calls them."""

import logging
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from fastapi import HTTPException
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from rfray.cluster.slots import nodes, slot_count, worker_slot
from rfray.errors import ClusterError, RfrayError
from rfray.serving.batching import Squares
from rfray.serving.uploads import come_again
from rfray.spec.sweep import Resources

RESTART_SECONDS = 10
"""After about so long, a process that has died is there again."""
MOST_ON_CPUS = 4
"""Processes with a thread each predict more than one with as many threads; but each takes 0.7 GB, and more with large
models."""
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Else torch's waiting threads keep their cores busy, which the server shares with them."""
CALLS = 100
"""To one process at once: batches, heat maps and whether it is alive."""
log = logging.getLogger(__name__)


class Replica:
    """The models in a process of Ray Serve; torch is imported there only. See `LoadedModels`."""

    def __init__(self, where: str, threads: int) -> None:
        _listen_on_loopback()

        from rfray.serving.models import LoadedModels

        models = LoadedModels(where, threads)
        self.scores, self.evidence, self.alive = models.scores, models.evidence, models.alive


@dataclass(frozen=True)
class Replicas:
    """All replicas; each call goes to one of them. See `app.Models`."""

    handle: DeploymentHandle
    count: int

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k, b) float64 for a batch of b images."""
        return np.asarray(await _answer(self.handle.scores.remote(squares)))

    async def evidence(self, picture: np.ndarray) -> bytes:
        """The heat map of (height, width, 3) uint8, as JPEG."""
        return bytes(await _answer(self.handle.evidence.remote(picture)))

    async def alive(self) -> None:
        """Returns, if one of them is."""
        await _answer(self.handle.alive.remote())


def start_replicas(where: str, replicas: int | None, gpu: float | None) -> Replicas:
    """Starts them on the Ray that is connected, and waits until they have loaded the bundle.

    By default one for each GPU; without one, for each core, up to MOST_ON_CPUS. Each gets a share `gpu`, by default a
    GPU where there is any, and its part of the cores. Raises ClusterError where there is not so much, RfrayError where
    they don't start.
    """
    gpus, cores = sum(node.gpu for node in nodes()), os.cpu_count() or 1
    share = min(1.0, gpus) if gpu is None else gpu
    count = replicas or (max(1, int(gpus / share)) if share else min(MOST_ON_CPUS, cores))
    threads = max(1, cores // count)
    slot = worker_slot(Resources(cpu=threads, gpu=share))
    if slot_count(slot) < count:
        raise ClusterError(f"--replicas {count}: this machine has room for {slot_count(slot)} with {slot}")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "ERROR"})
    models = serve.deployment(
        Replica,
        name="models",
        num_replicas=count,
        max_ongoing_requests=CALLS,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": threads, "num_gpus": share, "runtime_env": {"env_vars": NO_SPINNING}},
    )
    try:
        return Replicas(serve.run(models.bind(where, threads), name="rfray", route_prefix=None), count)
    except RuntimeError as error:
        message = serve.status().applications["rfray"].deployments["models"].message  # ends with a traceback
        reason = message.strip().splitlines()[-1].partition(": ")[2]
        raise RfrayError(f"the models did not start: {reason or error}") from error


def _listen_on_loopback() -> None:
    """Has Ray Serve's server for calls from other nodes listen on 127.0.0.1: it takes pickles from anybody.

    Ray Serve has no setting for it, so gRPC's own method is replaced, in the process of the models alone.
    """
    server_class = type(grpc.aio.server())
    add_port = server_class.add_insecure_port
    server_class.add_insecure_port = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


async def _answer(response: Awaitable[Any]) -> Any:
    try:
        return await response
    except RayTaskError as error:
        log.error("the models failed: %s", error)
        raise HTTPException(500, "the models failed; the server's output says why") from None
    except (RayError, RayServeException):
        raise come_again("the process with the models has ended and is being started again", RESTART_SECONDS) from None

"""a bundle -> a server: HTTP in this process, the models in processes of Ray Serve.

Ray Serve's own HTTP proxy is not used: with two cores it took 8 ms of CPU for a request, against 0.5 ms; it takes
uploads into memory without a limit; and a handle called for every image, as `serve.batch` wants it, costs 6 ms, where
a call here carries a batch.
"""

import logging
import os
import resource
import shutil
import signal
import socket
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvicorn
from fastapi import HTTPException
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from rfray.cluster.connect import connected
from rfray.cluster.session_folder import own_folder
from rfray.cluster.slots import nodes, slot_count, worker_slot
from rfray.data.decoder_process import start_decoders
from rfray.data.geometry import geometry_of
from rfray.errors import ClusterError, InputError, RfrayError
from rfray.serving.app import Endpoints
from rfray.serving.batching import Squares
from rfray.serving.connections import Connection
from rfray.serving.hosts import check_hosts
from rfray.serving.uploads import Limits, come_again
from rfray.spec.sweep import Resources
from rfray.store.bundle_record import ENSEMBLE_FILE
from rfray.store.files import user_cache
from rfray.store.run_dir import read_bundle
from rfray.store.storage import is_address

IDLE_SECONDS = 30
"""A connection that asks for nothing is closed."""
STOP_SECONDS = 10
"""Time for the requests that are being answered when the server is stopped."""
RESTART_SECONDS = 10
"""After about so long, a process that has died is there again."""
OWN_FILES = 300
"""Open files of the server that are no connections: those of Ray, decoders and large uploads (our choice)."""
FULL_PRIORITY = {"RAY_worker_niceness": "0"}
"""By default Ray's processes run at nice 15, behind all others; here somebody waits for an answer."""
MOST_ON_CPUS = 4
"""Processes with a thread each predict more than one with as many threads; but each takes 0.7 GB, and more with large
models."""
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Else torch's waiting threads keep their cores busy, which the server shares with them."""
CALLS = 100
"""To one process at once: batches, heat maps and whether it is alive."""


def serve_bundle(
    where: str, host: str, port: int, replicas: int | None, gpu: float | None, hosts: Sequence[str] = ()
) -> None:
    """Answers requests until it is stopped by Ctrl-C or SIGTERM, which it does in good order; then it returns.

    It answers to the name `host`, to `hosts` and to localhost.
    Of `replicas` and `gpu`, see `start_replicas`. Raises InputError where the bundle, the address or the resources are
    not to be had, RfrayError where the models don't start.
    """
    check_hosts(hosts)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a warning for every upload that is none
    where = where if is_address(where) else str(Path(where).absolute())
    start_decoders(1)
    with _bound(host, port) as listener, kept(where) as copy, connected(None, Resources(cpu=1), FULL_PRIORITY):
        _, ensemble, bundle = read_bundle(copy)
        geometries = [geometry_of(member.trial, bundle.reencode) for member in bundle.members]
        allowed = limits_here()

        class Limited(Connection):
            limits = allowed

        models = start_replicas(str(copy), replicas, gpu)
        config = uvicorn.Config(
            # while one batch is computed, the next one is on its way
            Endpoints(ensemble, geometries, models, 2 * models.count, allowed).app([host, *hosts]),
            http=Limited,
            ws="none",
            lifespan="off",
            log_level="error",  # a warning for every request that is none
            access_log=False,
            server_header=False,
            limit_concurrency=allowed.connections,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        name, at, *_ = listener.getsockname()
        with suppress(KeyboardInterrupt):  # uvicorn's way to say that it was stopped
            listener.listen()
            address = f"http://{f'[{name}]' if ':' in name else name}:{at}"
            print(f"Serving {len(bundle.members)} models at {address} (Ctrl-C stops it)", flush=True)
            uvicorn.Server(config).run([listener])
        for polite in (signal.SIGINT, signal.SIGTERM):  # the rest is done in a second
            signal.signal(polite, signal.SIG_IGN)
    print("Stopped")


def limits_here() -> Limits:
    """The limits, with no more connections than the open files of this process allow."""
    limits, files = Limits(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return limits
    return replace(limits, connections=min(limits.connections, max(1, files - OWN_FILES)))


@contextmanager
def kept(where: str) -> Iterator[Path]:
    """A folder with the bundle as it is now: a process that starts anew is to load the same, whatever is written there.

    The weights are links where that can be, and are held against their digests whenever they are loaded. Raises
    RunError where there is no bundle; errors in the block name the bundle, not its copy.
    """
    folder, _, bundle = read_bundle(where)
    with own_folder(user_cache() / "serving", "a copy of the bundle", "RFRAY_CACHE") as copy:
        try:
            for name in (ENSEMBLE_FILE, *bundle.files):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # another disk, or somebody else's file
                    if name.endswith(".safetensors"):  # an editor may write into the others
                        os.link(folder / name, copy / name)
                if not (copy / name).exists():
                    shutil.copyfile(folder / name, copy / name)
            yield copy
        except RfrayError as error:
            raise type(error)(*(line.replace(str(copy), str(folder)) for line in error.args)) from error


class Replica:
    """The models in a process of Ray Serve; torch is imported there only. See `LoadedModels`."""

    def __init__(self, where: str, threads: int) -> None:
        # Ray Serve's server for calls from other nodes takes pickles from anybody, so it is to listen on 127.0.0.1; as
        # there is no setting for it, gRPC's own method is replaced
        server_class = type(grpc.aio.server())
        add_port = server_class.add_insecure_port
        server_class.add_insecure_port = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))

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


async def _answer(response: Awaitable[Any]) -> Any:
    try:
        return await response
    except RayTaskError as error:
        logging.getLogger(__name__).error("the models failed: %s", error)
        raise HTTPException(500, "the models failed; the server's output says why") from None
    except (RayError, RayServeException):
        raise come_again("the process with the models has ended and is being started again", RESTART_SECONDS) from None


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but does not listen yet. Raises InputError where it is not to be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no hindrance
        listener.bind(address)
        return listener
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}; choose another one") from None

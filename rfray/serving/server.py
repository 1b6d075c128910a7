"""a bundle -> a server: HTTP in this process, the models in processes of Ray Serve.

Ray Serve's own HTTP proxy is not used: with two cores it took 8 ms of CPU for a request, against 0.5 ms; it takes
uploads into memory without a limit; and a handle called for every image, as `serve.batch` wants it, costs 6 ms, where
a call here carries a batch.
"""

import signal
import socket
from contextlib import suppress
from pathlib import Path

import uvicorn

from rfray.cluster.connect import connected
from rfray.data.geometry import geometry_of
from rfray.errors import InputError
from rfray.serving.app import create_app
from rfray.serving.replica import start_replicas
from rfray.serving.server_metrics import MeteredApp
from rfray.serving.uploads import Limits
from rfray.spec.sweep import Resources
from rfray.store.run_dir import read_bundle
from rfray.store.storage import is_address

IDLE_SECONDS = 30
"""A connection that asks for nothing is closed."""
STOP_SECONDS = 10
"""Time for the requests that are being answered when the server is stopped."""
LIMITS = Limits()
FULL_PRIORITY = {"RAY_worker_niceness": "0"}
"""By default Ray's processes run at nice 15, behind all others; here somebody waits for an answer."""


def serve_bundle(where: str, host: str, port: int, replicas: int | None, gpu: float | None) -> None:
    """Answers requests until it is stopped by Ctrl-C or SIGTERM, which it does in good order; then it returns.

    Of `replicas` and `gpu`, see `start_replicas`. Raises InputError where the bundle, the address or the resources are
    not to be had, RfrayError where the models don't start.
    """
    where = where if is_address(where) else str(Path(where).absolute())
    with _bound(host, port) as listener:
        _, ensemble, bundle = read_bundle(where)
        geometries = [geometry_of(member.trial, bundle.reencode) for member in bundle.members]
        with connected(None, Resources(cpu=1), FULL_PRIORITY):
            models = start_replicas(where, replicas, gpu)
            # while one batch is computed, the next one is on its way
            app = create_app(ensemble, geometries, models, 2 * models.count, LIMITS)
            server = _Server(_config(app))
            server.description = f"{len(bundle.members)} models at {_address(listener)}"
            with suppress(KeyboardInterrupt):  # uvicorn's way to say that it was stopped
                server.run([listener])
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest is done in a second
    print("Stopped")


def _config(app: MeteredApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=LIMITS.connections,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class _Server(uvicorn.Server):
    """One that prints where it is when it answers."""

    description = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does."""
        await super().startup(sockets)
        print(f"Serving {self.description} (Ctrl-C stops it)", flush=True)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but does not listen yet. Raises InputError where it is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no hindrance
        listener.bind(address)
        return listener
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}; choose another one") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""an address, or none -> a connection to the Ray cluster there, or to a Ray that is started on this machine alone."""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # the run folder is the truth, not Ray's snapshots
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no score to report
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # nothing of Ray's needs saving first

import psutil
import ray
from ray.util import client

from rfray.cluster.ray_internals import keep_environment, leave_groups, loopback_only
from rfray.cluster.session_folder import session_folder
from rfray.errors import ClusterError, RfrayError, check_no_secret, of_system
from rfray.spec.sweep import Resources

TRIAL_MODULES = ["rfray.training.loop", "rfray.tuning.trainable"]
"""They import all that a trial needs."""
READY = 4
"""At most so many processes import them before there is a trial; each takes 0.4 GB."""
OPEN_FILES = 1024
"""That a process may have, for a Ray to be started: with 64, its processes end one after the other."""
CONNECT_SECONDS = 5
"""Time to open a connection to the head."""
PROBE_SECONDS = 40
"""Time for the probe; it takes 2 s on an idle machine, and 12 s with a load of 9 on two cores."""
PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_server_request_timeout_seconds": "5"}
"""Ray's settings for the probe; by default it tries 20 times, and waits 60 s for a node on this machine."""
TOKEN_HELP = "Set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token (chmod 600)"  # noqa: S105


@contextmanager
def connected(address: str | None, resources: Resources, settings: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Ray for the length of a block: the cluster at `address`, or one that is started on this machine alone.

    The latter has processes import what trials need while the command goes on; `resources` are those of a trial.
    `settings` (environment variables of Ray's processes) take the place of that.
    A Ray that this process has already, as a notebook after `ray.init`, is used, and left as it is.
    Gives the folder where Ray keeps its logs and spilled objects on this machine.
    Raises ClusterError where nothing answers at `address`, it would not take this process in, or this process is
    connected to another one.
    """
    keep_environment()
    if ray.is_initialized():
        yield _of_caller(address)
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        try:
            if settings is None:
                ready = max(1, min(READY, int((os.cpu_count() or 1) // resources.cpu)))
                settings = {"RAY_num_workers_soft_limit": str(ready)}
                if resources.world_size == 1:  # a trial with several workers takes many processes, most for little
                    settings["RAY_preload_python_modules"] = ",".join(TRIAL_MODULES)
            if address is None:
                _check_open_files()
                own = str(stack.enter_context(session_folder()))
                stack.callback(ray.shutdown)
                context = start_local_ray({**settings, "RAY_TMPDIR": own, "TMPDIR": own})
            else:
                check_no_secret(address)
                check_reachable(address)
                stack.callback(ray.shutdown)
                context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except RfrayError:
            raise
        except Exception as error:  # Ray's are of many kinds: an Exception itself where its processes don't start
            if isinstance(error, OSError) and error.filename and address is None:
                todo = "Ray keeps a token in the home folder, and sockets in RAY_TMPDIR: set HOME and that to folders"
                raise ClusterError(f"no Ray can be started here: {of_system(error)}. {todo}") from error
            reason = " ".join(str(error.__cause__ or error).split())  # some of Ray's have several lines
            raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
        if signal.getsignal(signal.SIGTERM) is not on_sigterm:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler exits without a message
        yield Path(context.address_info["session_dir"])


def _check_open_files() -> None:
    """Raises ClusterError where there can't be OPEN_FILES; the soft limit is raised to the hard one by Ray."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < OPEN_FILES:
        needs = f"Ray needs {OPEN_FILES:,} open files or more, and {allowed} are allowed here"
        raise ClusterError(f"{needs}. Allow more (ulimit -n 65536)")


def way_to_ray(address: str | None) -> str:
    """What `connected` does, for people who wait for it."""
    if ray.is_initialized():
        return "Using the Ray of this process"
    return "Starting Ray here" if address is None else f"Connecting to Ray at {address}"


def _of_caller(address: str | None) -> Path:
    """The session's folder of the Ray that this process has. Raises ClusterError where that is not at `address`."""
    todo = "or call ray.shutdown() first"
    if client.ray.is_connected():
        raise ClusterError(f"this process has a client of Ray (ray://…), which runs no trials: use ray.init(), {todo}")
    known = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", known):
        todo = f"leave the address {address} out to use that, {todo}"
        raise ClusterError(f"this process is connected to the Ray at {known} already: {todo}")
    leave_groups()
    own = ray.get_runtime_context().get_node_id()
    return next(Path(node["ObjectStoreSocketName"]).parents[1] for node in ray.nodes() if node["NodeID"] == own)


def start_local_ray(settings: Mapping[str, str], num_cpus: int | None = None) -> Any:
    """Starts a Ray on this machine, which no other machine reaches; Ray's context.

    `settings`: environment variables of its processes; RAY_<name> sets <name> of Ray's own configuration.
    """
    # Ray's setting for macOS and Windows: with "0", the servers of a process listen on 127.0.0.1 alone
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **settings}
    before = {name: os.environ[name] for name in settings.keys() & os.environ.keys()}
    os.environ.update(settings)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    _protect_token()
    try:
        with loopback_only():
            return ray.init(address="local", num_cpus=num_cpus, **options)
    finally:
        _protect_token()
        for name in settings:
            del os.environ[name]
        os.environ.update(before)


def _protect_token() -> None:
    """Makes the token of a local Ray its user's alone: Ray writes it for all to read."""
    with suppress(OSError, RuntimeError):  # no home, or none that can be written
        folder = Path("~/.ray").expanduser()
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "auth_token").chmod(0o600)


def check_reachable(address: str) -> None:
    """Connects to the cluster at `address` in a process of its own.

    `ray.init` in this process would try for minutes where nothing answers or the token is wrong, and not say which.
    `address` is host:port, or auto: the cluster of this machine. Addresses of another kind (ray://…) are left to Ray.
    Raises ClusterError where nothing answers, the token is missing or wrong, no node of Ray runs on this machine, or
    Ray has another reason.
    """
    if "://" in address:
        return
    host, _, port = address.rpartition(":")
    nowhere, command = f"no Ray cluster at {address}", [sys.executable, "-c", PROBE, address]
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            if not any((one.info["name"] or "").startswith("raylet") for one in psutil.process_iter(["name"])):
                todo = "run the command on one of its nodes (--address auto), or as a job (--address http://…)"
                raise ClusterError(f"the cluster at {address} has no node on this machine: {todo}")
        probe = subprocess.run(  # noqa: S603
            command, env=os.environ | IMPATIENT, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except TimeoutError:
        raise ClusterError(f"{nowhere}: nothing answers") from None
    except OSError as error:
        raise ClusterError(f"{nowhere}: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{nowhere}: what answers there is not Ray") from None
    if "AuthenticationError" in probe.stderr:
        sends_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        problem = "asks for a token" + (", but there is none here" if sends_token else "")
        if sends_token and "InvalidAuthToken" in probe.stderr:
            problem = "has another token than the one that is found here"
        raise ClusterError(f"the cluster at {address} {problem}. {TOKEN_HELP}")
    if probe.returncode:
        reason = " ".join(probe.stderr.rpartition("Error: ")[2].split()) or "no reason is given"
        raise ClusterError(f"{nowhere}: {reason}")

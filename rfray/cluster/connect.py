"""an address, or none -> a connection to the Ray cluster there, or to a Ray that is started on this machine alone."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # the run folder is the truth, not Ray's snapshots
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no score to report
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # nothing of Ray's needs saving first

import ray
from ray.exceptions import RayError

from rfray.cluster.ray_internals import loopback_only, share_ready_processes, without_dashboard_agents
from rfray.cluster.reachability import check_reachable
from rfray.errors import ClusterError
from rfray.spec.sweep import Resources

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's setting for macOS and Windows: with "0", the servers of a process listen on 127.0.0.1 alone."""
TRIAL_MODULES = ["rfray.training.loop", "rfray.tuning.trainable"]
"""They import all that a trial needs."""
READY = 4
"""At most so many processes import them before there is a trial; each takes 0.4 GB."""


@contextmanager
def connected(address: str | None, resources: Resources, settings: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Ray for the length of a block: the cluster at `address`, or one that is started on this machine alone.

    The latter has processes import what trials need while the command goes on; `resources` are those of a trial.
    `settings` (environment variables of Ray's processes) take the place of that.
    Gives the folder where Ray keeps its logs and spilled objects on this machine.
    Raises ClusterError where nothing answers at `address`, or it would not take this process in.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if settings is None:
            share_ready_processes()
        if address is None:
            context = start_local_ray(_ready_processes(resources) if settings is None else settings)
        else:
            check_reachable(address)
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        reason = " ".join(str(error.__cause__ or error).split())  # some of Ray's have several lines
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler exits without a message
    try:
        yield Path(context.address_info["session_dir"])
    finally:
        ray.shutdown()


def start_local_ray(settings: Mapping[str, str], num_cpus: int | None = None) -> Any:
    """Starts a Ray on this machine, which no other machine reaches; Ray's context.

    `settings`: environment variables of its processes; RAY_<name> sets <name> of Ray's own configuration.
    """
    with loopback_only(), without_dashboard_agents(), _environment({LOOPBACK_VARIABLE: "0", **settings}):
        return ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _ready_processes(resources: Resources) -> dict[str, str]:
    settings = {"RAY_num_workers_soft_limit": str(max(1, min(READY, int((os.cpu_count() or 1) // resources.cpu))))}
    if resources.world_size == 1:  # a trial with several workers takes many processes, most of them for little
        settings["RAY_preload_python_modules"] = ",".join(TRIAL_MODULES)
    return settings


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value

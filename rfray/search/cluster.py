"""an address -> a connection to Ray, and what its nodes have."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # the run folder is the truth, not Ray's snapshots
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no score to report
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # nothing of Ray's needs saving first

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.tune.execution import class_cache

from rfray.config import Resources
from rfray.errors import ClusterError
from rfray.search.knock import knock

TRIAL_MODULES = ["rfray.training.loop", "rfray.search.worker"]
"""They import all that a trial needs."""
READY = 4
"""At most so many processes import them before there is a trial; each takes 0.4 GB."""

# Ray keeps processes ready only for what has no environment of its own. This one is for PyTorch Lightning.
class_cache.DEFAULT_ENV_VARS.clear()


@dataclass(frozen=True)
class Slot:
    """What one trial gets."""

    cpu: float
    gpu: float

    def __str__(self) -> str:
        return f"{self.cpu:g} CPU and {self.gpu:g} GPU"

    @property
    def threads(self) -> int:
        """CPU threads that a trial may keep busy."""
        return max(1, int(self.cpu))


@contextmanager
def connected(address: str | None, resources: Resources) -> Iterator[Path]:
    """Ray for the length of a block: the cluster at `address`, or one of our own on this machine alone.

    One of our own has processes import what trials need while the command goes on; `resources` are those of a trial.
    Gives the folder where Ray keeps its logs and spilled objects on this machine.
    Raises ClusterError where nothing answers at `address`, or it would not take this process in.
    """
    polite = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            with _loopback_only():
                context = ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _system_config={
                        "preload_python_modules": TRIAL_MODULES,
                        "num_workers_soft_limit": max(1, min(READY, int((os.cpu_count() or 1) // resources.cpu))),
                    },
                )
        else:
            knock(address)
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        reason = " ".join(str(error.__cause__ or error).split())  # Ray has a list of versions in some
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
    signal.signal(signal.SIGTERM, polite)  # Ray has made an exit of it that says nothing
    try:
        yield Path(context.address_info["session_dir"])
    finally:
        ray.shutdown()


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Has Ray start servers that listen on 127.0.0.1 alone, as it does by itself on macOS and Windows.

    It reads this setting when it is imported, and takes no other word for it: `_node_ip_address` is overruled.
    """
    setting, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    os.environ[setting], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[setting]
        ray_constants.ENABLE_RAY_CLUSTER = before


def slot_for(resources: Resources) -> Slot:
    """What one trial gets on this cluster. Raises ClusterError where no node has that much."""
    nodes = _nodes()
    gpu = resources.gpu
    if gpu == "auto":
        gpu = 1.0 if any(node.gpu for node in nodes) else 0.0
    slot = Slot(resources.cpu, float(gpu))
    if not any(node.cpu >= slot.cpu and node.gpu >= slot.gpu for node in nodes):
        there = "; ".join(f"a node with {node}" for node in nodes) or "no node"
        raise ClusterError(f"resources: a trial asks for {slot}, but the cluster has {there}. Ask for less")
    return slot


def slots(slot: Slot) -> int:
    """How many trials fit on the cluster at once."""
    return sum(
        int(min(node.cpu // slot.cpu, node.gpu // slot.gpu if slot.gpu else node.cpu // slot.cpu)) for node in _nodes()
    )


def _nodes() -> list[Slot]:
    return [
        Slot(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]

"""an address -> a connection to Ray, and what its nodes have."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # the run folder is the truth, not Ray's snapshots
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no score to report
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # nothing of Ray's needs saving first

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray.exceptions import RayError
from ray.tune.execution import class_cache

from rfray.cluster.autoscaler import resources_to_come
from rfray.cluster.reachability import knock
from rfray.errors import ClusterError
from rfray.spec.sweep import Resources
from rfray.spec.trial import Trial

TRIAL_MODULES = ["rfray.training.loop", "rfray.tuning.trainable"]
"""They import all that a trial needs."""
HEAD = "node:__internal_head__"
"""A resource that the head alone has."""
READY = 4
"""At most so many processes import them before there is a trial; each takes 0.4 GB."""

ACCELERATOR = "accelerator_type:"
"""Ray's prefix for the kind of GPU that a node has."""

OWN = {"memory": 1.0}
"""What the process of a trial with several workers asks for: every node has that, and no worker needs it."""

# Ray keeps processes ready only for what has no environment of its own. This one is for PyTorch Lightning.
class_cache.DEFAULT_ENV_VARS.clear()


@dataclass(frozen=True)
class Slot:
    """What one trial gets, or each of the workers that train it together."""

    cpu: float
    gpu: float
    workers: int = 1
    memory: float = 0
    """Bytes of the node's memory that are set aside; 0 where nobody has measured what it takes."""
    accelerator: str = ""
    """Ray's name of the one kind of GPU that will do, where not all of them do."""
    micro_batch: int | None = None
    """Images to compute at once, where fewer than a batch are known to fit."""

    def __str__(self) -> str:
        each = f"{self.cpu:g} CPU and {self.gpu:g} GPU" + (f" ({self.accelerator})" if self.accelerator else "")
        return each if self.workers == 1 else f"{self.workers} workers of {each}"

    @property
    def threads(self) -> int:
        """CPU threads that a trial, or a worker, may keep busy."""
        return max(1, int(self.cpu))

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray is asked for, for one worker."""
        asked = {"CPU": self.cpu, "GPU": self.gpu, "memory": float(int(self.memory))}
        if self.accelerator:
            asked[ACCELERATOR + self.accelerator] = 0.001
        return {name: amount for name, amount in asked.items() if amount}

    @property
    def asked(self) -> dict[str, float]:
        """What Ray is asked for, for a trial's own process: where several workers train, they get what it takes."""
        return self.bundle if self.workers == 1 else OWN

    def of(self, trial: Trial) -> "Slot":
        """Itself: every trial gets the same, where no Packing says otherwise."""
        return self

    @property
    def kinds(self) -> list["Slot"]:
        """All that trials may get: itself."""
        return [self]


class Shares(Protocol):
    """What the trials of a sweep get: all the same (a Slot), or each by its backbone (a Packing)."""

    def of(self, trial: Trial) -> Slot:
        """What one trial gets."""

    @property
    def kinds(self) -> list[Slot]:
        """All that trials may get."""


@contextmanager
def connected(address: str | None, resources: Resources, settings: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Ray for the length of a block: the cluster at `address`, or one of our own on this machine alone.

    One of our own has processes import what trials need while the command goes on; `resources` are those of a trial.
    `settings` (Ray's `_system_config`) take the place of that.
    Gives the folder where Ray keeps its logs and spilled objects on this machine.
    Raises ClusterError where nothing answers at `address`, or it would not take this process in.
    """
    polite = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            with loopback_only(), without_agents():
                context = ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _system_config=_for_trials(resources) if settings is None else dict(settings),
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


def _for_trials(resources: Resources) -> dict[str, Any]:
    return {
        # a trial with several workers takes many processes, most of them for little
        "preload_python_modules": TRIAL_MODULES if resources.together == 1 else [],
        "num_workers_soft_limit": max(1, min(READY, int((os.cpu_count() or 1) // resources.cpu))),
    }


@contextmanager
def loopback_only() -> Iterator[None]:
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


@contextmanager
def without_agents() -> Iterator[None]:
    """Has Ray leave out what serves a dashboard, also where `ray[default]` is installed: nobody would look at it.

    A busy machine may take longer to import it than Ray waits for it.
    """
    before = ray_utils.get_dashboard_dependency_error
    ray_utils.get_dashboard_dependency_error = lambda: ImportError("a Ray of our own has no dashboard")
    try:
        yield
    finally:
        ray_utils.get_dashboard_dependency_error = before


def reason_of(error: RayError) -> str:
    """Why a task failed, in one line: what it raised itself, or what Ray says of it."""
    cause = getattr(error, "cause", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


@dataclass(frozen=True)
class Node:
    """What a node has for trials."""

    id: str
    address: str
    cpu: float
    gpu: float
    memory: float
    """Bytes."""
    accelerators: tuple[str, ...]
    """Ray's names of its kind of GPU."""
    device: str = ""
    """Its GPUs' own name, or cpu, where that was looked for."""

    def __str__(self) -> str:
        return f"{self.cpu:g} CPU and {self.gpu:g} GPU"

    def room(self, slot: Slot) -> int:
        """How many trials, or workers of trials, fit on it."""
        if slot.accelerator and slot.accelerator not in self.accelerators:
            return 0
        pairs = ((self.cpu, slot.cpu), (self.gpu, slot.gpu), (self.memory, slot.memory))
        return min(int(there / asked + 1e-6) for there, asked in pairs if asked)


def slot_for(resources: Resources) -> Slot:
    """What one trial gets on this cluster. Raises ClusterError where there is not so much."""
    there = possible_nodes()
    gpu = resources.gpu
    if gpu == "auto":
        gpu = 1.0 if any(node.gpu for node in there) else 0.0
    slot = Slot(resources.cpu, min(float(gpu), 1.0), resources.together)
    if slots(slot) == 0:
        has = "; ".join(f"a node with {node}" for node in there) or "no node"
        raise ClusterError(f"resources: a trial asks for {slot}, but the cluster has {has}. Ask for less")
    return slot


def slot_of_one(resources: Resources) -> Slot:
    """What is enough to predict with a trial: what one worker gets. Raises ClusterError where there is not so much."""
    if isinstance(resources.gpu, float):
        resources = resources.model_copy(update={"gpu": min(resources.gpu, 1.0)})
    return slot_for(resources.model_copy(update={"workers": 1}))


def slots(shares: Shares) -> int:
    """How many trials fit on the cluster at once, at the most, with the nodes that its autoscaler may start.

    The workers of one trial may be on several nodes.
    """
    return _slots(shares, possible_nodes())


def outlook(shares: Shares) -> str | None:
    """What the user should know where slots are still to come, else None."""
    there, in_all = _slots(shares, nodes()), slots(shares)
    if there == in_all:
        return None
    return f"{there} of {in_all} slots are there; the autoscaler starts nodes for the others, which takes minutes"


def nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        _node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
    ]


def possible_nodes() -> list[Node]:
    """The nodes that are alive, and those that the autoscaler may start."""
    workers = [node["Resources"] for node in ray.nodes() if node["Alive"] and HEAD not in node["Resources"]]
    return nodes() + [_node("", "", {"memory": inf, **resources}) for resources in resources_to_come(workers)]


def _slots(shares: Shares, among: list[Node]) -> int:
    return max(sum(node.room(slot) for node in among) // slot.workers for slot in shares.kinds)


def _node(node_id: str, address: str, resources: Mapping[str, float]) -> Node:
    return Node(
        id=node_id,
        address=address,
        cpu=resources.get("CPU", 0.0),
        gpu=resources.get("GPU", 0.0),
        memory=resources.get("memory", 0.0),
        accelerators=tuple(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)),
    )

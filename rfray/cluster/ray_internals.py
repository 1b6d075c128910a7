"""Ray's private names that rfray can't do without -> five functions; where this Ray lacks a name, a warning and less.

No other module may use a private name of a library (tests/test_contracts.py).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrivateName:
    """A name that another version of Ray may not have."""

    module: str
    name: str
    """Within the module; it may have dots."""
    loss: str
    """What rfray can't do without it, as it is said to the user."""

    def find(self) -> tuple[Any, Any]:
        """What owns it, and what it is; (None, None) after a warning, the first time, where Ray lacks it."""
        owner, found = None, None
        try:
            found = import_module(self.module)
            for part in self.name.split("."):
                owner, found = found, getattr(found, part)
        except (ImportError, AttributeError):
            _warn_once(self)
            return None, None
        return owner, found


ENABLE_RAY_CLUSTER = PrivateName(
    "ray._private.ray_constants",
    "ENABLE_RAY_CLUSTER",
    "its servers may listen on all addresses of this machine, not on 127.0.0.1 alone",
)
DASHBOARD_ERROR = PrivateName(
    "ray._private.utils",
    "get_dashboard_dependency_error",
    "it starts the processes of a dashboard, and may take longer to start",
)
TRIAL_ENVIRONMENT = PrivateName(
    "ray.tune.execution.class_cache",
    "DEFAULT_ENV_VARS",
    "trials don't use the processes that are ready, and so begin some seconds later",
)
GROUP_TABLE = PrivateName(
    "ray._private.state",
    "state._connect_and_get_accessor",
    "trials that are stopped may hold their resources for up to 15 seconds, or until the command ends",
)
TRAINER_CALLBACKS = PrivateName(
    "ray.train.torch",
    "TorchTrainer._create_default_callbacks",
    "a process of Ray Train may be left over, until Ray ends, for every trial with several workers that is stopped",
)
NAMES = (ENABLE_RAY_CLUSTER, DASHBOARD_ERROR, TRIAL_ENVIRONMENT, GROUP_TABLE, TRAINER_CALLBACKS)


@contextmanager
def loopback_only() -> Iterator[None]:
    """Within the block, the servers of a Ray that is started listen on 127.0.0.1 alone.

    Reason: the public setting (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) is read when Ray is imported, which may have been
    long ago, and then holds for the whole process; `ray.init(_node_ip_address="127.0.0.1")` is overruled.
    Without it: other machines reach Ray's servers, which only a token protects.
    """
    with _replaced(ENABLE_RAY_CLUSTER, False):
        yield


@contextmanager
def without_dashboard_agents() -> Iterator[None]:
    """Within the block, a Ray that is started leaves out all of the dashboard, as without `ray[default]`.

    Reason: with `include_dashboard=False` alone, Ray still starts the dashboard's server and its agent.
    Without it: both listen on all addresses, take 200 MB, and on a busy machine take longer to import than Ray waits
    for them (39 s on two cores with a load of 18; every third start then failed).
    """
    with _replaced(DASHBOARD_ERROR, lambda: ImportError("this Ray has no dashboard")):
        yield


def share_ready_processes() -> None:
    """Lets the processes of Ray Tune's trials be those that Ray keeps ready.

    Reason: Ray keeps processes ready only for what needs no environment variables of its own, and Tune sets one for
    PyTorch Lightning.
    Without it: the first trial of each slot waits until torch and timm are imported (4 s on an idle core).
    """
    _, variables = TRIAL_ENVIRONMENT.find()
    if variables is not None:
        variables.clear()


@dataclass(frozen=True)
class HeldGroup:
    """A placement group that this command or its trials hold."""

    group: PlacementGroup
    by_trial: bool
    """Whether a trial's process has made it (for its workers), not the command (for a trial)."""
    is_orphan: bool
    """Whether that process is dead."""


def held_groups() -> list[HeldGroup]:
    """The placement groups of this command.

    Reason: `ray.util.placement_group_table` doesn't say whose they are; others may use the cluster, too.
    Without it: none is found.
    """
    _, connect = GROUP_TABLE.find()
    try:
        from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    except ImportError:
        connect = None
    if connect is None:
        return []
    job = ray.get_runtime_context().get_job_id()
    found = [PlacementGroupTableData.FromString(entry) for entry in connect().get_placement_group_table()]
    return [
        HeldGroup(
            PlacementGroup(ray.PlacementGroupID(entry.placement_group_id)),
            by_trial=any(byte != 255 for byte in entry.creator_actor_id),  # 255s: nobody's
            is_orphan=entry.creator_actor_dead,
        )
        for entry in found
        if entry.creator_job_id.hex() == job and entry.state != PlacementGroupTableData.REMOVED
    ]


def without_group_cleaner(trainer: type) -> type:
    """Ray Train's trainer class, without the process that removes the placement group of a trial that was killed.

    Reason: that process asks the dashboard whether the trial lives; where there is none, it asks for ever.
    Without it: one such process (100 MB) is left for every trial that is killed.
    """
    _, make = TRAINER_CALLBACKS.find()
    if make is None:
        return trainer

    def make_others(self: Any) -> list[Any]:
        return [one for one in make(self) if type(one).__name__ != "PlacementGroupCleanerCallback"]

    return type(trainer.__name__, (trainer,), {"_create_default_callbacks": make_others})


@contextmanager
def _replaced(name: PrivateName, value: Any) -> Iterator[None]:
    owner, before = name.find()
    if owner is None:
        yield
        return
    attribute = name.name.rpartition(".")[2]
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@cache
def _warn_once(name: PrivateName) -> None:
    log.warning("Ray %s has no %s.%s: %s", ray.__version__, name.module, name.name, name.loss)

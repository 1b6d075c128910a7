"""Ray's private names, each behind a function; where this Ray lacks one, there is a warning and rfray does without.

No other module may use a private name of a library (tests/test_contracts.py).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Literal

import ray
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

log = logging.getLogger(__name__)
GROUPS_BEFORE: set[str] = set()
"""Ids of the placement groups that were there before rfray came, where it uses a Ray that its process had already."""


@cache
def find(module: str, name: str, loss: str) -> Any:
    """What has the name (which may have dots) in the module; where this Ray lacks it, None.

    The first time, there is a warning that says the `loss`: what rfray can't do without it.
    """
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        log.warning("Ray %s has no %s.%s: %s", ray.__version__, module, name, loss)
        return None
    return found


@contextmanager
def loopback_only() -> Iterator[None]:
    """Within the block, the servers of a Ray that is started listen on 127.0.0.1 alone.

    Reason: the public setting (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) is read when Ray is imported, which may have been
    long ago, and then holds for the whole process; `ray.init(_node_ip_address="127.0.0.1")` is overruled.
    """
    loss = "its servers may listen on all addresses of this machine, not on 127.0.0.1 alone"
    if (before := find("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", loss)) is None:
        yield
        return
    constants: Any = import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def keep_environment() -> None:
    """Has Ray Tune set neither AWS's keys nor a variable of its own in the processes of trials.

    Reason: Tune takes over AWS's keys, and Ray writes what it is to set into a log, in clear; a local Ray's processes
    have this one's environment anyhow, and a cluster's nodes have their own. And Ray keeps processes ready only for
    what needs none, but Tune sets one for PyTorch Lightning: the first trial of each slot would wait until torch and
    timm are imported (4 s on an idle core).
    """
    loss = "trials don't use the processes that are ready, and so begin some seconds later"
    (find("ray.tune.execution.class_cache", "DEFAULT_ENV_VARS", loss) or {}).clear()
    loss = "AWS's keys of the environment may stand in Ray's logs, which nobody else can read on this machine"
    names = find("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE", loss) or set()
    names.difference_update([name for name in names if name.startswith("AWS_")])


def leave_groups() -> None:
    """Has `free_groups` leave alone what is there now: it is of whoever calls rfray."""
    GROUPS_BEFORE.update(placement_group_table())


def free_groups(which: Literal["trials", "workers", "orphans"]) -> None:
    """Gives back placement groups that this command holds on the cluster, which ends the processes that run there.

    trials: what Tune holds for trials, even for those that are only starting. workers: what trials with several workers
    hold for them. orphans: the same of trials whose process was killed; Ray itself does so only when the whole command
    ends, or with the help of its dashboard.
    Reason: `ray.util.placement_group_table` doesn't say whose they are; others may use the cluster, too.
    """
    loss = "trials that are stopped may hold their resources for up to 15 seconds, or until the command ends"
    if (connect := find("ray._private.state", "state._connect_and_get_accessor", loss)) is None:
        return
    job = ray.get_runtime_context().get_job_id()
    for data in connect().get_placement_group_table():
        entry = PlacementGroupTableData.FromString(data)
        by_trial = any(byte != 255 for byte in entry.creator_actor_id)  # 255s: no process of a trial has made it
        if entry.creator_job_id.hex() != job or by_trial == (which == "trials"):
            continue
        if entry.placement_group_id.hex() in GROUPS_BEFORE:
            continue
        if entry.state != PlacementGroupTableData.REMOVED and (which != "orphans" or entry.creator_actor_dead):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(entry.placement_group_id)))


def without_group_cleaner(trainer: type) -> type:
    """Ray Train's trainer class, without the process that removes the placement group of a trial that was killed.

    Reason: that process asks the dashboard whether the trial lives; where there is none, it asks for ever.
    """
    loss = "a process (100 MB) may be left over, until Ray ends, for every trial with several workers that is stopped"
    if (make := find("ray.train.torch", "TorchTrainer._create_default_callbacks", loss)) is None:
        return trainer

    def make_others(self: Any) -> list[Any]:
        return [one for one in make(self) if type(one).__name__ != "PlacementGroupCleanerCallback"]

    return type(trainer.__name__, (trainer,), {"_create_default_callbacks": make_others})

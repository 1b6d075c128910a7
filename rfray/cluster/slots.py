"""the cluster's nodes + what a trial asks for -> `Slot`: what each trial gets, and how many fit at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

import ray

from rfray.cluster.autoscaler import resources_to_come
from rfray.errors import ClusterError
from rfray.spec.sweep import Resources
from rfray.spec.trial import Trial

HEAD = "node:__internal_head__"
"""A resource that the head alone has."""
ACCELERATOR = "accelerator_type:"
"""Ray's prefix for the kind of GPU that a node has."""
COORDINATOR_RESOURCES = {"memory": 1.0}
"""What the process of a trial with several workers asks for: every node has a byte, and no worker needs it."""


@dataclass(frozen=True)
class Slot:
    """What one trial gets, or each of the workers that train it together."""

    cpu: float
    gpu: float
    workers: int = 1
    memory: float = 0
    """Bytes of the node's memory that are set aside; 0 where nobody has measured what a trial takes."""
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
    def resources(self) -> dict[str, float]:
        """What Ray is asked for, for one worker."""
        amounts = {"CPU": self.cpu, "GPU": self.gpu, "memory": float(int(self.memory))}
        if self.accelerator:
            amounts[ACCELERATOR + self.accelerator] = 0.001
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def trial_resources(self) -> dict[str, float]:
        """What Ray is asked for, for a trial's own process: next to nothing where it has several workers."""
        return self.resources if self.workers == 1 else COORDINATOR_RESOURCES

    def of(self, trial: Trial) -> "Slot":
        """Itself: every trial gets the same, where no Packing says otherwise."""
        return self

    @property
    def kinds(self) -> list["Slot"]:
        """All that trials may get: itself."""
        return [self]


class TrialSlots(Protocol):
    """What the trials of a sweep get: all the same (a Slot), or each by its backbone (a Packing)."""

    def of(self, trial: Trial) -> Slot:
        """What one trial gets."""

    @property
    def kinds(self) -> list[Slot]:
        """All that trials may get."""


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
    """The name of its GPUs, or cpu; empty where nobody has looked."""

    def __str__(self) -> str:
        return f"{self.cpu:g} CPU and {self.gpu:g} GPU"

    def room(self, slot: Slot) -> int:
        """How many trials, or workers of trials, fit on it."""
        if slot.accelerator and slot.accelerator not in self.accelerators:
            return 0
        pairs = ((self.cpu, slot.cpu), (self.gpu, slot.gpu), (self.memory, slot.memory))
        return min(int(there / asked + 1e-6) for there, asked in pairs if asked)


def slot_for(resources: Resources) -> Slot:
    """What one trial gets on this cluster. Raises ClusterError where no node has so much."""
    there = possible_nodes()
    gpu = resources.gpu
    if gpu == "auto":
        gpu = 1.0 if any(node.gpu for node in there) else 0.0
    slot = Slot(resources.cpu, min(float(gpu), 1.0), resources.world_size)
    if slot_count(slot) == 0:
        has = "; ".join(f"a node with {node}" for node in there) or "no node"
        raise ClusterError(f"resources: a trial asks for {slot}, but the cluster has {has}. Ask for less")
    return slot


def worker_slot(resources: Resources) -> Slot:
    """What one worker of a trial gets: enough to predict with it. Raises ClusterError where no node has so much."""
    if isinstance(resources.gpu, float):
        resources = resources.model_copy(update={"gpu": min(resources.gpu, 1.0)})
    return slot_for(resources.model_copy(update={"workers": 1}))


def slot_count(slots: TrialSlots) -> int:
    """How many trials fit on the cluster at once, at the most, with the nodes that its autoscaler may start.

    The workers of one trial may be on several nodes.
    """
    return _count(slots, possible_nodes())


def autoscaler_notice(slots: TrialSlots) -> str | None:
    """What the user should know where the autoscaler has still to start nodes, else None."""
    now, in_all = _count(slots, nodes()), slot_count(slots)
    if now == in_all:
        return None
    return f"{now} of {in_all} slots are there; the autoscaler starts nodes for the others, which takes minutes"


def nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        _node(node["Resources"], node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]
    ]


def possible_nodes() -> list[Node]:
    """The nodes that are alive, and those that the autoscaler may start."""
    workers = [node["Resources"] for node in ray.nodes() if node["Alive"] and HEAD not in node["Resources"]]
    return nodes() + [_node({"memory": inf, **resources}) for resources in resources_to_come(workers)]


def _count(slots: TrialSlots, among: list[Node]) -> int:
    return max(sum(node.room(slot) for node in among) // slot.workers for slot in slots.kinds)


def _node(resources: Mapping[str, float], node_id: str = "", address: str = "") -> Node:
    return Node(
        id=node_id,
        address=address,
        cpu=resources.get("CPU", 0.0),
        gpu=resources.get("GPU", 0.0),
        memory=resources.get("memory", 0.0),
        accelerators=tuple(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)),
    )

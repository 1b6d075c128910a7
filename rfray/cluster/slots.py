"""the cluster's nodes + what a trial asks for, or was measured to take -> what each trial gets, and how many fit.

By a `Packing`, a trial on GPUs gets the smallest share 1/k of the smallest GPU that it fits on, and so fits everywhere;
k is at most what the node's cores (one a trial) and its memory allow. Where nodes differ, the one with least for each
GPU decides. On CPUs, it gets one core and the memory that it takes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import psutil
import ray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rfray.errors import ClusterError
from rfray.spec.sweep import Resources
from rfray.spec.trial import Trial
from rfray.store.records import Measured

ACCELERATOR = "accelerator_type:"
"""Ray's prefix for the kind of GPU that a node has."""
MARGIN = 1.1
"""What a trial is given, as a multiple of what it was measured to take."""


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
    def kinds(self) -> list["Slot"]:
        """All that trials may get: itself."""
        return [self]

    def of(self, trial: Trial) -> "Slot":
        """Itself: every trial gets the same."""
        return self


@dataclass(frozen=True)
class Packing:
    """What each trial gets, by its backbone and image size."""

    slots: Mapping[tuple[str, int], Slot]
    measured: list[Measured]
    """The measurements that it was made from."""

    @property
    def kinds(self) -> list[Slot]:
        """All that trials may get."""
        return list(self.slots.values())

    def of(self, trial: Trial) -> Slot:
        """What a trial gets: what was measured at its image size, or at the next larger one."""
        sizes = [size for backbone, size in self.slots if backbone == trial.backbone and size >= trial.image_size]
        return self.slots[trial.backbone, min(sizes)]


TrialSlots = Slot | Packing
"""What the trials of a sweep get."""


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

    def room(self, slot: Slot) -> int:
        """How many trials, or workers of trials, fit on it."""
        if slot.accelerator and slot.accelerator not in self.accelerators:
            return 0
        pairs = ((self.cpu, slot.cpu), (self.gpu, slot.gpu), (self.memory, slot.memory))
        return int(min(there / asked for there, asked in pairs if asked) + 1e-6)


def slot_for(resources: Resources) -> Slot:
    """What one trial gets on this cluster. Raises ClusterError where no node has so much."""
    there = nodes(to_come=True)
    gpu = float(any(node.gpu for node in there)) if resources.gpu == "auto" else min(resources.gpu, 1.0)
    slot = Slot(resources.cpu, gpu, resources.world_size)
    if slot_count(slot) == 0:
        has = "; ".join(f"a node with {node.cpu:g} CPU and {node.gpu:g} GPU" for node in there) or "no node"
        raise ClusterError(f"resources: a trial asks for {slot}, but the cluster has {has}. Ask for less")
    return slot


def worker_slot(resources: Resources) -> Slot:
    """What one worker of a trial gets: enough to predict with it. Raises ClusterError where no node has so much."""
    return slot_for(resources.model_copy(update={"workers": 1}))


def slot_count(slots: TrialSlots, to_come: bool = True) -> int:
    """How many trials fit on the cluster at once, at the most, with the nodes that its autoscaler may start.

    The workers of one trial may be on several nodes.
    """
    there = nodes(to_come)
    return max(sum(node.room(slot) for node in there) // slot.workers for slot in slots.kinds)


def autoscaler_notice(slots: TrialSlots) -> str | None:
    """What the user should know where the autoscaler has still to start nodes, else None."""
    now, in_all = slot_count(slots, to_come=False), slot_count(slots)
    if now == in_all:
        return None
    return f"{now} of {in_all} slots are there; the autoscaler starts nodes for the others, which takes minutes"


def nodes(to_come: bool = False) -> list[Node]:
    """The nodes that are alive; with `to_come` also those that the autoscaler may start."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    found = [(node["Resources"], node["NodeID"], node["NodeManagerAddress"]) for node in alive]
    if to_come:
        # a resource that the head alone has
        workers = [node["Resources"] for node in alive if "node:__internal_head__" not in node["Resources"]]
        found += [({"memory": inf, **resources}, "", "") for resources in resources_to_come(workers)]
    return [
        Node(
            id=node_id,
            address=address,
            cpu=resources.get("CPU", 0.0),
            gpu=resources.get("GPU", 0.0),
            memory=resources.get("memory", 0.0),
            accelerators=tuple(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)),
        )
        for resources, node_id, address in found
    ]


def resources_to_come(workers: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Resources of the nodes that may still be started beside the `workers` that are alive; most GPUs first.

    They are known on the head only, and not on Kubernetes, where the autoscaler is a container of its own.
    """
    if (file := _config_file()) is None:
        return []
    try:
        config = YAML(typ="safe").load(Path(file))
    except (OSError, YAMLError):
        return []  # `ray up` is just writing it
    most = int(config.get("max_workers", 0))
    there = Counter(_size(worker) for worker in workers)
    to_come: list[dict[str, float]] = []
    for name, kind in config["available_node_types"].items():
        resources = {name: float(amount) for name, amount in kind.get("resources", {}).items()}
        if name != config["head_node_type"] and any(_size(resources)):
            to_come += [resources] * max(0, int(kind.get("max_workers", most)) - there[_size(resources)])
    return sorted(to_come, key=_size, reverse=True)[: max(0, most - len(workers))]


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _config_file() -> str | None:
    """The file with which the cluster's autoscaler was started: Ray has no other way to ask for its node types."""
    ours = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    option = "--autoscaling-config="
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if ours in words and any(word.endswith("monitor.py") for word in words):
            return next((word.removeprefix(option) for word in words if word.startswith(option)), None)
    return None


def pack(measured: Sequence[Measured], nodes: Sequence[Node]) -> Packing:
    """What each trial gets. Every backbone and size must have been measured on one of the nodes' GPUs, or on a CPU."""
    with_gpus = [node for node in nodes if node.gpu >= 1]
    slots = {}
    for key in dict.fromkeys((one.backbone, one.image_size) for one in measured):
        mine = {one.device: one for one in measured if (one.backbone, one.image_size) == key}
        if with_gpus:
            slots[key] = _on_gpus(mine, with_gpus)
        else:
            found, most = mine["cpu"], max(node.memory for node in nodes)
            slots[key] = Slot(1, 0, memory=min(found.host_memory * MARGIN, most), micro_batch=found.micro_batch)
    return Packing(slots, list(measured))


def _on_gpus(measured: Mapping[str, Measured], nodes: Sequence[Node]) -> Slot:
    fitting = [node for node in nodes if node.device in measured]
    smallest = min(fitting, key=lambda node: measured[node.device].device_memory)
    found = measured[smallest.device]
    if len(fitting) < len(nodes):  # not one image fits on some of them: the smallest kind on which it does, alone
        fitting = [node for node in fitting if node.device == smallest.device]
    need = found.host_memory * MARGIN
    cores = min(node.cpu / node.gpu for node in fitting)
    memory = min(node.memory / node.gpu for node in fitting)
    share = max(1, int(min(found.device_memory / (found.memory * MARGIN), cores, memory / need)))
    return Slot(
        cpu=max(1.0, cores // share) if cores >= 1 else cores,
        gpu=int(10_000 / share) / 10_000,  # Ray counts so finely, and rounds up
        memory=min(need, memory),
        accelerator="" if len(fitting) == len(nodes) else smallest.accelerators[0],
        micro_batch=found.micro_batch,
    )

"""what backbones were measured to take + nodes -> `Packing`: what each trial gets, so that as many as fit run at once.

On GPUs, a trial gets the smallest share 1/k of the smallest GPU that it fits on, and so fits everywhere; k is at most
what the node's cores (one a trial) and its memory allow. Where nodes differ, the one with least for each GPU decides.
On CPUs, a trial gets one core and the memory that it takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfray.cluster.slots import Node, Slot
from rfray.spec.trial import Trial
from rfray.store.records import Measured

MARGIN = 1.1
"""What a trial is given, as a multiple of what it was measured to take."""


@dataclass(frozen=True)
class Packing:
    """What each trial gets, by its backbone and image size."""

    slots: Mapping[tuple[str, int], Slot]
    measured: list[Measured]
    """The measurements that it was made from."""

    def of(self, trial: Trial) -> Slot:
        """What a trial gets: what was measured at its image size, or at the next larger one."""
        sizes = [size for backbone, size in self.slots if backbone == trial.backbone and size >= trial.image_size]
        return self.slots[trial.backbone, min(sizes)]

    @property
    def kinds(self) -> list[Slot]:
        """All that trials may get."""
        return list(self.slots.values())


def pack(measured: Sequence[Measured], nodes: Sequence[Node]) -> Packing:
    """What each trial gets. Every backbone and size must have been measured on one of the nodes' GPUs, or on a CPU."""
    with_gpus = [node for node in nodes if node.gpu >= 1]
    slots = {}
    for key in dict.fromkeys((one.backbone, one.image_size) for one in measured):
        mine = {one.device: one for one in measured if (one.backbone, one.image_size) == key}
        slots[key] = _on_gpus(mine, with_gpus) if with_gpus else _on_cpus(mine["cpu"], nodes)
    return Packing(slots, list(measured))


def _on_gpus(measured: Mapping[str, Measured], nodes: Sequence[Node]) -> Slot:
    fitting = [node for node in nodes if node.device in measured]
    smallest = min(fitting, key=lambda node: measured[node.device].device_memory)
    found = measured[smallest.device]
    if len(fitting) < len(nodes):  # not one image fits on some of them: the smallest kind on which it does, alone
        fitting = [node for node in fitting if node.device == smallest.device]
    need = found.host_memory * MARGIN
    cores, memory = (min(getattr(node, of) / node.gpu for node in fitting) for of in ("cpu", "memory"))
    share = max(1, int(min(found.device_memory / (found.memory * MARGIN), cores, memory / need)))
    return Slot(
        cpu=max(1.0, cores // share) if cores >= 1 else cores,
        gpu=int(10_000 / share) / 10_000,  # Ray counts so finely, and rounds up
        memory=min(need, memory),
        accelerator="" if len(fitting) == len(nodes) else smallest.accelerators[0],
        micro_batch=found.micro_batch,
    )


def _on_cpus(found: Measured, nodes: Sequence[Node]) -> Slot:
    most = max(node.memory for node in nodes)
    return Slot(cpu=1, gpu=0, memory=min(found.host_memory * MARGIN, most), micro_batch=found.micro_batch)

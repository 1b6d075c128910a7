"""From measurements and nodes to what each trial gets, by hand."""

from dataclasses import replace
from math import inf

import pytest

from rfray.cluster.slots import Node, Packing, Slot, pack
from rfray.spec.trial import Trial
from rfray.store.records import Measured

GB = 10**9
SMALL = Node("a", "10.0.0.1", cpu=8, gpu=1, memory=32 * GB, accelerators=("T4",), device="Tesla T4")
LARGE = Node("b", "10.0.0.2", cpu=64, gpu=4, memory=256 * GB, accelerators=("A100", "A100-80G"), device="NVIDIA A100")
CPU = Node("c", "10.0.0.3", cpu=4, gpu=0, memory=8 * GB, accelerators=(), device="cpu")


def measured(device: str = "Tesla T4", **given: object) -> Measured:
    fields = {
        "setting": "0" * 12, "backbone": "resnet50", "image_size": 224, "device": device,
        "device_memory": {"Tesla T4": 16, "NVIDIA A100": 80, "cpu": 0}[device] * GB, "memory": 3 * GB,
        "host_memory": 2 * GB, "micro_batch": 64, "images_per_second": 100.0,
    }  # fmt: skip
    return Measured(**{**fields, **given})


def only(packing: Packing) -> Slot:
    (slot,) = packing.kinds
    return slot


def test_the_smallest_gpu_decides() -> None:
    # 3 GB and a tenth go 4 times into 16 GB (and 24 times into 80); the small node has 8 cores for its GPU
    slot = only(pack([measured(), measured("NVIDIA A100", images_per_second=900.0)], [SMALL, LARGE]))
    assert slot == Slot(cpu=2, gpu=0.25, memory=2.2 * GB, micro_batch=64)
    assert (SMALL.room(slot), LARGE.room(slot)) == (4, 16)


@pytest.mark.parametrize(
    ("node", "taken", "gpu", "cpu", "room"),
    [
        (SMALL, {"memory": 14 * GB}, 1.0, 8.0, 1),  # 15.4 of 16 GB
        (SMALL, {"memory": 15 * GB}, 1.0, 8.0, 1),  # more than that with the margin: alone, as it was measured to fit
        (SMALL, {"memory": 5 * GB}, 0.5, 4.0, 2),  # 5.5 GB: not three times
        (SMALL, {"memory": 4 * GB}, 0.3333, 2.0, 3),  # 4.4 GB: three times; Ray would round a third up
        (SMALL, {"memory": GB // 10}, 0.125, 1.0, 8),  # 145 times by memory, but there are eight cores
        (SMALL, {"memory": GB // 10, "host_memory": 10 * GB}, 0.5, 4.0, 2),  # 11 GB of the node: twice into 32
        (replace(SMALL, cpu=0.5), {}, 1.0, 0.5, 1),  # less than a core for each GPU
        (replace(SMALL, memory=GB), {}, 1.0, 8.0, 1),  # it can be placed all the same
    ],
)
def test_the_share_of_a_gpu(node: Node, taken: dict[str, int], gpu: float, cpu: float, room: int) -> None:
    slot = only(pack([measured(**taken)], [node]))
    assert (slot.gpu, slot.cpu, node.room(slot)) == (gpu, cpu, room)


def test_where_one_image_does_not_fit_on_the_small_gpus_only_the_next_larger_kind_is_asked_for() -> None:
    slot = only(pack([measured("NVIDIA A100", memory=30 * GB, micro_batch=8)], [SMALL, LARGE]))
    # 33 GB go twice into 80; 64 cores for 4 GPUs are 8 for each half
    assert slot == Slot(cpu=8, gpu=0.5, memory=2.2 * GB, accelerator="A100", micro_batch=8)
    assert slot.resources == {"CPU": 8, "GPU": 0.5, "memory": 2.2 * GB, "accelerator_type:A100": 0.001}
    assert (SMALL.room(slot), LARGE.room(slot)) == (0, 8)


def test_without_a_gpu_a_trial_gets_a_core_and_its_memory() -> None:
    slot = only(pack([measured("cpu", memory=0)], [CPU, replace(CPU, cpu=2)]))
    assert slot == Slot(cpu=1, gpu=0, memory=2.2 * GB, micro_batch=64)
    assert CPU.room(slot) == 3  # of four cores, as its memory holds no more
    assert only(pack([measured("cpu", memory=0, host_memory=20 * GB)], [CPU])).memory == 8 * GB


def test_each_backbone_gets_its_own_and_a_size_between_the_next_larger() -> None:
    packing = pack([measured(), measured(backbone="vit", memory=7 * GB), measured(image_size=96, memory=GB)], [SMALL])
    assert {key: slot.gpu for key, slot in packing.slots.items()} == {
        ("resnet50", 224): 0.25, ("vit", 224): 0.5, ("resnet50", 96): 0.125,
    }  # fmt: skip
    sizes = [packing.of(Trial(backbone="resnet50", image_size=size)).gpu for size in (32, 96, 97, 224)]
    assert sizes == [0.125, 0.125, 0.25, 0.25]


def test_room_does_not_lose_what_floats_lose() -> None:
    assert replace(CPU, cpu=1).room(Slot(0.1, 0)) == 10
    assert replace(SMALL, gpu=1).room(Slot(0.1, 0.2)) == 5


def test_a_node_to_come_whose_memory_is_unknown_has_enough_of_it() -> None:
    assert replace(CPU, memory=inf).room(Slot(1, 0, memory=2 * GB)) == 4

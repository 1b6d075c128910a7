"""What trials hold on a cluster is given back, and whatever runs there ends."""

import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rfray.cluster.placement_groups import free_trials, free_workers


@ray.remote(num_cpus=1)
class Slow:
    """A trial's process that is only starting."""

    def __init__(self, begun: Path) -> None:
        begun.touch()
        time.sleep(600)


@ray.remote(num_cpus=0)
class Holder:
    """A trial's process that holds something for its workers."""

    def hold(self) -> str:
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group.id.hex()


def states() -> dict[str, str]:
    return {name: group["state"] for name, group in ray.util.placement_group_table().items()}


def wait_until_removed(name: str) -> None:
    for _ in range(100):
        if states()[name] == "REMOVED":
            return
        time.sleep(0.1)
    raise AssertionError(f"{name} is still held: {states()[name]}")


def test_a_trial_that_is_only_starting_is_ended(ray_here: None, tmp_path: Path) -> None:
    other = Holder.remote()
    held_by_another = ray.get(other.hold.remote(), timeout=60)
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=60)
    begun = tmp_path / "begun"
    starting = Slow.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote(begun)  # type: ignore[attr-defined]
    while not begun.exists():
        time.sleep(0.1)
    free_trials()
    with pytest.raises(RayActorError):
        ray.get(starting.__ray_ready__.remote(), timeout=60)
    wait_until_removed(group.id.hex())
    assert states()[held_by_another] == "CREATED"
    free_workers(orphans_only=True)  # its process lives
    assert states()[held_by_another] == "CREATED"
    free_workers(orphans_only=False)
    wait_until_removed(held_by_another)


def test_what_a_dead_trial_held_is_given_back(ray_here: None) -> None:
    alive, dead = Holder.remote(), Holder.remote()
    kept, orphan = ray.get(alive.hold.remote(), timeout=60), ray.get(dead.hold.remote(), timeout=60)
    ray.kill(dead)
    for _ in range(100):
        free_workers(orphans_only=True)
        if states()[orphan] == "REMOVED":
            break
        time.sleep(0.1)
    assert (states()[orphan], states()[kept]) == ("REMOVED", "CREATED")
    free_workers(orphans_only=False)
    wait_until_removed(kept)

"""Where Ray lacks a private name, rfray warns once, and does without. What trials hold is given back."""

import inspect
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rfray.cluster import ray_internals
from rfray.cluster.ray_internals import find, free_groups, keep_environment, loopback_only, without_group_cleaner


def enter(block: Callable[[], object]) -> None:
    with block():  # type: ignore[attr-defined]
        pass


USES: dict[tuple[str, str], Callable[[], object]] = {
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"): lambda: enter(loopback_only),
    ("ray.tune.execution.class_cache", "DEFAULT_ENV_VARS"): keep_environment,
    ("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE"): keep_environment,
    ("ray._private.state", "state._connect_and_get_accessor"): lambda: free_groups("trials"),
    ("ray.train.torch", "TorchTrainer._create_default_callbacks"): lambda: without_group_cleaner(TorchTrainer),
}


def test_these_are_all() -> None:
    assert inspect.getsource(ray_internals).count("find(") == 1 + len(USES)


@pytest.mark.parametrize(("module", "name"), USES)
def test_where_ray_lacks_a_name_there_is_one_warning(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    *parts, attribute = name.split(".")
    owner: object = import_module(module)
    for part in parts:
        owner = getattr(owner, part)
    if attribute not in vars(owner):  # the class that defines a method
        kind = owner if isinstance(owner, type) else type(owner)
        owner = next(base for base in kind.__mro__ if attribute in vars(base))
    find.cache_clear()
    monkeypatch.delattr(owner, attribute)  # this version has it
    results = [USES[module, name](), USES[module, name]()]
    find.cache_clear()
    assert results[0] in (None, TorchTrainer)
    (said,) = (record.message for record in caplog.records)
    assert f" has no {module}.{name}: " in said


def test_where_ray_lacks_a_whole_module(caplog: pytest.LogCaptureFixture) -> None:
    assert find("ray.gone", "name", "it is slower") is None
    assert "it is slower" in caplog.text


def test_what_is_replaced_is_put_back() -> None:
    constants = import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    with loopback_only():
        assert constants.ENABLE_RAY_CLUSTER is False
    assert constants.ENABLE_RAY_CLUSTER is before


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


@pytest.mark.slow
def test_a_trial_that_is_only_starting_is_ended(ray_here: None, tmp_path: Path) -> None:
    other = Holder.remote()
    held_by_another = ray.get(other.hold.remote(), timeout=60)
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=60)
    begun = tmp_path / "begun"
    starting = Slow.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote(begun)  # type: ignore[attr-defined]
    while not begun.exists():
        time.sleep(0.1)
    free_groups("trials")
    with pytest.raises(RayActorError):
        ray.get(starting.__ray_ready__.remote(), timeout=60)
    wait_until_removed(group.id.hex())
    assert states()[held_by_another] == "CREATED"
    free_groups("orphans")  # its process lives
    assert states()[held_by_another] == "CREATED"
    free_groups("workers")
    wait_until_removed(held_by_another)


def test_what_a_dead_trial_held_is_given_back(ray_here: None) -> None:
    alive, dead = Holder.remote(), Holder.remote()
    kept, orphan = ray.get(alive.hold.remote(), timeout=60), ray.get(dead.hold.remote(), timeout=60)
    ray.kill(dead)
    for _ in range(100):
        free_groups("orphans")
        if states()[orphan] == "REMOVED":
            break
        time.sleep(0.1)
    assert (states()[orphan], states()[kept]) == ("REMOVED", "CREATED")
    free_groups("workers")
    wait_until_removed(kept)

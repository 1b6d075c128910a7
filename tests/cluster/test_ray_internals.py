"""Another version of Ray may lack a private name: rfray warns once, and does without."""

from collections.abc import Callable
from importlib import import_module

import pytest
from ray.train.torch import TorchTrainer

from rfray.cluster import ray_internals
from rfray.cluster.ray_internals import (
    DASHBOARD_ERROR,
    ENABLE_RAY_CLUSTER,
    GROUP_TABLE,
    NAMES,
    TRAINER_CALLBACKS,
    TRIAL_ENVIRONMENT,
    PrivateName,
    held_groups,
    loopback_only,
    share_ready_processes,
    without_dashboard_agents,
    without_group_cleaner,
)


def enter(block: Callable[[], object]) -> None:
    with block():  # type: ignore[attr-defined]
        pass


USES: dict[PrivateName, Callable[[], object]] = {
    ENABLE_RAY_CLUSTER: lambda: enter(loopback_only),
    DASHBOARD_ERROR: lambda: enter(without_dashboard_agents),
    TRIAL_ENVIRONMENT: share_ready_processes,
    GROUP_TABLE: held_groups,
    TRAINER_CALLBACKS: lambda: without_group_cleaner(TorchTrainer),
}


def holder(owner: object, attribute: str) -> object:
    """What has the attribute itself: a module, or the class that defines a method."""
    if attribute in vars(owner):
        return owner
    kind = owner if isinstance(owner, type) else type(owner)
    return next(base for base in kind.__mro__ if attribute in vars(base))


def test_five_at_most() -> None:
    assert set(USES) == set(NAMES)
    assert len(NAMES) <= 5


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_where_ray_lacks_a_name_there_is_one_warning(
    name: PrivateName, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner, _ = name.find()
    assert owner is not None  # this version has it
    ray_internals._warn_once.cache_clear()
    attribute = name.name.split(".")[-1]
    monkeypatch.delattr(holder(owner, attribute), attribute)
    results = [USES[name](), USES[name]()]
    assert results[0] in (None, [], TorchTrainer)
    assert [record.message for record in caplog.records] == [record.message for record in caplog.records[:1]]
    assert name.loss in caplog.text


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_where_ray_lacks_a_whole_module(name: PrivateName, caplog: pytest.LogCaptureFixture) -> None:
    gone = PrivateName(f"ray.gone.{name.module}", name.name, name.loss)
    assert gone.find() == (None, None)
    assert name.loss in caplog.text


def test_what_is_replaced_is_put_back() -> None:
    constants = import_module(ENABLE_RAY_CLUSTER.module)
    before = constants.ENABLE_RAY_CLUSTER
    with loopback_only():
        assert constants.ENABLE_RAY_CLUSTER is False
    assert constants.ENABLE_RAY_CLUSTER is before

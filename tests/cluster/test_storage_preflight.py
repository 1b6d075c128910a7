"""What can't work is said before the first trial: folders that nodes can't write to, a disk too small for the plan."""

from pathlib import Path

import pytest

from rfray.cluster.storage_preflight import check_storage
from rfray.errors import ClusterError, DiskFullError
from rfray.store.run_dir import RunDir
from rfray.tuning.plan import disk_needs
from tests.tuning.test_preflight import sweep_file


def test_what_the_disk_must_hold_by_hand(tmp_path: Path) -> None:
    # 1000 parameters are 4000 bytes: 3 kept + 2 running weights; 2 states of 3 tensors, each there twice
    plain = sweep_file(tmp_path, "backbone: test_resnet\n  lr: [1, 2, 3, 4]").sweep
    assert disk_needs(plain, {"a": 1000, "b": 10}, at_once=2) == (5 + 2 * 2 * 3) * 4000
    averaged = sweep_file(tmp_path, "backbone: test_resnet\n  lr: [1, 2, 3, 4]\n  ema: 0.99").sweep
    assert disk_needs(averaged, {"a": 1000}, at_once=9) == (7 + 4 * 2 * 4) * 4000  # never more than 4 trials
    probed = sweep_file(tmp_path, "backbone: [a, b]\n  lr: [1, 2]\n  head: [random, probe]").sweep
    assert disk_needs(probed, {"a": 1000}, at_once=2) == (3 + 2 + 2 + 2 * 2 * 3) * 4000  # and two probes


def test_a_disk_too_small_for_the_plan(tmp_path: Path, ray_here: None) -> None:
    with pytest.raises(DiskFullError, match=r"it needs 1000000000000\.0 MB"):
        check_storage(RunDir(tmp_path / "run"), 10**18)
    check_storage(RunDir(tmp_path / "run"), 1)
    assert list((tmp_path / "run").iterdir()) == []  # the probes are gone


def test_a_node_that_can_not_write_is_named(ray_here: None) -> None:
    blocked = RunDir("/proc")  # a folder that is there and that nobody can write to
    with pytest.raises(ClusterError, match=r"node 127\.0\.0\.1 can't write into the run folder /proc"):
        check_storage(blocked, 1)

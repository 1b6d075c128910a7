"""What the plan of a sweep says."""

from pathlib import Path

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

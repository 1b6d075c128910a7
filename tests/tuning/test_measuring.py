"""`resources: auto`: what is measured, and that it is measured once."""

import io
from pathlib import Path

import pytest
import ray
import torch
from rich.console import Console

from rfray.cluster.slots import MARGIN, Packing, Slot, slot_count
from rfray.errors import ClusterError
from rfray.spec.trial import Trial
from rfray.store.records import Measurements, write_record
from rfray.store.run_dir import RunDir
from rfray.training.loop import footprint
from rfray.tuning.measuring import heaviest_trials, keep_packing, known_measurements, shares_for
from rfray.tuning.plan import packing_lines
from tests.tuning.test_preflight import sweep_file

QUIET = Console(file=io.StringIO(), width=200)


def test_the_heaviest_trial_of_each_backbone_and_size(tmp_path: Path) -> None:
    sweep = sweep_file(
        tmp_path,
        "backbone: [test_resnet, test_vit]\n  image_size: [32, 96]\n  batch_size: [8, 64, 16]\n  ema: [0, 0.9]\n"
        "  precision: [bf16, fp32]\n  lr: {log: [1e-4, 1e-2]}\n  optimizer: [sgd, adamw]",
    ).sweep
    trials = heaviest_trials(sweep)
    assert [(trial.backbone, trial.image_size) for trial in trials] == [
        ("test_resnet", 32), ("test_resnet", 96), ("test_vit", 32), ("test_vit", 96),
    ]  # fmt: skip
    assert {(trial.batch_size, trial.ema, trial.precision, trial.optimizer) for trial in trials} == {
        (64, 0.9, "fp32", "sgd")
    }
    ranges = sweep_file(
        tmp_path, "backbone: test_vit\n  image_size: {int: [32, 200]}\n  batch_size: {int: [8, 64]}"
    ).sweep
    assert [(trial.image_size, trial.batch_size) for trial in heaviest_trials(ranges)] == [(200, 64)]


def test_a_footprint_is_that_of_real_training() -> None:
    found = footprint(Trial(backbone="test_resnet", pretrained=False, image_size=32, batch_size=8), 1, None)
    assert found.micro_batch == 8
    assert found.images_per_second > 0
    assert found.host_memory > 200_000_000  # torch alone takes that
    if not torch.cuda.is_available():
        assert (found.device, found.device_memory, found.memory) == ("cpu", 0, 0)
    small = Trial(backbone="test_resnet", pretrained=False, image_size=32, batch_size=8)
    assert footprint(small, 1, micro_batch=2).micro_batch == 2


def test_every_backbone_is_measured_once(tmp_path: Path, ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    file = sweep_file(tmp_path, "backbone: test_resnet\n  image_size: 32\n  batch_size: 8")
    sweep = file.sweep.model_copy(update={"resources": file.sweep.resources.model_copy(update={"auto": True})})
    run, slot = RunDir(tmp_path / "run"), Slot(1, 0)
    packing = shares_for(sweep, run, slot, False, QUIET)
    assert isinstance(packing, Packing)
    (one,) = packing.measured
    assert (one.backbone, one.image_size, one.device, one.micro_batch) == ("test_resnet", 32, "cpu", 8)
    trial = sweep.trial.trial({})
    assert packing.of(trial) == Slot(1, 0, memory=one.host_memory * MARGIN, micro_batch=8)
    assert 1 <= slot_count(packing) <= ray.cluster_resources()["CPU"]
    (line,) = packing_lines(packing)
    assert line.startswith("test_resnet at 32 px: ")
    assert line.endswith(
        f" GB, {one.images_per_second:.0f} images/s, 8 at a time; 1 CPU and 0 GPU each, {slot_count(packing)} at once"
    )
    assert known_measurements(run) == []  # looking at the plan alone writes nothing
    keep_packing(run, packing, QUIET)
    assert known_measurements(run) == [one]

    def again(*arguments: object, **options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("rfray.tuning.measuring.on_node", again)
    assert shares_for(sweep, run, slot, False, QUIET) == packing
    with pytest.raises(AssertionError, match="measured again"):
        shares_for(sweep, run, slot, True, QUIET)
    assert shares_for(file.sweep, run, slot, False, QUIET) == slot


@pytest.mark.slow
def test_what_can_not_be_trained_anywhere_is_named(tmp_path: Path, ray_here: None) -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    file = sweep_file(tmp_path, "backbone: densenet121\n  image_size: 16\n  batch_size: 2")
    sweep = file.sweep.model_copy(update={"resources": file.sweep.resources.model_copy(update={"auto": True})})
    with pytest.raises(
        ClusterError, match=r"resources: auto can't train on this cluster:\n  densenet121 at 16 px: \w+"
    ):
        shares_for(sweep, RunDir(tmp_path / "run"), Slot(1, 0), False, QUIET)


def test_a_damaged_record_is_measured_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_record(run.measured_file, Measurements(measured=[]))
    run.measured_file.write_text("{}")
    assert known_measurements(run) == []

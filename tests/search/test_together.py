"""Trials with several workers, on real Ray: what they come to, what they hold, and what is left when they end."""

import io
import time
from pathlib import Path

import pytest
import ray
from ray.util import placement_group_table

from rfray.data.parts import prepare_training
from rfray.evaluation.predictions import read_predictions
from rfray.run import RunDir, TrialDir
from rfray.search.cluster import slot_for, slots
from rfray.search.sweep import run_sweep
from rfray.search.worker import images_of
from rfray.training.loop import Epoch, Hooks, train
from tests.search.test_sweep import Console, sweep_of, tmp_session


def cores() -> float:
    return float(ray.cluster_resources()["CPU"])


def everything_is_free() -> bool:
    """Whether no placement group and no core is taken; Ray may need a moment to say so."""
    for _ in range(100):
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        if not groups and ray.available_resources().get("CPU") == cores():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.timeout(900)
def test_a_sweep_of_groups_of_which_one_and_a_half_fit(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    """Two ask for two thirds of the cores at once; the scheduler stops one; both give back what they had."""
    sweep = sweep_of(
        pictures, tmp_path, f"resources={{cpu: {cores() / 3:.4f}, gpu: 0, workers: 2}}", "search.concurrent=2",
        "search.scheduler=asha", "search.trials=2", "search.reduction_factor=2", "trial.epochs=2",
        "trial.augmentation=none", "trial.lr=[3e-3, 1e-9]", "trial.backbone=test_vit", "trial.optimizer=sgd",
        "trial.warmup=0", "search.algorithm=grid",
    )  # fmt: skip
    slot = slot_for(sweep.resources)
    assert (slot.workers, slots(slot)) == (2, 1)
    run = RunDir(tmp_path / "run")
    run.claim(sweep)
    console = Console(file=io.StringIO(), width=200)
    prepare_training(run, sweep, console)
    done = run_sweep(run, sweep, slot, tmp_session(), console)
    assert [(result.status, result.reason) for result in done] == [("ok", None)] * 2
    assert sorted(result.epochs for result in done) == [1, 2]  # one was stopped
    assert everything_is_free()
    whole = next(result for result in done if result.epochs == 2)
    one_worker: list[Epoch] = []
    data = images_of(run.path, "scale", 32)[1]
    train(whole.trial, data, TrialDir(tmp_path / "one"), "auc", 1, Hooks(one_worker.append))
    history = run.trial(whole.id).history()
    assert history["train_loss"].tolist() == pytest.approx([epoch.train_loss for epoch in one_worker], rel=1e-5)
    assert history["select_auc"].tolist() == pytest.approx([epoch.score for epoch in one_worker])
    together, alone = (
        read_predictions(out.predictions_file("select")).p_fake
        for out in (run.trial(whole.id), TrialDir(tmp_path / "one"))
    )
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-5)

"""Trials with several workers, on real Ray: what they come to, what they hold, and what is left when they end."""

import io
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from rfray.cluster.slots import Slot, slot_count, slot_for, worker_slot
from rfray.commands.prepare_data import prepare_training
from rfray.errors import ClusterError, TrialError
from rfray.spec.sweep import Resources
from rfray.spec.trial import Trial
from rfray.stats.predictions import read_predictions
from rfray.store.ownership import claim_run
from rfray.store.records import TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, TrialDir
from rfray.training.checkpoint import write_history
from rfray.training.learner import Hooks
from rfray.training.loop import train
from rfray.tuning.ddp_trainable import _cause
from rfray.tuning.run_sweep import run_sweep
from rfray.tuning.trainable import WorkerLostError, sweep_images
from tests.tuning.test_budget import ends, started
from tests.tuning.test_run_sweep import Console, cores, sweep_of, tmp_session, what_is_taken


def ended_with(run: RunDir, setting: Trial, score: float) -> None:
    """A trial that an earlier start has trained, with this score after every epoch."""
    out = run.trial(f"00000-{setting.digest[:6]}")
    write_record(out.start_file, TrialStart(id=out.id, number=0, results_known=0, trial=setting), out.mirror)
    rows = [{"epoch": epoch, "seconds": 1.0, "ended": float(epoch), "val_auc": score} for epoch in (1, 2)]
    write_history(out, rows)
    fields = {"trial": setting, "metric": "auc", "score": score, "best_epoch": 1, "epochs": 2, "seconds": 2.0}
    run.write_result(out, TrialResult(id=out.id, position=0, status="ok", node="", files={}, **fields))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_of_groups_of_which_one_and_a_half_fit(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    """Two ask for two thirds of the cores at once; the scheduler stops both, which give back what they had."""
    sweep = sweep_of(
        pictures, tmp_path, f"resources={{cpu: {cores() / 3:.4f}, gpu: 0, workers: 2}}", "search.concurrent=2",
        "search.scheduler=asha", "search.trials=3", "search.algorithm=grid", "trial.augmentation=none",
        "trial.lr=[1e-3, 3e-4, 1e-4]", "trial.backbone=test_vit", "trial.optimizer=sgd", "trial.warmup=0",
        "trial.schedule=constant",
    )  # fmt: skip
    slot = slot_for(sweep.resources)
    assert (slot.workers, slot_count(slot)) == (2, 1)
    run = RunDir(tmp_path / "run")
    claim_run(run, sweep)
    console = Console(file=io.StringIO(), width=200)
    prepare_training(run, sweep, console)
    ended_with(run, sweep.trial.trial({"lr": 1e-3}), score=1.0)
    _, *done = run_sweep(run, sweep, slot, tmp_session(), console)
    # with a perfect one before them, asha lets neither go on after its first epoch
    assert [(result.status, result.reason, result.epochs) for result in done] == [("ok", None, 1)] * 2
    assert what_is_taken() == []
    data = sweep_images(run.path, "scale", 32)[1]
    for result in done:  # and what they came to is what one worker comes to
        alone, together = TrialDir(tmp_path / result.id), run.trial(result.id)
        train(result.trial.model_copy(update={"epochs": 1}), data, alone, "auc", 1, Hooks(lambda epoch: None))
        for column in ("train_loss", "val_auc"):
            assert together.history()[column].tolist() == pytest.approx(alone.history()[column].tolist(), rel=1e-5)
        p_fake = [read_predictions(out.predictions_file("val")).p_fake for out in (together, alone)]
        assert p_fake[0].tolist() == pytest.approx(p_fake[1].tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_budget_ends_all_workers_of_a_trial(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(
        pictures, tmp_path, f"resources={{cpu: {cores() / 2:.4f}, gpu: 0, workers: 2}}", "trial.epochs=1000",
        "trial.lr={log: [1e-4, 1e-2]}", "search={budget: 100h, scheduler: none}",
    )  # fmt: skip
    run = RunDir(tmp_path / "run")
    (result,) = started(run, sweep, ends(run, after_epochs=2))
    assert (result.status, result.reason) == ("ok", None)
    assert 2 <= result.epochs < 1000
    assert run.trial(result.id).damaged_files(result) == []
    assert what_is_taken() == []


def test_a_group_that_does_not_fit_is_refused_and_predicting_needs_one_worker(ray_here: None) -> None:
    there = cores()
    many = Resources(cpu=there, gpu=0, workers=2)
    with pytest.raises(
        ClusterError, match=rf"a trial asks for 2 workers of {there:g} CPU and 0 GPU, but the cluster has"
    ):
        slot_for(many)
    assert worker_slot(many) == Slot(there, 0)
    if not ray.cluster_resources().get("GPU"):
        with pytest.raises(ClusterError, match="a trial asks for 4 workers of 1 CPU and 1 GPU, but the cluster has"):
            slot_for(Resources(gpu=4))


def test_what_a_groups_failure_was() -> None:
    gone, peer = RayActorError(), RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]")
    mine = TrialError("the loss is nan")
    assert _cause([peer, mine, gone]) is mine
    for failures in ([peer, gone], [peer], [gone]):
        assert isinstance(_cause(failures), WorkerLostError)
    other = ValueError("bad")
    assert _cause([other, peer]) is other

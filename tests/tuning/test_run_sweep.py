"""Sweeps on real Ray with real, tiny models: every pair of algorithm and scheduler, failures, budgets, resuming."""

import io
import os
import re
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util import placement_group_table
from rich.console import Console
from sklearn import metrics as sk

from rfray.cluster.slots import Slot, slot_for
from rfray.commands.prepare_data import prepare_training
from rfray.errors import ClusterError, InputError, SweepFailed
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import load_sweep
from rfray.stats.predictions import read_predictions
from rfray.store.ownership import claim_run
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir
from rfray.tuning.callbacks import Display, mlflow_callbacks
from rfray.tuning.preflight import check_sweep
from rfray.tuning.run_sweep import check_outcome, run_sweep
from rfray.tuning.strategies import SCHEDULERS, SEARCHERS

SWEEP = """
name: tiny
data: {{train: {pictures}/train, test: {pictures}/test, val: 0.25}}
trial:
  backbone: test_resnet
  pretrained: false
  augmentation: [none, light]
  image_size: 32
  lr: [1e-3, 3e-3]
  epochs: 3
  batch_size: 20
search: {{trials: 4, algorithm: random, concurrent: 1}}
resources: {{cpu: 1}}
ensemble: {{top_k: 2}}
"""


def cores() -> float:
    return float(ray.cluster_resources()["CPU"])


def what_is_taken() -> list[object]:
    """Placement groups, and cores, that are still taken after a while: Ray may need a moment to give them back."""
    taken: list[object] = []
    for _ in range(300):
        taken = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        if (free := ray.available_resources().get("CPU", 0.0)) != cores():
            taken.append(f"{free} of {cores()} cores are free")
        if not taken:
            break
        time.sleep(0.2)
    return taken


def sweep_of(pictures: Path, folder: Path, *overrides: str, text: str = SWEEP) -> Sweep:
    file = folder / "sweep.yaml"
    file.write_text(text.format(pictures=pictures))
    loaded = load_sweep(file, overrides)
    check_sweep(loaded)
    return loaded.sweep


def tmp_session() -> Path:
    """Where a full disk would be noticed: any folder with room."""
    return Path(tempfile.gettempdir())


def run_here(sweep: Sweep, folder: Path, said: io.StringIO | None = None) -> tuple[RunDir, list[TrialResult]]:
    console = Console(file=said or io.StringIO(), width=200)
    run = RunDir(folder / "run")
    claim_run(run, sweep)
    prepare_training(run, sweep, console)
    return run, run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), console)


PAIRS = [(algorithm, scheduler) for algorithm in SEARCHERS for scheduler in SCHEDULERS]
QUICK = [("grid", "median")]
"""With the other tests' sweeps and the chaos seeds each algorithm and each scheduler once; the rest are slow tests."""


@pytest.mark.parametrize(
    ("algorithm", "scheduler"),
    [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_every_pair_runs_to_its_end(
    algorithm: str, scheduler: str, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    sweep = sweep_of(pictures, tmp_path, f"search.algorithm={algorithm}", f"search.scheduler={scheduler}")
    run, done = run_here(sweep, tmp_path)
    assert [result.status for result in done] == ["ok"] * 4
    assert len({result.id for result in done}) == 4
    assert sorted(result.position for result in done) == [0, 1, 2, 3]
    assert all(1 <= result.epochs <= 3 for result in done)
    assert scheduler != "none" or all(result.epochs == 3 for result in done)
    assert len({(result.trial.augmentation, result.trial.lr) for result in done}) == 4
    for result in done:
        out = run.trial(result.id)
        predictions = read_predictions(out.predictions_file("val"))
        assert sk.roc_auc_score(predictions.labels, predictions.p_fake) == pytest.approx(result.score, abs=1e-12)
        history = out.history()
        assert np.isfinite(history.to_numpy()).all()
        assert history["val_auc"].max() == result.score
        assert result.seconds == pytest.approx(history["seconds"].sum())
        assert out.state_files() == []
        assert len(list(out.tensorboard.glob("events.out.tfevents.*"))) >= 1
    assert not run.ray_folder.exists()


def stop_first_until_second_began(run: RunDir) -> None:
    """Stops the first trial's process until another process has begun a trial, for a minute at most."""
    give_up = time.monotonic() + 60
    begun: set[int] = set()
    while not begun and time.monotonic() < give_up:
        time.sleep(0.002)
        begun = {int(start.process) for trial in run.trials() for start in trial.starts()}
    for process in begun:
        os.kill(process, signal.SIGSTOP)
    others = begun
    while others == begun and time.monotonic() < give_up:
        time.sleep(0.05)
        others = {int(start.process) for trial in run.trials() for start in trial.starts()}
    for process in begun:
        os.kill(process, signal.SIGCONT)


def test_trials_run_side_by_side_and_only_the_best_weights_stay(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(pictures, tmp_path, "search.keep=2", "trial.epochs=3", "search.concurrent=2")
    has_two_slots = (os.cpu_count() or 1) > 1
    assert what_is_taken() == []  # a process of an earlier test that is still ending would have the second slot
    with ThreadPoolExecutor() as pool:  # also the first two, though one may end before the other's process is ready
        watch = pool.submit(stop_first_until_second_began, RunDir(tmp_path / "run")) if has_two_slots else None
        run, done = run_here(sweep, tmp_path)
        if watch:
            watch.result()
            assert len({start.process for trial in run.trials() for start in trial.starts()}) == 2
    kept = {trial.id for trial in run.trials() if trial.weights_file.exists()}
    ranked = sorted(done, key=lambda result: (-(result.score or 0), result.id))
    assert kept == {result.id for result in ranked[:2]}
    assert all(trial.predictions_file("val").exists() for trial in run.trials())


def test_a_failing_trial_is_a_row_with_its_reason_and_the_sweep_goes_on(
    pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    said = io.StringIO()
    sweep = sweep_of(
        pictures, tmp_path, "trial.lr=[1e-3, 1e30]", "trial.augmentation=none", "trial.optimizer=sgd",
        "trial.clip_grad=0", "trial.warmup=0", "search.trials=2",
    )  # fmt: skip
    run, done = run_here(sweep, tmp_path, said)
    failed = [result for result in done if result.status == "failed"]
    assert [result.trial.lr for result in failed] == [1e30]
    assert failed[0].score is None
    assert re.match(r"TrialError: (the loss is (nan|inf)|the model's outputs are not finite)", failed[0].reason or "")
    assert "Traceback" in run.trial(failed[0].id).error_file.read_text()
    assert f"trial {failed[0].id} failed: TrialError" in said.getvalue()
    with pytest.raises(SweepFailed, match=rf"1 of 2 trials failed.*\n  {failed[0].id}: TrialError"):
        check_outcome(run, sweep, done)
    check_outcome(run, sweep.model_copy(update={"search": sweep.search.model_copy(update={"max_failed": 1})}), done)


def test_five_failures_in_a_row_for_one_reason_end_the_sweep(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(
        pictures, tmp_path, "trial.lr=[1e30, 2e30, 3e30, 4e30, 5e30, 6e30, 7e30]", "trial.augmentation=none",
        "trial.optimizer=sgd", "trial.clip_grad=0", "trial.warmup=0", "search={trials: 7, concurrent: 1}",
    )  # fmt: skip
    with pytest.raises(SweepFailed, match="the sweep was stopped: 5 trials in a row failed with the same error"):
        run_here(sweep, tmp_path)
    assert [len(trial.starts()) for trial in RunDir(tmp_path / "run").trials()][:5] == [1] * 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_goes_on_after_a_kill_as_it_would_have(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    """Cut off after so many epochs as a driver that was killed leaves it: states, and no word of who may go on."""
    settings = ["search.scheduler=asha", "search.trials=6", "search.algorithm=optuna", "search.reduction_factor=2"]
    settings += ["trial.lr={log: [1e-4, 1e-2]}", "trial.epochs=4"]
    (tmp_path / "whole").mkdir()
    _, done = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path / "whole")
    assert sorted({result.epochs for result in done})[0] == 1
    assert max(result.epochs for result in done) == 4

    class Killed(Exception):
        pass

    seen = 0

    def killed(self: Display, *arguments: object, **options: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 6:  # two trials have been at the second rung then, and two wait at the first
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "on_trial_result", killed)
        with pytest.raises(Exception, match="Killed"):
            run_here(sweep_of(pictures, tmp_path, *settings), tmp_path)
    _, again = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path)
    found, wanted = (
        sorted((one.id, one.score, one.best_epoch, one.epochs) for one in several) for several in (again, done)
    )
    assert found == wanted


def test_the_test_folder_is_not_needed_to_train_and_choose(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    said = io.StringIO()
    sweep = sweep_of(pictures, tmp_path, "data.test=not/there", "search.trials=2", "trial.epochs=2")
    run, done = run_here(sweep, tmp_path, said)
    assert [result.status for result in done] == ["ok", "ok"]
    assert set(run.catalog()["part"]) == {"train", "val"}
    # and a log has one line an epoch
    lines = [line for line in said.getvalue().splitlines() if " epoch " in line]
    assert len(lines) == 4
    assert re.fullmatch(r"trial 0000\d-\w{6} epoch \d/2 val auc [\d.]+ best [\d.]+ \d+ images/s.*", lines[0])


@pytest.mark.slow
def test_a_second_run_of_a_finished_sweep_does_nothing(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(pictures, tmp_path, "search.trials=2", "trial.epochs=1")
    run, first = run_here(sweep, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.trials_folder.rglob("*") if path.is_file()}
    assert run_here(sweep, tmp_path)[1] == first
    assert {path: path.stat().st_mtime_ns for path in run.trials_folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    ["optuna", "random", "grid"],
)
def test_a_sweep_cut_off_between_trials_proposes_what_the_whole_one_would_have(
    algorithm: str, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    settings = [f"search.algorithm={algorithm}", "search.concurrent=1", "trial.epochs=1", "search.trials=4"]
    if algorithm != "grid":
        settings.append("trial.lr={log: [1e-4, 1e-2]}")
    (tmp_path / "whole").mkdir()
    whole, done = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path / "whole")
    # the folder of a sweep that was killed after two trials, with the third open
    cut = tmp_path / "cut"
    cut.mkdir()
    os.system(f"cp -r {whole.path} {cut}/run")
    for result in done[2:]:
        trial = RunDir(cut / "run").trial(result.id)
        for path in trial.path.iterdir():
            if path.is_file() and (path != trial.start_file or result is done[3]):
                path.unlink()
    _, again = run_here(sweep_of(pictures, tmp_path, *settings), cut)
    assert [(result.id, result.score) for result in again] == [(result.id, result.score) for result in done]


def test_more_than_the_cluster_has_is_said_at_once(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(pictures, tmp_path, "resources={cpu: 4000, gpu: 0}")
    with pytest.raises(ClusterError, match=r"asks for 4000 CPU and 0 GPU, but the cluster has a node with \d+ CPU"):
        slot_for(sweep.resources)


def test_no_gpu_is_asked_for_where_there_is_none(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert slot_for(sweep_of(pictures, tmp_path).resources) == Slot(1, 0)


def test_mlflow_follows_its_own_variables(
    pictures: Path, tmp_path: Path, ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra rfray[mlflow] is not installed")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "faces")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_here(sweep_of(pictures, tmp_path, "search.trials=1", "trial.epochs=2"), tmp_path)
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("faces")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.params["backbone"] == "test_resnet"
    assert len(client.get_metric_history(logged.info.run_id, "score")) == 2


def test_mlflow_asked_for_but_missing_is_said_at_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'rfray\[mlflow\]'"):
        mlflow_callbacks(sweep_of(pictures, tmp_path))

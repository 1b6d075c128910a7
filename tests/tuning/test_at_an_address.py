"""The whole line with images and run folder on S3, each command as if on another machine."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rfray.cli import app
from rfray.store.ownership import LEASE_FILE, LOOK_AGAIN
from rfray.store.run_dir import RunDir
from rfray.store.storage import Mirror, Storage
from rfray.tuning.warm_start import warm_start
from tests.evaluation.test_run_comparison import run_of
from tests.object_store import bucket_here, upload
from tests.pictures import write_folder
from tests.synthetic import FIRST, SECOND
from tests.tuning.test_warm_start import begun, ended
from tests.tuning.test_warm_start import sweep as warm_sweep

SWEEP = """
name: small
data: {{train: "{bucket}/images/train", test: {{first: "{bucket}/images/test", more: "{bucket}/more"}}, val: 0.25}}
trial:
  backbone: [test_resnet, test_vit]
  pretrained: false
  head: probe
  image_size: 32
  lr: 1e-3
  epochs: 2
  batch_size: 20
search: {{algorithm: grid, concurrent: 1}}
ensemble: {{top_k: 2}}
"""


@pytest.fixture(scope="module")
def bucket(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    more = tmp_path_factory.mktemp("more")
    write_folder(more, per_class=6, seed=7)
    with bucket_here() as address:
        upload(pictures, f"{address}/images")
        upload(more, f"{address}/more")
        yield address


def rfray(*words: str, machine: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command with a cache and a working directory of its own: all that one machine does not share."""
    machine.mkdir(exist_ok=True)
    environment = {"RFRAY_CACHE": str(machine / "cache")}
    command = [sys.executable, "-m", "rfray.cli", *words]
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd=machine,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def names(address: str) -> set[str]:
    return {entry.path for entry in Storage(address).entries()}


@pytest.mark.slow
def test_a_run_on_s3_goes_from_machine_to_machine(bucket: str, tmp_path: Path) -> None:
    run = f"{bucket}/runs/small"
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP.format(bucket=bucket))
    done = rfray("tune", str(sweep), "--run", run, "--accept-audit", machine=tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert f"rfray ensemble {run}" in done.stdout
    there = names(run)
    trials = sorted({name.split("/")[1] for name in there if name.startswith("trials/")})
    assert len(trials) == 2
    contract = {"trial.json", "history.csv", "best.safetensors", "predictions-val.parquet", "result.json"}
    for trial in trials:
        assert {f"trials/{trial}/{file}" for file in contract} <= there
    assert {"sweep.yaml", "catalog.parquet", "audit.json"} <= there
    assert not [name for name in there if "state-" in name or name.startswith(".")]

    # a trial that another machine must run again
    lost = f"trials/{trials[0]}/result.json"
    before = json.loads(Storage(run).read(lost))
    Storage(run).remove([lost])
    done = rfray("tune", str(sweep), "--run", run, "--accept-audit", machine=tmp_path / "two")
    assert done.returncode == 0, done.stderr
    after = json.loads(Storage(run).read(lost))
    assert after["files"]["best.safetensors"] == before["files"]["best.safetensors"]  # the same seed, the same weights

    done = rfray("ensemble", run, machine=tmp_path / "three")
    assert done.returncode == 0, done.stderr
    assert f"{run}/leaderboard.csv" in done.stdout
    assert {"leaderboard.csv", "leaderboard.md", "report.html", "ensemble/ensemble.json"} <= names(run)
    Mirror(tmp_path / "here", Storage(run)).pull("leaderboard.csv")
    rows = pd.read_csv(tmp_path / "here" / "leaderboard.csv")
    assert sorted(rows["kind"]) == ["baseline", "ensemble", "model", "model", "probe", "probe"]
    assert rows[["auc", "auc_first", "auc_more", "auc_mean", "auc_worst"]].notna().all().all()
    assert rows["n_more"].tolist() == [12] * 6

    done = rfray("leaderboard", run, machine=tmp_path / "four")
    assert done.returncode == 0, done.stderr
    assert "ensemble" in done.stdout

    changed = rfray("tune", str(sweep), "--run", run, "--set", "trial.epochs=3", machine=tmp_path / "two")
    assert changed.returncode == 2
    assert f"{run} holds a sweep of this name with other settings" in changed.stderr


@pytest.mark.slow
def test_a_budget_on_s3_is_used_up_on_any_machine(bucket: str, tmp_path: Path) -> None:
    run = f"{bucket}/runs/short"
    sweep = tmp_path / "sweep.yaml"
    text = SWEEP.format(bucket=bucket).replace("{algorithm: grid, concurrent: 1}", "{budget: 60s, concurrent: 1}")
    text = text.replace("name: small", "name: short").replace("head: probe", "head: random")  # 60 s are few
    sweep.write_text(text.replace("epochs: 2", "epochs: 100000"))
    done = rfray("tune", str(sweep), "--run", run, "--accept-audit", machine=tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert "The budget of 60s is used up; a larger search.budget goes on" in done.stdout
    used = json.loads(Storage(run).read("budget.json"))["clock"]
    done = rfray("ensemble", run, machine=tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "leaderboard.csv" in names(run)
    done = rfray("tune", str(sweep), "--run", run, "--accept-audit", machine=tmp_path / "three")
    assert done.returncode == 0, done.stderr
    assert json.loads(Storage(run).read("budget.json"))["clock"] == used
    done = rfray("tune", str(sweep), "--run", run, "--set", "search.budget=90s", machine=tmp_path / "three")
    assert done.returncode == 0, done.stderr
    assert json.loads(Storage(run).read("budget.json"))["clock"] > used


@pytest.mark.slow
def test_a_sweep_whose_address_another_command_has_taken_ends_and_writes_no_more(bucket: str, tmp_path: Path) -> None:
    run = f"{bucket}/runs/taken"
    sweep, storage = tmp_path / "sweep.yaml", Storage(run)
    text = SWEEP.format(bucket=bucket).replace("epochs: 2", "epochs: 100000").replace("head: probe", "head: random")
    sweep.write_text(text.replace("name: small", "name: taken"))

    def times() -> dict[str, int]:
        return {entry.path: entry.modified for entry in storage.entries() if not entry.path.startswith(".ray/")}

    with ThreadPoolExecutor(1) as pool:
        words = ("tune", str(sweep), "--run", run, "--accept-audit")
        tuning = pool.submit(rfray, *words, machine=tmp_path / "one")
        while not any(name.endswith("history.csv") for name in names(run)):
            assert not tuning.done()
            time.sleep(0.2)
        storage.write(LEASE_FILE, b'{"id": "taker", "user": "process 9 elsewhere"}')
        time.sleep(LOOK_AGAIN + 2)  # what is on its way arrives
        before = times()
        done = tuning.result()
    assert done.returncode == 2, done.stdout
    assert f"{run} is in use by process 9 elsewhere now; this one has stopped writing there" in done.stderr
    assert times() == before


def test_a_bucket_that_is_not_there_is_one_line(bucket: str, tmp_path: Path) -> None:
    done = rfray("ensemble", "s3://no-such-bucket-here/runs/x", machine=tmp_path / "one")
    assert done.returncode == 2
    assert "not a run folder" in done.stderr or "no bucket" in done.stderr


def test_earlier_runs_are_taken_from_an_address_and_to_one(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "one"))
    first = begun(f"{bucket}/runs/first", warm_sweep())
    ended(first, 0, 0.1, 0.6)
    ended(first, 1, 0.3, 0.9, kept=False)
    first.mirror.push()
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "two"))  # another machine
    asked = warm_sweep(search={"warm_start": [f"{bucket}/runs/first"]})
    later = begun(f"{bucket}/runs/later", asked)
    known = warm_start(later, asked, Console(file=io.StringIO()))
    assert known.lines == [f"Warm start from {bucket}/runs/first: 2 taken over"]
    there = names(f"{bucket}/runs/later")
    for out, kept in zip(later.trials(), (True, False), strict=True):
        result = out.result()
        assert result is not None
        assert result.taken_from == f"{bucket}/runs/first/trials/0000{result.position}-there"
        assert {f"trials/{out.id}/{name}" for name in ("trial.json", "result.json", "history.csv")} <= there
        assert (f"trials/{out.id}/best.safetensors" in there) is kept
    # a third one goes on with what was fixed there, without the earlier run
    Storage(f"{bucket}/runs/first").remove(names(f"{bucket}/runs/first"))
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "three"))
    assert warm_start(RunDir(later.where), asked, Console(file=io.StringIO())) == known


def test_runs_at_addresses_are_compared(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_of(tmp_path / name, said) for name, said in (("first", FIRST), ("second", SECOND))]
    upload(runs[1].path, f"{bucket}/compared/second")
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["compare", str(runs[0].path), f"{bucket}/compared/second"])
    assert done.exit_code == 0, done.output
    assert "the ensemble of first is tied with that of second: AUC 0.7778 against 0.9444" in done.output
    brought = {file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert "leaderboard.csv" in brought
    assert "best.safetensors" not in brought

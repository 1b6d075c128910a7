"""A command on its way to a cluster: its words, its files, and what the job does there before it."""

import hashlib
import os
from pathlib import Path

import pytest

from rfray.errors import ClusterError
from rfray.progress.events import INSIDE, JobBegan, event_in, inside_job, rfray_version
from rfray.remote.command import REQUEST_LIMIT, WEIGHTS_FOLDER, RemoteCommand, begin_job, ensemble_command, tune_command
from rfray.spec.sweep_file import load_sweep

CONTENT = bytes(range(256)) * 100

SWEEP = """\
name: tiny
data: {train: pictures/train, test: pictures/test, val: 0.25}
trial:
  backbone: test_resnet
  pretrained: false
  augmentation: [none, light]
  image_size: 32
  lr: [1e-3, 3e-3]
  epochs: 3
  batch_size: 20
search: {trials: 2, algorithm: random, concurrent: 1}
resources: {cpu: 1}
ensemble: {top_k: 2}
"""


# here


def test_a_sweep_travels_as_it_is_written_with_the_weights_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my weights.safetensors").write_bytes(b"weights")
    text = SWEEP.replace("pretrained: false", "pretrained: {test_resnet: my weights.safetensors}")
    Path("a sweep.yaml").write_text(text)
    overrides = ["trial.backbone=[test_resnet, test_vit]"]
    file = load_sweep(Path("a sweep.yaml"), tuple(overrides))
    once = {"--fresh": True, "--dry-run": False, "--accept-audit": False}
    command = tune_command(file, Path("a sweep.yaml"), "runs/tiny", overrides, once)
    name = f"{hashlib.sha256(b'weights').hexdigest()[:16]}-my weights.safetensors"
    assert command.weights == {name: Path("my weights.safetensors")}
    assert command.words == (
        "--set", "trial.backbone=[test_resnet, test_vit]",
        "--set", f'trial.pretrained={{"test_resnet": "weights/{name}"}}',
        "--run", "runs/tiny",
    )  # fmt: skip
    assert command.once == ("--fresh",)
    assert f"rfray job {rfray_version()} tune \"$PWD\"/'a sweep.yaml' --set" in command.entrypoint
    assert command.entrypoint.endswith(" --run runs/tiny --address auto --fresh")


def test_weights_of_the_cluster_stay_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(SWEEP.replace("pretrained: false", "pretrained: [true, there/w.safetensors]"))
    once = {"--fresh": False, "--dry-run": True, "--accept-audit": False}
    command = tune_command(load_sweep(Path("sweep.yaml")), Path("sweep.yaml"), "/shared/x", (), once)
    assert command.weights == {}
    assert command.words == ("--run", "/shared/x")
    assert command.once == ("--dry-run",)


def test_the_same_command_with_the_same_file_is_the_same_job(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    once = {"--fresh": False, "--dry-run": False, "--accept-audit": False}

    def digest(run: str = "runs/tiny", *overrides: str, accept: bool = False) -> str:
        asked = {**once, "--accept-audit": accept}
        return tune_command(load_sweep(sweep, overrides), sweep, run, overrides, asked).digest

    sweep.write_text(SWEEP)
    first = digest()
    assert digest(accept=True) == first
    assert digest("runs/other") != first
    assert digest("runs/tiny", "trial.epochs=4") != first
    sweep.write_text(SWEEP.replace("epochs: 3", "epochs: 4"))
    assert digest() != first


def test_an_ensemble_travels_with_its_options() -> None:
    options = {"--top-k": 3, "--diverse": None, "--method": ["soft", "weighted"]}
    options |= {"--leave-out-worse/--keep-worse": True, "--corruptions/--no-corruptions": False}
    command = ensemble_command("runs/x", options)
    assert command.words == (
        "runs/x", "--top-k", "3", "--method", "soft", "--method", "weighted", "--leave-out-worse", "--no-corruptions",
    )  # fmt: skip
    assert command.entrypoint.endswith(" --no-corruptions --address auto")
    assert ensemble_command(None, {}).words == ()


def test_files_that_are_too_large_for_a_request_are_named(tmp_path: Path) -> None:
    sweep, weights = tmp_path / "sweep.yaml", tmp_path / "large.safetensors"
    sweep.write_text(SWEEP)
    with weights.open("wb") as file:
        file.truncate(REQUEST_LIMIT)
    with pytest.raises(ClusterError, match=r"large\.safetensors \(104\.9 MB\): more than the .* all nodes"):
        RemoteCommand("tune", "x", (), sweep, {"0-large.safetensors": weights}).collect_files(tmp_path, print)


# on the cluster


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(INSIDE, "")
    monkeypatch.delenv(INSIDE)
    return tmp_path / "home"


def test_it_prints_that_it_begins_and_works_in_its_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = os.getcwd()
    begin_job(rfray_version())
    event = event_in(capsys.readouterr().out)
    assert isinstance(event, JobBegan)
    assert event.package == here
    assert Path.cwd() == home
    assert inside_job()


def test_another_version_is_refused_before_anything_begins(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match=rf"rfray is 0\.0\.1 here and {rfray_version()} on the cluster"):
        begin_job("0.0.1")
    assert capsys.readouterr().out == ""
    assert not inside_job()


def test_a_folder_that_is_not_there(home: Path) -> None:
    home.rmdir()
    with pytest.raises(ClusterError, match=f"RFRAY_HOME is {home} on the cluster, and there is no such folder"):
        begin_job(rfray_version())


def test_weights_are_copied_for_all_nodes_and_only_once(home: Path, tmp_path: Path) -> None:
    name = f"{hashlib.sha256(CONTENT).hexdigest()[:16]}-my.weights.safetensors"
    (tmp_path / WEIGHTS_FOLDER).mkdir()
    (tmp_path / WEIGHTS_FOLDER / name).write_bytes(CONTENT)
    file = home / "weights" / name
    for before in (None, b"damaged"):
        if before:
            file.write_bytes(before)
        os.chdir(tmp_path)
        begin_job(rfray_version())
        assert file.read_bytes() == CONTENT
    written = file.stat().st_mtime_ns
    os.chdir(tmp_path)
    begin_job(rfray_version())
    assert file.stat().st_mtime_ns == written

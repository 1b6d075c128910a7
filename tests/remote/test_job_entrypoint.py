"""What a job does before its command: versions, its folder, the weights that came along."""

import hashlib
import os
from pathlib import Path

import pytest

from rfray.errors import ClusterError
from rfray.progress.events import INSIDE, JobBegan, event_in, inside_job, rfray_version
from rfray.remote.job_entrypoint import begin_job
from rfray.remote.jobs import PACKAGED_WEIGHTS

CONTENT = bytes(range(256)) * 100


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
    (tmp_path / PACKAGED_WEIGHTS).mkdir()
    (tmp_path / PACKAGED_WEIGHTS / name).write_bytes(CONTENT)
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

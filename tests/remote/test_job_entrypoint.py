"""What a job does before its command: versions, its folder, the weights that came along."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from rfray.errors import ClusterError
from rfray.progress.events import INSIDE, JobBegan, event_in, inside_job, rfray_version
from rfray.remote.job_entrypoint import begin_job

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(INSIDE, "")
    monkeypatch.delenv(INSIDE)
    return tmp_path / "home"


def send(name: str, pieces: list[bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lays pieces down as Ray does with modules: each in a folder of its own that is on PYTHONPATH."""
    places = []
    for number, piece in enumerate(pieces):
        place = folder / f"package-{len(pieces) - number}"
        (place / "rfray-weights").mkdir(parents=True)
        (place / "rfray-weights" / f"{name}.{number:04d}").write_bytes(piece)
        places.append(str(place))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/nowhere", *places]))


def test_it_says_that_it_begins_and_works_in_its_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = os.getcwd()
    begin_job(rfray_version())
    event = event_in(capsys.readouterr().out)
    assert isinstance(event, JobBegan)
    assert (event.rfray, event.package) == (rfray_version(), here)
    assert Path.cwd() == home
    assert inside_job()


def test_another_version_is_refused_after_it_has_said_which_it_is(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClusterError, match=rf"rfray is 0\.0\.1 here and {rfray_version()} on the cluster"):
        begin_job("0.0.1")
    said = capsys.readouterr().out
    assert json.loads(said[said.index("{") :])["rfray"] == rfray_version()
    assert not inside_job()


def test_a_folder_that_is_not_there(home: Path) -> None:
    home.rmdir()
    with pytest.raises(ClusterError, match=f"RFRAY_HOME is {home} on the cluster, and there is no such folder"):
        begin_job(rfray_version())


def test_weights_are_joined_from_their_pieces_and_not_written_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{hashlib.sha256(CONTENT).hexdigest()[:16]}-my.weights.safetensors"
    send(name, [CONTENT[:10_000], CONTENT[10_000:20_000], CONTENT[20_000:]], tmp_path, monkeypatch)
    begin_job(rfray_version())
    file = home / "weights" / name
    assert file.read_bytes() == CONTENT
    before = file.stat().st_mtime_ns
    begin_job(rfray_version())
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"damaged")
    begin_job(rfray_version())
    assert file.read_bytes() == CONTENT


def test_weights_that_are_not_whole_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{hashlib.sha256(CONTENT).hexdigest()[:16]}-w.safetensors"
    send(name, [CONTENT[:10_000], CONTENT[20_000:]], tmp_path, monkeypatch)
    with pytest.raises(ClusterError, match="did not arrive whole"):
        begin_job(rfray_version())
    assert list((home / "weights").iterdir()) == []

"""The folder of a Ray that is started here: nobody else reads it, and nothing of it is left over."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfray.cluster.session_folder import MARK, session_folder
from rfray.errors import ClusterError, DiskFullError

HOLD = "import sys\nfrom rfray.cluster.session_folder import session_folder\nwith session_folder() as folder:\n"
LOG = "import sys; log = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, for temporary files."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_it_is_its_users_alone_and_goes_with_the_block(short: Path) -> None:
    with session_folder() as folder:
        assert folder.parent == short
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "ray").mkdir(mode=0o777)
        with session_folder() as other:  # which leaves this one alone
            assert folder.exists()
            assert other != folder
    assert list(short.iterdir()) == []


def test_what_a_killed_command_has_left_is_cleared(short: Path) -> None:
    code = f"{HOLD}    print(folder, flush=True); sys.stdin.read()"
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert command.stdout is not None
    left = Path(command.stdout.readline().strip())
    agent = subprocess.Popen(
        [sys.executable, "-c", LOG, str(left / "agent.log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"open\n"
    with session_folder():
        assert left.exists()  # its command lives
        assert agent.poll() is None
    command.kill()
    command.wait()
    with session_folder():
        assert not left.exists()
    assert agent.wait(10) == -9
    for process in (command, agent):
        process.communicate()


def test_who_only_reads_what_a_killed_command_has_left_goes_on(short: Path) -> None:
    left = short / "rfray-12345678"
    left.mkdir(mode=0o700)
    (left / MARK).touch()
    (left / "ray.log").touch()
    code = LOG.replace("'w'", "'r'")
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(left / "ray.log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"open\n"
    with session_folder():
        assert not left.exists()
    assert reader.poll() is None
    reader.communicate()
    assert reader.returncode == 0


def test_a_link_or_somebody_elses_folder_is_not_cleared(short: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    (short / "rfray-link").symlink_to(tmp_path)
    if os.getuid() == 0:
        (short / "rfray-other").mkdir()
        os.chown(short / "rfray-other", 65534, 65534)
    with session_folder():
        pass
    assert (tmp_path / "mine").exists()
    assert (short / "rfray-other").exists() == (os.getuid() == 0)


def test_a_folder_of_this_user_that_only_has_such_a_name_is_not_cleared(short: Path) -> None:
    for name in ("rfray-data", "rfray-12345678"):
        (short / name).mkdir(mode=0o700)
        (short / name / "mine").touch()
    with session_folder():
        pass
    assert sorted(file.parent.name for file in short.glob("*/mine")) == ["rfray-12345678", "rfray-data"]


def test_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with session_folder() as folder:  # as on clusters that make one for each job
        assert str(folder).startswith("/tmp/rfray-")
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with (
        pytest.raises(ClusterError, match=r"RAY_TMPDIR: /\S+x has \d+ bytes; allowed: a path of at most 2\d"),
        session_folder(),
    ):
        pass


def test_a_folder_that_can_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ClusterError, match=r"^/proc: no folder for Ray.*Set RAY_TMPDIR"), session_folder():
        pass


def test_a_full_disk_is_said_before_ray_starts_on_it(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.cluster.session_folder.LEAST_FREE", 10**18)
    with pytest.raises(DiskFullError, match=r"MB are free, and Ray's logs need .*RAY_TMPDIR"), session_folder():
        pass
    assert list(short.iterdir()) == []

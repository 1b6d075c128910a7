"""What a killed sweep leaves on a machine: no secret, nothing that others can read, and nothing that stays."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SWEEP = """
name: traces
data: {source: demo}
trial: {backbone: test_resnet, pretrained: false, image_size: 32, lr: {log: [1e-4, 1e-2]}, epochs: 200}
search: {trials: 2}
resources: {cpu: 1, gpu: 0}
"""
SECRET = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "OTHER"]


@pytest.fixture
def machine() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder in which a command leaves all that it leaves, and its environment, full of one secret."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = dict.fromkeys(("HOME", "RAY_TMPDIR", "TMPDIR", "RFRAY_CACHE", "XDG_CACHE_HOME"), folder)
        yield Path(folder), os.environ | own | dict.fromkeys(SECRET, f"canary{secrets.token_hex(8)}")


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def start(here: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "rfray.cli", "tune", "sweep.yaml", "--accept-audit", *words]
    with (here / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep(machine: tuple[Path, dict[str, str]]) -> None:
    here, environment = machine
    (here / "sweep.yaml").write_text(SWEEP)
    command = start(here, environment)
    while not list(here.glob("runs/traces/trials/*/history.csv")):
        assert command.poll() is None, (here / "log").read_text()
        time.sleep(0.2)
    (session,) = here.glob("rfray-*")
    assert session.stat().st_mode & 0o777 == 0o700
    assert list(session.glob("ray/session_*/logs/*"))
    token = here / ".ray" / "auth_token"
    assert not token.exists() or token.stat().st_mode & 0o777 == 0o600
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    canary = environment["OTHER"].encode()
    assert [str(file) for file in files(here) if canary in file.read_bytes()] == []
    assert start(here, environment, "--dry-run", "--set", "trial.epochs=200").wait() == 0, (here / "log").read_text()
    assert list(here.glob("*rfray-*")) == []
    assert [
        one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get("HOME") == str(here)
    ] == []
    assert [str(file) for file in files(here) if canary in file.read_bytes()] == []

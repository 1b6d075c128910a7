"""What a killed sweep leaves on a machine: no secret, nothing that others can read, and nothing that stays."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
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
SECRET += ["MLFLOW_TRACKING_PASSWORD", "GOOGLE_API_KEY", "AZURE_CLIENT_SECRET", "GITHUB_TOKEN", "RAY_AUTH_TOKEN"]
TUNE = ("tune", "sweep.yaml", "--accept-audit")


@pytest.fixture
def machine() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder in which a command leaves all that it leaves, and its environment, full of one secret."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = dict.fromkeys(("HOME", "RAY_TMPDIR", "TMPDIR", "RFRAY_CACHE", "XDG_CACHE_HOME"), folder)
        canary = f"canary{secrets.token_hex(8)}"
        proxy = {"HTTPS_PROXY": f"http://me:{canary}@127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
        yield Path(folder), os.environ | own | dict.fromkeys(SECRET, canary) | proxy


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def leaks(here: Path, canary: str) -> list[str]:
    """The files, and the command lines of processes, that hold the secret."""
    found = []
    for file in files(here):
        with suppress(OSError):  # it was only there for a moment
            found += [str(file)] if canary.encode() in file.read_bytes() else []
    lines = (" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]))
    return found + [line for line in lines if canary in line]


def start(here: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "rfray.cli", *words]
    with (here / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep(machine: tuple[Path, dict[str, str]]) -> None:
    here, environment = machine
    (here / "sweep.yaml").write_text(SWEEP)
    command = start(here, environment, *TUNE)
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
    assert leaks(here, environment["OTHER"]) == []
    assert start(here, environment, *TUNE, "--dry-run", "--set", "trial.epochs=200").wait() == 0, (
        here / "log"
    ).read_text()
    assert list(here.glob("*rfray-*")) == []
    assert [
        one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get("HOME") == str(here)
    ] == []
    assert leaks(here, environment["OTHER"]) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_leave_no_secret(machine: tuple[Path, dict[str, str]]) -> None:
    """Neither while they run, nor afterwards; what they print is in a file, too."""
    here, environment = machine
    (here / "sweep.yaml").write_text(SWEEP)
    commands = [
        (*TUNE, "--set", "trial.epochs=1"),
        ("ensemble", "runs/traces"),
        ("leaderboard", "runs/traces"),
        ("predict", "runs/traces", "runs/traces/plots", "--out", "shards/"),
        ("export", "runs/traces", "--format", "pt2"),
        ("audit", "demo/train"),
        ("fetch", "s3://bucket/runs/x"),
        ("serve", "runs/traces", "--port", "0", "--replicas", "1"),
    ]
    for words in commands:
        command = start(here, environment, *words)
        while command.poll() is None:
            assert leaks(here, environment["OTHER"]) == []
            if "(Ctrl-C stops it)" in (here / "log").read_text():
                command.terminate()
                command.wait()
            time.sleep(1)
        wanted = 2 if words[0] in ("audit", "fetch") else 0
        assert command.returncode == wanted, (words, (here / "log").read_text())
    assert leaks(here, environment["OTHER"]) == []
    assert [str(file) for file in here.rglob("*") if not file.is_symlink() and file.stat().st_mode & 0o022] == []

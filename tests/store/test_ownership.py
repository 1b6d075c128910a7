"""Whose a run folder is: one sweep's own, locked for one command, or moved aside."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rfray.errors import RunError
from rfray.spec.sweep import Sweep
from rfray.store.ownership import LEASE_FILE, claim_run, lease, lock_run, move_run_aside
from rfray.store.run_dir import RunDir
from rfray.store.storage import Storage
from tests.object_store import bucket_here
from tests.synthetic import new_run, start_trial


def sweep(**changes: object) -> Sweep:
    raw = {"name": "s", "data": {"source": "demo"}, "trial": {"backbone": "test_resnet", "lr": 1e-3}}
    return Sweep.model_validate({**raw, **changes})


def test_the_same_sweep_may_claim_its_folder_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    claim_run(run, sweep())
    claim_run(run, sweep())
    assert run.sweep() == sweep()


def test_more_resources_may_go_on_with_the_same_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    claim_run(run, sweep())
    claim_run(run, sweep(resources={"cpu": 8, "gpu": 1}))
    assert run.sweep().resources.cpu == 8


def test_a_changed_sweep_is_refused_and_the_folder_stays_as_it_was(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    claim_run(run, sweep())
    changed = sweep(seed=1, trial={"backbone": "test_vit", "lr": [1e-3, 1e-4]})
    with pytest.raises(RunError) as refused:
        claim_run(run, changed)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{run.path} holds a sweep of this name with other settings:"
    assert lines[1:5] == [
        "  seed: 0 -> 1",
        '  trial.backbone: "test_resnet" -> "test_vit"',
        "  trial.lr: 0.001 -> [0.001, 0.0001]",
        "  trial.seed: 0 -> 1",
    ]
    assert "--run" in lines[5]
    assert "--fresh" in lines[5]
    assert run.sweep() == sweep()


def test_moved_aside_keeps_everything_and_makes_room(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    start_trial(run, "0000-aaaaaa")
    aside = move_run_aside(run)
    assert aside is not None
    aside = Path(aside)
    assert aside.parent == tmp_path
    assert aside.name.startswith("s.")
    assert [trial.id for trial in RunDir(aside).trials()] == ["0000-aaaaaa"]
    assert not run.path.exists()
    assert move_run_aside(run) is None


HOLDER = """
import sys
from pathlib import Path
from rfray.store.ownership import lock_run
from rfray.store.run_dir import RunDir
with lock_run(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_holds_the_folder_until_it_is_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=rf"s is in use by process {holder.pid} on \S+ \(since .*--run"),
            lock_run(run),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with lock_run(run):
        pass


def test_the_lock_stays_in_force_when_the_folder_is_moved_aside(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    with lock_run(run):
        move_run_aside(run)
        claim_run(run, sweep())
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on "), lock_run(RunDir(run.path)):
            pass


def test_locking_alone_makes_no_folder_and_ends_with_an_exception(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "s")
    with pytest.raises(ZeroDivisionError), lock_run(run):
        raise ZeroDivisionError
    with lock_run(run):
        assert not run.path.exists()


def test_a_lease_of_another_machine_is_refused_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket_here() as bucket:
        check_lease(Storage(f"{bucket}/x"), monkeypatch)


def check_lease(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with lease(storage, "process 1 on elsewhere"):
        assert [entry.path for entry in storage.entries()] == [LEASE_FILE]
        with lease(storage, "the same machine, where a file lock has let us in"):
            pass
        storage.write(LEASE_FILE, b'{"host": "elsewhere", "user": "process 1 on elsewhere"}')
        monkeypatch.setattr("socket.gethostname", lambda: "here")
        refused = pytest.raises(
            RunError, match=r"by process 1 on elsewhere, whose last sign is \d+ s old.*works in \d+ s"
        )
        with refused, lease(storage, "process 2 on here"):
            pass
        monkeypatch.setattr("rfray.store.ownership.LEASE_ENDS", -1e9)
        with lease(storage, "process 2 on here"):
            pass
    assert list(storage.entries()) == []

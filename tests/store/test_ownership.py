"""Whose a run folder is: one sweep's own, locked for one command, or moved aside."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import fs

from rfray.errors import RunError
from rfray.spec.sweep import Sweep
from rfray.store.ownership import (
    LEASE_ENDS,
    LEASE_FILE,
    LOOK_AGAIN,
    claim_run,
    holder_of,
    lease,
    lock_run,
    move_run_aside,
)
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


@pytest.mark.parametrize("held", ["x/s", "other/s", "link", "x/../x/s"])
@pytest.mark.parametrize("asked", ["x/s", "other/s", "link", "chain"])
def test_whatever_links_lead_to_it_a_folder_has_one_user(held: str, asked: str, tmp_path: Path) -> None:
    (tmp_path / "x" / "s").mkdir(parents=True)
    (tmp_path / "other").symlink_to("x")
    (tmp_path / "link").symlink_to(tmp_path / "x" / "s")
    (tmp_path / "chain").symlink_to("link")
    with (
        lock_run(RunDir(tmp_path / held)),
        pytest.raises(RunError, match="is in use by process"),
        lock_run(RunDir(tmp_path / asked)),
    ):
        pass
    with lock_run(RunDir(tmp_path / asked)):
        pass


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_made_after_the_lock_is_locked_too(fresh: bool, tmp_path: Path) -> None:
    """By whatever path: it may be mounted elsewhere later."""
    run = RunDir(tmp_path / "run")

    def is_locked() -> bool:
        opened = os.open(run.path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(opened)
        return False

    if fresh:
        claim_run(run, sweep())
    with lock_run(run):
        if fresh:
            move_run_aside(run)
        run.path.mkdir()
        claim_run(run, sweep())
        assert is_locked()
        claim_run(run, sweep())  # it is locked already
    assert not is_locked()


@pytest.mark.parametrize("mounted", ["run", "."])
def test_a_folder_that_is_mounted_twice_has_one_user(tmp_path: Path, mounted: str) -> None:
    new_run(tmp_path / "one" / "run")
    (tmp_path / "two" / "run").mkdir(parents=True)
    mount = 'mount --bind "$1/one/$2" "$1/two/$2" && exec "$3" -c "$4" "$1/two/run"'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "-", str(tmp_path), mounted]
    with subprocess.Popen(
        [*words, sys.executable, HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != "held\n":
            pytest.skip("this user may not mount")
        with pytest.raises(RunError, match="run is in use by "), lock_run(RunDir(tmp_path / "one" / "run")):
            pass
        holder.kill()
    with lock_run(RunDir(tmp_path / "one" / "run")):
        pass


@pytest.mark.parametrize(("held", "asked"), [("x", "x/"), ("x//", "x")])
def test_an_address_with_a_slash_at_its_end_is_the_same(
    held: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_here() as bucket:
        address = f"{bucket}/slash-{len(held)}-"
        monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "one"))
        with lock_run(RunDir(address + held)):
            monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "two"))  # another machine
            with pytest.raises(RunError, match="is in use by process"), lock_run(RunDir(address + asked)):
                pass


def test_a_link_that_is_moved_aside_stays_locked(tmp_path: Path) -> None:
    new_run(tmp_path / "s")
    (tmp_path / "link").symlink_to("s")
    linked = RunDir(tmp_path / "link")
    with lock_run(linked):
        move_run_aside(linked)
        claim_run(linked, sweep())
        with pytest.raises(RunError, match="is in use by process"), lock_run(RunDir(tmp_path / "link")):
            pass


def test_half_written_files_in_a_folder_that_is_no_run_are_somebody_elses(tmp_path: Path) -> None:
    theirs = tmp_path / "runs" / "other" / ".leaderboard.0123abcd.part.csv"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    with lock_run(RunDir(tmp_path / "runs")):
        assert theirs.exists()


def test_half_written_files_of_a_killed_command_are_removed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    (run.path / "plots").mkdir()
    for left in (".leaderboard.0123abcd.part.csv", "plots/.roc.0123abcd.part.png"):
        (run.path / left).touch()
    with lock_run(run):
        assert list(run.path.rglob("*.part*")) == []


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """An address, which is a folder here; no server is needed for it."""
    return FolderStorage(tmp_path / "bucket")


class FolderStorage(Storage):
    def __init__(self, folder: Path) -> None:
        self.address, self._files, self._base = "s3://bucket/x", fs.LocalFileSystem(), str(folder)
        folder.mkdir()
        (folder / ".bucket").touch()  # which may not be empty


def names(store: Storage) -> list[str]:
    return sorted(entry.path for entry in store.entries() if entry.path != ".bucket")


def test_a_lease_is_refused_until_it_ends_whatever_the_hosts_are_called(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(store, "process 1 on host", tmp_path / "here"):
        assert names(store) == [LEASE_FILE]
        refused = pytest.raises(RunError, match=r"by process 1 on host, whose last sign is \d+ s old.*works in \d+ s")
        monkeypatch.setattr("time.time", lambda: 1e12)  # a clock of this machine that is wrong
        with refused, lease(store, "process 1 on host", tmp_path / "another"):
            pass
        assert names(store) == [LEASE_FILE]
    assert names(store) == []


def test_who_was_killed_here_holds_nothing(store: Storage, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("dead")  # and a lock on the disk has let us in
    store.write(LEASE_FILE, b'{"id": "dead", "user": "process 1"}')
    with lease(store, "process 2", tmp_path / "here"):
        pass


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_lease_ends_like_others(store: Storage, tmp_path: Path, content: bytes) -> None:
    store.write(LEASE_FILE, content)
    refused = pytest.raises(RunError, match="in use by another command, whose")
    with refused, lease(store, "process 2", tmp_path / "here"):
        pass
    long_ago = time.time() - LEASE_ENDS - 1
    os.utime(tmp_path / "bucket" / LEASE_FILE, (long_ago, long_ago))
    with lease(store, "process 2", tmp_path / "here"):
        store.write("file", b"")


@pytest.mark.parametrize("change", ["write", "remove", "remove_folder", "move", "below"])
def test_who_has_lost_the_lease_changes_nothing(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    changes = {
        "write": lambda: store.write("result.json", b"stale"),
        "remove": lambda: store.remove(["result.json"]),
        "remove_folder": lambda: store.remove_folder("trials"),
        "move": lambda: store.move("s3://bucket/aside"),
        "below": lambda: store.at("trials").write("file", b"stale"),
    }
    store.write("result.json", b"whole")
    (tmp_path / "bucket" / "trials").mkdir()
    store.write("trials/file", b"whole")
    taken = b'{"id": "taker", "user": "process 9 elsewhere"}'
    with lease(store, "process 1", tmp_path / "here"):
        store.write("other.json", b"mine")
        store.write(LEASE_FILE, taken, fenced=False)
        now = time.clock_gettime(time.CLOCK_BOOTTIME) + LEASE_ENDS  # as after a sleep of the machine
        monkeypatch.setattr("rfray.store.ownership._clock", lambda: now)
        with pytest.raises(RunError, match=r"in use by process 9 elsewhere now; this one has stopped writing there"):
            changes[change]()
    assert store.read(LEASE_FILE) == taken  # nor the other's lease
    assert [store.read(name) for name in ("result.json", "trials/file")] == [b"whole", b"whole"]
    store.write("result.json", b"free")


WORKER = """
import sys
from rfray.errors import LeaseLostError
from rfray.store.ownership import work_for
from rfray.store.run_dir import RunDir
run = RunDir(sys.argv[1])
work_for(run, sys.argv[2])
out = run.trial("00000-abcdef")
for number, word in enumerate(sys.stdin):
    try:
        if word == "send\\n":
            out.path.mkdir(parents=True, exist_ok=True)
            out.history_file.write_text(f"{number}")
            out.mirror.push(removing="*.pt")
        else:
            out.mirror.remove([out.weights_file])
        print("done", flush=True)
    except LeaseLostError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_process_that_works_for_a_command_writes_nothing_once_another_has_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    with bucket_here() as bucket:
        run = RunDir(f"{bucket}/fenced-{taken}")  # each has a server of its own
        storage = run.mirror.storage
        monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "another machine"))
        with ExitStack() as stack:
            stack.enter_context(lease(storage, "process 1", tmp_path / "here"))
            command = [sys.executable, "-c", WORKER, run.where, holder_of(run)]
            worker = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

            def told(word: str) -> str:
                worker.stdin.write(f"{word}\n")
                worker.stdin.flush()
                return worker.stdout.readline()

            assert told("send") == told("remove") == "done\n"
            storage.write("trials/00000-abcdef/best.safetensors", b"another's")
            if taken:
                storage.write(LEASE_FILE, b'{"id": "taker", "user": "process 9 elsewhere"}', fenced=False)
            else:
                storage.remove([LEASE_FILE])  # as at the end of the command
            time.sleep(LOOK_AGAIN)
            by = "process 9 elsewhere" if taken else "another command"
            for word in ("send", "remove"):
                assert told(word) == f"{run.where} is in use by {by} now; this one has stopped writing there\n"
            assert storage.read("trials/00000-abcdef/history.csv") == b"0"
            assert storage.read("trials/00000-abcdef/best.safetensors") == b"another's"
            worker.stdin.close()


def test_a_lease_on_a_real_store(tmp_path: Path) -> None:
    with bucket_here() as bucket:
        storage = Storage(f"{bucket}/x")
        with lease(storage, "process 1", tmp_path / "here"):
            refused = pytest.raises(RunError, match=r"by process 1, whose last sign is \d+ s old")
            with refused, lease(storage, "process 2", tmp_path / "there"):
                pass
        assert names(storage) == []

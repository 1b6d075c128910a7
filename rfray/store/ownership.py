"""a run folder + a sweep or a command -> whose it is: one sweep's own, in use by one command at a time, or moved aside.

A lock on a disk ends with its process. Object stores have none: there, a small file says who uses the address, and is
written anew every few seconds. Of two commands that start at once, the first finds the other's name there within
seconds, and stops; trials are safe all the same, since only the process that a starts.csv names last writes there.
Processes that work for a command, on other machines maybe, look at that file before they change anything (`work_for`).
"""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread

from filelock import FileLock, Timeout

from rfray.errors import DiskFullError, LeaseLostError, RunError, StorageError
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import differences, resolved_text
from rfray.store.files import RECORD_BYTES, clear_left_over, write_whole
from rfray.store.run_dir import FOLDERS, RunDir
from rfray.store.storage import FENCES, Storage

LEASE_FILE = ".lock"
"""At an address: who uses it."""
LEASE_RENEWED, LEASE_ENDS = 15.0, 60.0
"""Seconds after which it is written anew, and after which a command that did not is taken for dead."""
LOOK_AGAIN = 1.0
"""Seconds for which a process that works for a command relies on what it has read there: files come in bunches."""
UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part.*", re.DOTALL)
"""The name of what `files.replacing` has not finished."""
HOLDERS: dict[str, str] = {}
"""Address that a command of this process holds -> its id."""
LOCKED: dict[Path, tuple[ExitStack, set[int]]] = {}
"""Run folder that a command of this process holds -> what is given back at its end, the inodes that are locked."""


def check_own(run: RunDir, sweep: Sweep) -> None:
    """Raises RunError, naming what changed, where the folder is another sweep's."""
    if run.sweep_file.exists() and (changed := differences(run.sweep(), sweep)):
        raise RunError(
            f"{run.where} holds a sweep of this name with other settings:",
            *(f"  {line}" for line in changed),
            "Change `name`, choose another folder with --run, or start anew with --fresh (the old one is kept). "
            f"With search.warm_start: [{run.where}] a new run takes over the trials that are also trials of its own.",
        )


def claim_run(run: RunDir, sweep: Sweep) -> None:
    """Makes the folder this sweep's own. Raises RunError as `check_own`."""
    check_own(run, sweep)
    write_whole(run.sweep_file, resolved_text(sweep))
    if run.path in LOCKED:
        _lock_itself(run.path)  # it may have been made after the lock
    run.mirror.send(run.sweep_file)


def move_run_aside(run: RunDir) -> str | None:
    """Renames an existing run folder to <name>.<date>-<time>; returns the new one, None if there was none."""
    if not run.path.exists():
        return None
    name = f"{run.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    if run.mirror.storage is None:
        return run.shown(run.path.rename(run.path.with_name(name)))
    address = f"{str(run.where).rsplit('/', 1)[0]}/{name}"
    run.mirror.storage.move(address)
    shutil.rmtree(run.path)
    return address


@contextmanager
def lock_run(run: RunDir, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Locks the run folder for one command; the lock ends with the process. Raises RunError where it is in use.

    Of a run at an address, everything but `without` (patterns of `Mirror.pull`) is brought here first, and what has
    changed is sent there afterwards. Where nothing was left out, what was removed here is removed there.
    """
    with _locked(run) as user, ExitStack() as stack:
        _tidy(run)
        if run.mirror.storage:
            stack.enter_context(lease(run.mirror.storage, user, run.path.with_name(f".{run.name}.lease")))
        run.mirror.pull(without=without, removing="*")
        try:
            yield
        finally:
            run.mirror.push(removing=None if without else "*")


def _tidy(run: RunDir) -> None:
    """Removes the unfinished files of a command that was killed.

    Raises RunError for a folder of the run that is a link: what is written and removed there would be elsewhere.
    """
    for parent, folders, files in os.walk(run.path):
        if parent == str(run.path):
            is_run = run.sweep_file.exists()  # what is none may have the files of runs that go on below it
            folders[:] = [name for name in folders if name in FOLDERS or (is_run and name.startswith("."))]
        for link in (Path(parent, name) for name in folders):
            if link.is_symlink():
                raise RunError(
                    f"{link} is a link: a run writes only below its own folder. Put the files themselves there; the "
                    "whole run may be anywhere (--run)"
                )
        for name in files if is_run else ():
            if UNFINISHED.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def check_free(run: RunDir) -> None:
    """Raises RunError where another command has the folder, and OSError where it can't be locked, let alone written."""
    with _locked(run):
        if run.path.exists() and not os.access(run.path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(run.path))


@contextmanager
def _locked(run: RunDir) -> Iterator[str]:
    """Holds the locks on a disk for the length of a block; gives what other commands are told of this one."""
    user = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
    # the folder itself, whatever links lead there, and its name, which --fresh may make another folder's
    real = (os.path.realpath(run.path), os.path.join(os.path.realpath(run.path.parent), run.path.name))
    with ExitStack() as stack:
        for folder in map(Path, sorted(set(real))):
            lock_file = folder.with_name(f".{folder.name}.lock")  # beside it: in force also when that is moved aside
            note = lock_file.with_suffix(".holder")
            try:
                lock_file.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(lock_file, timeout=0))
            except Timeout:
                by = note.read_text() if note.exists() else "another process"
                raise _in_use(run.path, by) from None
            except OSError as error:
                error.filename = str(run.path)  # the user knows nothing of the lock
                raise
            clear_left_over(note)
            with suppress(DiskFullError):  # what has no room is named when it is written, and this is only told
                write_whole(note, user)
        LOCKED[run.path] = stack, set()
        stack.callback(LOCKED.pop, run.path)
        _lock_itself(run.path)
        yield user


def _in_use(folder: Path, by: str) -> RunError:
    return RunError(f"{folder} is in use by {by}; wait for it, or choose another folder with --run")


def _lock_itself(folder: Path) -> None:
    """Locks the folder itself, if it is there: where it is mounted in two places, it has two real paths."""
    stack, locked = LOCKED[folder]
    with suppress(OSError):  # it is not there yet, or its disk locks no folders
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, opened)
        if (inode := os.fstat(opened).st_ino) in locked:
            return
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = "another process, which knows it by another path"
            raise _in_use(folder, by) from None
        locked.add(inode)


@contextmanager
def lease(storage: Storage, user: str, note: Path) -> Iterator[None]:
    """Holds an address, which has no locks, for `user`, a text. Raises RunError where somebody else holds it.

    Only the store's clock is read. A process that finds another's id in the file has lost the address, and changes
    nothing there any more (see `storage.FENCES`); one that gave no sign for long looks before its next change. `note`
    is a file of this machine with the id last used from here. The caller holds the lock on the disk, so that command
    is dead.
    """
    own, earlier = uuid.uuid4().hex, note.read_text() if note.exists() else ""
    lost, over, one_at_a_time = "", Event(), Lock()

    def sign() -> None:
        storage.write(LEASE_FILE, json.dumps({"id": own, "user": user, "beat": _clock()}).encode(), fenced=False)

    _check_free(storage, own, earlier)
    write_whole(note, own)
    sign()
    renewed = [_clock()]

    def renew() -> None:
        nonlocal lost
        with one_at_a_time:
            began = _clock()
            try:
                _check_holder(storage, own)
            except LeaseLostError as error:
                lost = str(error)
                return
            sign()
            renewed[0] = began

    def check() -> None:
        if not lost and _clock() - renewed[0] > LEASE_ENDS - LEASE_RENEWED:
            renew()
        if lost:
            raise LeaseLostError(lost)

    def keep() -> None:
        while not over.wait(LEASE_RENEWED):
            with suppress(StorageError):  # the store may answer again before the lease ends
                renew()

    renew()  # the last of two that have begun at once holds it
    check()
    FENCES[storage.address], HOLDERS[storage.address] = check, own
    thread = Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        try:
            over.set()
            thread.join()
            with suppress(StorageError):  # it ends by itself, too
                renew()
                if not lost:
                    storage.remove([LEASE_FILE])
        finally:
            FENCES.pop(storage.address, None)
            HOLDERS.pop(storage.address, None)


def holder_of(run: RunDir) -> str:
    """The id under which this process's command holds the address of a run, for `work_for`; "" where it has none."""
    return HOLDERS.get(run.mirror.storage.address, "") if run.mirror.storage else ""


def work_for(run: RunDir, holder: str) -> None:
    """Has this process change nothing at the address of a run any more once not this holder, but another has it."""
    storage, looked = run.mirror.storage, -LOOK_AGAIN
    if storage is None or storage.address in HOLDERS:  # which is the command's own process
        return

    def check() -> None:
        nonlocal looked
        if (now := _clock()) - looked >= LOOK_AGAIN:
            _check_holder(storage, holder)
            looked = now

    FENCES[storage.address] = check


def _check_holder(storage: Storage, holder: str) -> None:
    """Raises LeaseLostError where the address is held by another one than the command with that id."""
    found, user = _holder(storage)
    if found != holder:
        by = user or "another command"
        raise LeaseLostError(f"{storage.address} is in use by {by} now; this one has stopped writing there")


def _check_free(storage: Storage, own: str, earlier: str) -> None:
    """Raises RunError where somebody holds the address who is not the dead one from here."""
    entry = storage.entry(LEASE_FILE)
    if entry is None:
        return
    holder, user = _holder(storage)
    if earlier and holder == earlier:
        return
    probe = f"{LEASE_FILE}-{own}"  # its time is what the store's clock says now
    storage.write(probe, b"", fenced=False)
    try:
        now = storage.entry(probe)
    finally:
        storage.remove([probe])
    age = (now.modified - entry.modified) / 1e9 if now else LEASE_ENDS
    if not entry.modified:  # a store that gives no times: whoever lives has signed anew by then
        before = storage.read(LEASE_FILE, RECORD_BYTES)
        time.sleep(2 * LEASE_RENEWED)
        age = 0.0 if storage.read(LEASE_FILE, RECORD_BYTES) != before else LEASE_ENDS
    if age < LEASE_ENDS:
        raise RunError(
            f"{storage.address} is in use by {user or 'another command'}, whose last sign is {age:.0f} s old; wait for "
            f"it. If it is dead, the same command works in {LEASE_ENDS - age:.0f} s"
        )


def _holder(storage: Storage) -> tuple[str, str]:
    """Id and name of who holds the address; empty where nobody does, or the file is damaged."""
    try:
        found = json.loads(storage.read(LEASE_FILE, RECORD_BYTES)) if storage.entry(LEASE_FILE) else {}
        return str(found.get("id", "")), str(found.get("user", ""))
    except (ValueError, AttributeError, RecursionError):
        return "", ""


def _clock() -> float:
    """Seconds; time in which the machine sleeps counts, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

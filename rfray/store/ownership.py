"""a run folder + a sweep or a command -> whose it is: one sweep's own, in use by one command at a time, or moved aside.

A lock on a disk ends with its process. Object stores have none: there, a small file says who uses the address, and is
written anew every few seconds. Two commands that start within the same second on different machines may both believe
that they alone use it; trials are safe all the same, since only the process that a starts.csv names last writes there.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from threading import Event, Thread

from filelock import FileLock, Timeout

from rfray.errors import RunError, StorageError
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import differences, resolved_text
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from rfray.store.storage import Storage

LEASE_FILE = ".lock"
"""At an address: who uses it."""
LEASE_RENEWED, LEASE_ENDS = 15.0, 60.0
"""Seconds after which it is written anew, and after which a command that did not is taken for dead."""


def claim_run(run: RunDir, sweep: Sweep) -> None:
    """Makes the folder this sweep's own. Raises RunError, naming what changed, where it is another sweep's."""
    if run.sweep_file.exists() and (changed := differences(run.sweep(), sweep)):
        raise RunError(
            "\n  ".join([f"{run.where} holds a sweep of this name with other settings:", *changed])
            + "\nChange `name`, choose another folder with --run, or start anew with --fresh (the old one is kept)."
        )
    write_whole(run.sweep_file, resolved_text(sweep))
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
    lock_file = run.path.with_name(f".{run.name}.lock")  # beside the folder: in force also when that is moved aside
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    note = lock_file.with_suffix(".holder")
    user = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
    try:
        lock = FileLock(lock_file, timeout=0).acquire()
    except Timeout:
        by = note.read_text() if note.exists() else "another process"
        raise RunError(f"{run.path} is in use by {by}; wait for it, or choose another folder with --run") from None
    with lock:
        write_whole(note, user)
        with lease(run.mirror.storage, user) if run.mirror.storage else nullcontext():
            run.mirror.pull(without=without, removing="*")
            try:
                yield
            finally:
                run.mirror.push(removing=None if without else "*")


@contextmanager
def lease(storage: Storage, user: str) -> Iterator[None]:
    """Locks an address for `user` while the block lasts, against other machines. Raises RunError where one uses it."""
    if entry := storage.entry(LEASE_FILE):
        other = json.loads(storage.read(LEASE_FILE))
        age = time.time() - entry.modified / 1e9
        if other["host"] != socket.gethostname() and age < LEASE_ENDS:
            raise RunError(
                f"{storage.address} is in use by {other['user']}, whose last sign is {age:.0f} s old; wait for it. "
                f"If it is dead, the same command works in {LEASE_ENDS - age:.0f} s"
            )
    note = json.dumps({"host": socket.gethostname(), "user": user}).encode()
    storage.write(LEASE_FILE, note)
    over = Event()

    def renew() -> None:
        while not over.wait(LEASE_RENEWED):
            with suppress(StorageError):  # the store may answer again before the lease ends
                storage.write(LEASE_FILE, note)

    thread = Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StorageError):  # it ends by itself, too
            storage.remove([LEASE_FILE])

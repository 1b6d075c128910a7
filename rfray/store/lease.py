"""an address -> held by one command at a time: a small file there, written anew every few seconds.

Stores have no locks. Two commands that start within the same second on different machines may both think that they hold
the address; trials are safe all the same, since only the process that a trial's starts.csv names last writes there.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from rfray.errors import RunError, StorageError
from rfray.store.storage import Storage

FILE = ".lock"
RENEWED, ENDS = 15.0, 60.0
"""Seconds after which a lease is written anew, and after which one that was not is taken for that of a dead command."""


@contextmanager
def leased(storage: Storage, holder: str) -> Iterator[None]:
    """Holds an address for the length of the block; `holder` says who does. Raises RunError where another machine does.

    On this machine a file lock has made sure that nobody else does.
    """
    if (held := storage.entry(FILE)) is not None:
        other = json.loads(storage.read(FILE))
        age = time.time() - held.modified / 1e9
        if other["host"] != socket.gethostname() and age < ENDS:
            raise RunError(
                f"{storage.address} is in use by {other['holder']}, heard of {age:.0f} s ago; wait for it. "
                f"If it is dead, the same command works in {ENDS - age:.0f} s"
            )
    note = json.dumps({"host": socket.gethostname(), "holder": holder}).encode()
    storage.write(FILE, note)
    over = Event()
    renewing = Thread(target=_renew, args=[storage, note, over], daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        with suppress(StorageError):  # it ends by itself, too
            storage.remove([FILE])


def _renew(storage: Storage, note: bytes, over: Event) -> None:
    while not over.wait(RENEWED):
        with suppress(StorageError):  # the store may answer again before the lease ends
            storage.write(FILE, note)

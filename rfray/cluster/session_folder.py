"""nothing -> a folder for a command's Ray, or its copies: nobody else can read it, and it goes with the command."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from rfray.errors import ClusterError, DiskFullError

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux (sun_path in unix(7), without its end)."""
INSIDE = len("/rfray-12345678/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")
"""What the longest of Ray's sockets adds to the folder for temporary files; process ids have up to seven digits."""

LEAST_FREE = 10_000_000
"""Bytes (our choice): a start of Ray writes a tenth of that, and on a full disk it hangs for half a minute."""
MARK = ".session-of-rfray"
"""A file in each such folder: only what has it is ever cleared."""


@contextmanager
def session_folder() -> Iterator[Path]:
    """The `own_folder` of a Ray, for RAY_TMPDIR.

    It is in RAY_TMPDIR, in the folder for temporary files, or in /tmp where the latter's path is too long.
    Raises ClusterError where RAY_TMPDIR is too long, and where there can be no folder; DiskFullError.
    """
    with own_folder(_folder_above(), "Ray", "RAY_TMPDIR") as folder:
        if (free := shutil.disk_usage(folder).free) < LEAST_FREE:
            raise DiskFullError(
                f"{folder.parent}: {free / 1e6:.1f} MB are free, and Ray's logs need {LEAST_FREE / 1e6:.0f} MB. "
                "Make room, or set RAY_TMPDIR to a folder on another disk of this machine"
            )
        yield folder


@contextmanager
def own_folder(above: Path, purpose: str, variable: str) -> Iterator[Path]:
    """A new folder (mode 700) in `above` for the length of a block; clears there what killed commands have left.

    Raises ClusterError where there can be none; it says what it is for, and which variable names another place.
    """
    for old in above.glob("rfray-*"):
        with suppress(OSError):
            _clear(old)
    try:
        above.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".rfray-", dir=above))
        # a file, as network disks lock no folder for other machines to see
        folder, lock = above / new.name[1:], os.open(new / MARK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with this process; other processes do not inherit it
        new.rename(folder)  # no other command sees it unlocked
    except OSError as error:
        todo = f"Set {variable} to a folder on a disk of this machine in which you may write"
        raise ClusterError(f"{above}: no folder for {purpose} can be made there: {error.strerror}. {todo}") from None
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _folder_above() -> Path:
    asked = os.environ.get("RAY_TMPDIR")
    if asked and not _is_short(asked):
        given, most = f"{asked} has {len(os.fsencode(asked))} bytes", SOCKET_BYTES - INSIDE
        raise ClusterError(f"RAY_TMPDIR: {given}; allowed: a path of at most {most}")
    try:
        folder = os.path.abspath(asked or tempfile.gettempdir())
    except OSError as error:
        raise ClusterError(f"no folder for temporary files: {error.strerror}. Set TMPDIR to one") from None
    return Path(folder if _is_short(folder) else "/tmp")  # noqa: S108


def _is_short(folder: str) -> bool:
    return len(os.fsencode(os.path.abspath(folder))) + INSIDE <= SOCKET_BYTES


def _clear(folder: Path) -> None:
    """Removes the folder of a command that was killed, and ends what is left of its processes."""
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / MARK).is_file():
        return
    lock = os.open(folder / MARK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError: its command lives
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                # Ray's agents outlive a killed command by minutes, with their logs open; who only reads those goes on,
                # and so does whoever looks, as this process does, whether the folder is left over
                if process.uids().real == os.getuid() and any(
                    file.mode != "r" and Path(file.path).is_relative_to(folder) and Path(file.path).name != MARK
                    for file in process.open_files()
                ):
                    process.kill()
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Removes a folder; what a process on its way out still writes there is left to the next command."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        (folder / MARK).touch()

"""bytes -> files that are either whole or not there: written aside, flushed to disk, then moved into place."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, Protocol

from platformdirs import user_cache_path

from rfray.errors import DiskFullError, InputError
from rfray.spec.schema_base import leads_out

NO_ROOM = "no room on the disk for"
"""How the message of every DiskFullError begins."""
LEFT_OVER = 10.0
"""Seconds after which an empty file that nobody has locked is that of a command that was killed (our choice)."""
DIGEST_BYTES = 100_000_000_000
"""No larger file is read for its digest (our choice): one with holes may be of any size."""
RECORD_BYTES = 32_000_000
"""A record is not read where it is larger (our choice): ten thousand trials of a warm start take 10 MB."""


@contextmanager
def replacing(path: Path, need: int | None = None) -> Iterator[Path]:
    """A path to write to (`need` bytes), moved to `path` when the block ends well. Raises DiskFullError.

    The file there is locked as long as this process lives: `clear_left_over` removes it after that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the temporary name keeps the suffix, since numpy and matplotlib choose the format by it
    temporary = path.with_name(f".{_stem(path)}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    with suppress(FileNotFoundError):
        path.lstat()  # of a name that is too long, before anything is made
    try:
        with temporary.open("xb") as held:
            with suppress(OSError):  # a disk without locks: then nobody takes it for left over, either
                fcntl.flock(held, fcntl.LOCK_EX)
            with suppress(OSError):
                os.utime(temporary, ns=(0, 0))  # says: locked by now, and nothing in it yet
            yield temporary
            if temporary.stat().st_mtime_ns == 0:
                raise FileNotFoundError(errno.ENOENT, "nothing was written", str(temporary))
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    except OSError as error:
        if not is_disk_full(error):
            if error.errno and error.filename in (None, str(temporary), temporary):  # the user knows of that one alone
                error.filename, error.filename2 = str(path), None
            raise
        wanted = need or (temporary.stat().st_size if temporary.exists() else 0)
        temporary.unlink(missing_ok=True)
        raise no_room(path, wanted) from error
    finally:
        with suppress(OSError):  # it is gone, or was never there: a read-only disk says another thing than that
            temporary.unlink()


def _stem(path: Path) -> str:
    """The stem of a name, cut so that the temporary name with its .12345678.part has no more than 255 bytes."""
    return os.fsdecode(os.fsencode(path.stem)[: 240 - len(os.fsencode(path.suffix))])


def clear_left_over(*paths: Path) -> None:
    """Removes what commands that were killed have half-written in place of these files; of a folder, of any in it."""
    for path in paths:
        folder, stem, suffix = (path, "*", "") if path.is_dir() else (path.parent, escape(_stem(path)), path.suffix)
        for left in folder.glob(f".{stem}.{'[0-9a-f]' * 8}.part{escape(suffix) or '*'}"):
            with suppress(OSError):  # it is gone, or another's
                status = left.stat()
                # a file that was made a moment ago may not be locked yet; there is nothing in it then
                if is_idle(left) and (status.st_size or time.time() - status.st_mtime > LEFT_OVER):
                    left.unlink()


def is_idle(path: Path) -> bool:
    """Whether no process has locked the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes the whole new content of `path`, text as UTF-8. Raises DiskFullError where there is no room."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


class Folder(Protocol):
    """A path, or what gives the path of a file in it by the same operator."""

    def __truediv__(self, name: str, /) -> Path:
        """The path of a file in it."""


def below(folder: Folder, name: str) -> Path:
    """The path below `folder` that a name stands for which somebody else wrote: in a listing, a record, a catalog.

    Raises InputError where it is none: absolute, empty, or with an empty part, `.`, `..` or a zero byte in it.
    """
    if leads_out(name):
        raise InputError(
            f"{name!a} is no name of a file below {folder}; allowed: names with / between them, none empty, "
            "'.' or '..'. Whoever made the folder or the record that has this name must give another"
        )
    return folder / name


def read_plain(path: Path, most: int) -> bytes:
    """What is in a file of at most `most` bytes. Raises ValueError where it is no plain one, or larger; OSError."""
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"larger than {most / 1e6:.0f} MB, as no such file is")
        return file.read(size)  # Python takes memory for as much as is asked for


def read_json(path: Path) -> Any:
    """What a JSON file of at most RECORD_BYTES says. Raises ValueError also where it is nested too deeply; OSError."""
    try:
        return json.loads(read_plain(path, RECORD_BYTES))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises OSError, also where it is no plain file."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(path))
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > DIGEST_BYTES:
            raise OSError(errno.EINVAL, f"larger than {DIGEST_BYTES / 1e9:.0f} GB, as no such file is", str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """Where rfray keeps what it can make again, on this machine: RFRAY_CACHE, else the user's cache folder.

    Raises InputError where there is neither.
    """
    folder = os.environ.get("RFRAY_CACHE") or str(user_cache_path("rfray"))
    if folder.startswith("~"):  # as it stays where a user has no home
        raise InputError("this user has no home folder for the cache; set RFRAY_CACHE to a folder (or HOME)")
    return Path(folder)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(path: Path, need: int) -> DiskFullError:
    """The error that names the path, what it needs (bytes) and what is free there."""
    free = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free
    return DiskFullError(  # a smaller need would read as 0.0 MB
        f"{NO_ROOM} {path}: it needs {max(need, 100_000) / 1e6:.1f} MB and {free / 1e6:.1f} MB are free. "
        "Make room; nothing is lost, and the same command goes on"
    )

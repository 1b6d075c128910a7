"""an address such as s3://bucket/folder <-> files of this machine: listed, fetched, sent, removed; and mirrors of it.

pyarrow's file systems do the work, with the credentials that they find (environment, profile, machine role).
AWS_ENDPOINT_URL names another server that speaks S3.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from rfray.errors import RfrayError, StorageError, check_no_secret, first_line
from rfray.store.files import below, clear_left_over, is_disk_full, replacing

SCHEMES = ("s3", "gs", "hf")
"""What an address may begin with."""
THREADS, CHUNK = 32, 1 << 24
"""Files that travel at once, as each waits for the network most of the time; and bytes that are read at once."""
STATES = "state-*.pt"
"""What trials go on from. Each is sent before the files of its epoch, which are made again from it if they are lost."""


FENCES: dict[str, Callable[[], None]] = {}
"""Address that this process's command holds -> raises where it does so no longer; called before every change."""


def is_address(where: object) -> bool:
    """Whether something names a folder that is not a path of this machine."""
    return isinstance(where, str) and "://" in where


@dataclass(frozen=True)
class Entry:
    """A file at an address."""

    path: str
    """Below the address, with /; whoever writes there has chosen it, so only `file` makes a path of it."""
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970 (whole seconds at most stores); 0 where the store does not say."""

    def file(self, folder: Path) -> Path:
        """Where it is in a folder that mirrors the address. Raises InputError where its name leads out of that."""
        return below(folder, self.path)

    def is_at(self, file: Path) -> bool:
        """Whether `file` is what was fetched from, or sent to, this entry."""
        with suppress(FileNotFoundError):
            status = file.stat()
            return (status.st_size, status.st_mtime_ns) == (self.size, self.modified)
        return False


class Storage:
    """The files at one address. Every method raises StorageError where the store refuses or does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._base = _opened(self.address)

    def at(self, name: str) -> "Storage":
        """The files in a folder of it."""
        inner = copy(self)
        inner.address, inner._base = f"{self.address}/{name}", f"{self._base}/{name}"
        return inner

    def entries(self, below: str = "") -> Iterator[Entry]:
        """Every file below a folder of it, at any depth; nothing where there is none."""
        yield from (self._entry(one) for one in self._listed(below, recursive=True) if one.type == fs.FileType.File)

    def names(self, below: str = "") -> list[tuple[str, bool]]:
        """What is in a folder of it, sorted: each name, and whether it is a folder."""
        found = self._listed(below, recursive=False)
        return sorted((one.base_name, one.type == fs.FileType.Directory) for one in found)

    def _listed(self, below: str, recursive: bool) -> list[fs.FileInfo]:
        with self._at(below) as there:
            found: list[fs.FileInfo] = self._files.get_file_info(
                fs.FileSelector(there, recursive=recursive, allow_not_found=True)
            )
            if not found and not self.address.startswith("hf:"):
                # an empty folder is none at most stores; but a bucket is there or not
                bucket = self._files.get_file_info(self._base.split("/")[0])
                if bucket.type == fs.FileType.NotFound:
                    raise StorageError(f"{self.address}: there is no bucket {bucket.path}")
        return found

    def entry(self, path: str) -> Entry | None:
        """One file, or None where it is not there."""
        with self._at(path) as there:
            found = self._files.get_file_info(there)
        return self._entry(found) if found.type == fs.FileType.File else None

    def fetch(self, entry: Entry, folder: Path) -> None:
        """Writes the file to <folder>/<its path>, whole and with its time. Raises DiskFullError, InputError."""
        file = entry.file(folder)
        clear_left_over(file)
        with replacing(file, entry.size) as temporary:
            with (
                temporary.open("wb") as to,
                self._at(entry.path) as there,
                self._files.open_input_stream(there) as source,
            ):
                shutil.copyfileobj(source, to, CHUNK)
            if (size := temporary.stat().st_size) != entry.size:
                raise StorageError(f"{self.address}/{entry.path}: {size} of {entry.size} bytes came")
        os.utime(file, ns=(entry.modified, entry.modified))

    def send(self, folder: Path, path: str) -> None:
        """Writes <folder>/<path> to the address; whoever reads it there meanwhile sees the old file or the new one."""
        with (folder / path).open("rb") as source:
            self.write(path, source)
        if (sent := self.entry(path)) is not None:
            os.utime(folder / path, ns=(sent.modified, sent.modified))

    def read(self, path: str, most: int | None = None) -> bytes:
        """What is in a file; of one with more than `most` bytes, somewhat more than these."""
        data = bytearray()
        with self._at(path) as there, self._files.open_input_stream(there) as source:
            while (most is None or len(data) <= most) and (more := source.read(CHUNK)):
                data += more
        return bytes(data)

    def write(self, path: str, data: bytes | BinaryIO, *, fenced: bool = True) -> None:
        """Makes it the whole content of a file. Raises what a fence raises, unless it is not `fenced`."""
        if fenced:
            self.check_held()
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        with self._at(path) as there, self._files.open_output_stream(there) as target:
            shutil.copyfileobj(source, target, CHUNK)

    def remove(self, paths: Iterable[str]) -> None:
        """Removes files; those that are not there are not missed."""
        self.check_held()

        def remove_one(path: str) -> None:
            with self._at(path) as there, suppress(FileNotFoundError):
                self._files.delete_file(there)

        _in_threads(remove_one, paths)

    def remove_folder(self, path: str) -> None:
        """Removes a folder with all that is in it; one that is not there is not missed."""
        self.check_held()
        with self._at(path) as there, suppress(FileNotFoundError):
            self._files.delete_dir(there)

    def move(self, address: str) -> None:
        """Moves every file to another address of the same store, but no hidden ones."""
        self.check_held()
        paths = [entry.path for entry in self.entries() if not entry.path.startswith(".")]
        target = address.split("://", 1)[1].rstrip("/")
        with self._at("") as here:
            _in_threads(lambda path: self._files.copy_file(f"{here}/{path}", f"{target}/{path}"), paths)
        self.remove(paths)

    def check_held(self) -> None:
        """Raises LeaseLostError where this process works for a command that holds the address no longer."""
        for address, check in tuple(FENCES.items()):
            if f"{self.address}/".startswith(f"{address}/"):
                check()

    def _entry(self, found: fs.FileInfo) -> Entry:
        return Entry(found.path[len(self._base) + 1 :], found.size or 0, found.mtime_ns or 0)

    @contextmanager
    def _at(self, path: str) -> Iterator[str]:
        """What the store calls a path, for a block in which its errors become a StorageError."""
        try:
            yield f"{self._base}/{path}".rstrip("/")
        except Exception as error:  # hf's client has errors of several libraries
            known = isinstance(error, OSError | pa.ArrowException) or self.address.startswith("hf:")
            if not known or is_disk_full(error) or isinstance(error, RfrayError):
                raise
            where = f"{self.address}/{path}".rstrip("/")
            reason = first_line(error)
            raise StorageError(f"{where}: {reason}. Check the address, and the credentials here") from error


@dataclass(frozen=True)
class Mirror:
    """A folder of this machine, and the address that it stands for; without one, nothing is brought or sent."""

    folder: Path
    storage: Storage | None

    def at(self, name: str) -> "Mirror":
        """The mirror of a folder in it."""
        return Mirror(self.folder / name, self.storage and self.storage.at(name))

    def pull(self, *wanted: str, without: Sequence[str] = (), removing: str | None = None) -> None:
        """Brings the files here that match one of the patterns (all, if none is given) and none of `without`.

        Patterns are of shells, on the path below the folder; * stands for any folders, too. Files here with names that
        match `removing` are removed where they are not there (any more). Raises InputError, before anything comes,
        where a name there leads out of the folder.
        """
        if self.storage is None:
            return

        def is_wanted(path: str) -> bool:
            left_out = any(fnmatch(path, one) for one in without)
            return not left_out and any(fnmatch(path, one) for one in wanted or ["*"])

        storage, there = self.storage, [entry for entry in self.storage.entries() if is_wanted(entry.path)]
        differ = [entry for entry in there if not entry.is_at(entry.file(self.folder))]
        _in_threads(lambda entry: storage.fetch(entry, self.folder), differ)
        for path in self._here(removing) - {entry.path for entry in there} if removing else ():
            if is_wanted(path):
                (self.folder / path).unlink(missing_ok=True)

    def push(self, *, removing: str | None = None) -> None:
        """Sends what is new or changed here; removes what is only there, and matches `removing`; no hidden files."""
        if self.storage is None:
            return
        storage, here = self.storage, self._here("*")
        there = {entry.path: entry for entry in storage.entries()}
        changed = sorted(path for path in here if path not in there or not there[path].is_at(self.folder / path))
        # the files of a state's epoch can be made again from the state, but not the other way round
        states = [path for path in changed if fnmatch(path, f"*{STATES}")]
        for paths in (states, [path for path in changed if path not in states]):
            _in_threads(lambda path: storage.send(self.folder, path), paths)
        gone = [path for path in there if path not in here and "/." not in f"/{path}"]
        storage.remove(path for path in gone if removing and fnmatch(Path(path).name, removing))

    def send(self, file: Path) -> None:
        """Sends one file of the folder."""
        if self.storage is not None:
            self.storage.send(self.folder, self._name(file))

    def fetch(self, file: Path) -> None:
        """Brings one file of the folder here, if it differs; nothing where it is not there."""
        if self.storage and (entry := self.storage.entry(self._name(file))) and not entry.is_at(file):
            self.storage.fetch(entry, self.folder)

    def remove(self, files: Iterable[Path]) -> None:
        """Removes files of the folder, here and there."""
        files = list(files)
        for file in files:
            file.unlink(missing_ok=True)
        if self.storage is not None:
            self.storage.remove(map(self._name, files))

    def find(self, pattern: str) -> list[Path]:
        """The files below the folder that match, here or there, in alphabetical order."""
        found = {file for file in self.folder.glob(pattern) if file.is_file()}
        if self.storage is not None:
            found |= {entry.file(self.folder) for entry in self.storage.entries() if fnmatch(entry.path, pattern)}
        return sorted(found)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _here(self, name: str) -> set[str]:
        paths = {self._name(file) for file in self.folder.rglob(name) if file.is_file()}
        return {path for path in paths if "/." not in f"/{path}"}  # without hidden files


def _in_threads(do: Callable[[Any], None], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(do, items))


@cache
def _opened(address: str) -> tuple[fs.FileSystem, str]:
    check_no_secret(address)
    scheme = address.split("://", 1)[0]
    if scheme not in SCHEMES:
        raise StorageError(f"{address}: no such kind of address; allowed: {', '.join(f'{one}://' for one in SCHEMES)}")
    try:
        # small files in one request instead of three
        files, base = fs.FileSystem.from_uri(f"{address}?allow_delayed_open=true" if scheme == "s3" else address)
    except (OSError, pa.ArrowException, ImportError, ValueError) as error:
        raise StorageError(f"{address}: {first_line(error)}") from error
    return files, str(base).rstrip("/")

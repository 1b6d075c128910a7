"""a data folder at an address (s3://…) -> the same files in this node's cache, each fetched once, several at a time.

`images-<key>/` holds the files, `images-<key>.bytes` how many bytes they take. That file is locked while the folder is
in use (see `cache_limits`).
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rfray.data.cache_limits import cache_folder, make_room
from rfray.data.decoding import SUFFIXES
from rfray.errors import DataError
from rfray.spec.sweep import CacheSettings
from rfray.store.files import write_whole
from rfray.store.storage import THREADS, Entry, Storage


@dataclass
class RemoteFolder:
    """A data folder at an address; all its image files are fetched when the first of them is asked for."""

    address: str
    class_folders: tuple[str, ...]
    cache: CacheSettings

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, path: str) -> Path:
        """The file on this machine. Raises StorageError, and DataError where the cache has no room for all of them."""
        return self._fetched[0] / path

    def entries(self) -> Iterator[Entry]:
        """The image files below the class folders, as `folders.list_images` finds them on a disk."""
        storage = Storage(self.address)
        for folder in dict.fromkeys(self.class_folders):
            for entry in storage.entries(folder):
                hidden = any(part.startswith(".") for part in Path(entry.path).parts)
                if entry.path.lower().endswith(SUFFIXES) and not hidden:
                    yield entry

    @cached_property
    def _fetched(self) -> tuple[Path, BinaryIO]:
        """The folder on this machine, and a locked file: as long as it is open, no process deletes the folder.

        Files that are there already are not fetched again; a second process waits for the first.
        """
        key = hashlib.sha256(self.address.encode()).hexdigest()[:24]
        folder = cache_folder(self.cache) / f"images-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        size_file = folder.with_suffix(".bytes")
        with FileLock(folder.with_suffix(".lock")):
            entries = list(self.entries())
            missing = [entry for entry in entries if not entry.is_at(folder / entry.path)]
            need = sum(entry.size for entry in entries)
            if missing:
                size_file.unlink(missing_ok=True)  # else what is there already would be counted twice
                self._check_room(need)
            write_whole(size_file, str(need))
            lock = size_file.open("rb")
            fcntl.flock(lock, fcntl.LOCK_SH)
            _fetch(Storage(self.address), missing, folder)
            _remove_others(folder, {entry.path for entry in entries})
        return folder, lock

    def _check_room(self, need: int) -> None:
        folder = cache_folder(self.cache)
        with FileLock(folder / ".room.lock"):
            room = make_room(folder, self.cache.max_gb, need)
        if room < need:
            raise DataError(
                f"{self.address}: its images take {need / 1e9:.3g} GB, but the cache {folder} has room for "
                f"{room / 1e9:.3g} GB (data.cache.max_gb: {self.cache.max_gb:g}). Allow more, or name a larger disk "
                "(data.cache.dir)"
            )


def _fetch(storage: Storage, entries: list[Entry], folder: Path) -> None:
    def fetch(entry: Entry) -> int:
        storage.fetch(entry, folder)
        return entry.size

    bar = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with (
        Progress(TextColumn("{task.description}"), *bar, console=Console(stderr=True), transient=True) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        task = progress.add_task(f"Fetching {len(entries)} images", total=sum(entry.size for entry in entries))
        try:
            for size in pool.map(fetch, entries):
                progress.advance(task, size)
        finally:
            pool.shutdown(cancel_futures=True)


def _remove_others(folder: Path, known: set[str]) -> None:
    """Removes files that are no longer at the address, and half-written ones of a process that was killed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            if file.relative_to(folder).as_posix() not in known:
                file.unlink()

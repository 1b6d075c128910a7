"""a data folder at an address (s3://…) -> the same files in this node's cache, fetched once, in parallel, resumed.

`images-<key>/` holds the files, `images-<key>.bytes` how many bytes they take. That file is locked while the folder is
in use (see `cache_room`).
"""

import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
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
from rfray.store.files import replace_text
from rfray.store.storage import THREADS, Entry, Storage


@dataclass
class RemoteFolder:
    """A data folder at an address; its image files are fetched when the first of them is asked for."""

    address: str
    class_folders: tuple[str, ...]
    cache: CacheSettings

    def __truediv__(self, path: str) -> Path:
        """The file on this machine. Raises StorageError, and DataError where the cache has no room for all of them."""
        return self._here[0] / path

    def entries(self) -> Iterator[Entry]:
        """The image files below the class folders, as `catalog.list_folder` would find them on a disk."""
        yield from _images(Storage(self.address), self.class_folders)

    @cached_property
    def _here(self) -> tuple[Path, BinaryIO]:
        """The folder, and a locked file: as long as this lives, nobody deletes it."""
        return _fetched(self.address, self.class_folders, self.cache)


def _fetched(address: str, folders: Sequence[str], cache: CacheSettings) -> tuple[Path, BinaryIO]:
    """Brings the files here that are missing or differ.

    What a fetch that was killed has brought is not brought again; a second process waits for the first.
    """
    place = cache_folder(cache) / f"images-{hashlib.sha256(address.encode()).hexdigest()[:24]}"
    place.mkdir(parents=True, exist_ok=True)
    storage, size = Storage(address), place.with_suffix(".bytes")
    with FileLock(place.with_suffix(".lock")):
        entries = list(_images(storage, folders))
        missing = [entry for entry in entries if not entry.is_at(place / entry.path)]
        need = sum(entry.size for entry in entries)
        if missing:
            size.unlink(missing_ok=True)  # what is there already counts as part of what is needed
            _check_room(address, need, cache)
        replace_text(size, str(need))
        lock = size.open("rb")
        fcntl.flock(lock, fcntl.LOCK_SH)
        if missing:
            _fetch(storage, missing, place)
        _remove_others(place, {entry.path for entry in entries})
    return place, lock


def _images(storage: Storage, folders: Sequence[str]) -> Iterator[Entry]:
    for folder in dict.fromkeys(folders):
        for entry in storage.entries(folder):
            hidden = any(part.startswith(".") for part in Path(entry.path).parts)
            if entry.path.lower().endswith(SUFFIXES) and not hidden:
                yield entry


def _check_room(address: str, need: int, cache: CacheSettings) -> None:
    with FileLock(cache_folder(cache) / ".room.lock"):
        room = make_room(cache_folder(cache), cache.max_gb, need)
    if room < need:
        raise DataError(
            f"{address}: its images take {need / 1e9:.3g} GB, but the cache {cache_folder(cache)} has room for "
            f"{room / 1e9:.3g} GB (data.cache.max_gb: {cache.max_gb:g}). Allow more, or name a larger disk "
            "(data.cache.dir)"
        )


def _fetch(storage: Storage, entries: Sequence[Entry], place: Path) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        task = progress.add_task(f"Fetching {len(entries)} images", total=sum(entry.size for entry in entries))

        def fetch(entry: Entry) -> int:
            storage.fetch(entry, place)
            return entry.size

        try:
            for size in pool.map(fetch, entries):
                progress.advance(task, size)
        finally:
            pool.shutdown(cancel_futures=True)


def _remove_others(place: Path, known: Collection[str]) -> None:
    """Files that are no longer at the address, and half-written ones of a fetch that was killed."""
    for parent, _, files in os.walk(place):
        for name in files:
            file = Path(parent, name)
            if file.relative_to(place).as_posix() not in known:
                file.unlink()

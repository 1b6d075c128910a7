"""the cache folder of a node -> room in it; and a data folder at an address (s3://…) -> the same files, kept there.

It holds files of decoded pixels (`pixels-*.u8`, see `images`) and fetched data folders: `images-<key>/` with the
files, and `images-<key>.bytes`, which says how many bytes they take. A file that is in use is locked (for a fetched
folder, the latter), and its time is when it was last used. Files that no process uses make room, the oldest first.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from rfray.data.listing import PassedOver
from rfray.errors import DataError
from rfray.progress.phases import counting
from rfray.spec.sweep import CacheSettings, DataSettings
from rfray.store.files import below, clear_left_over, is_idle, user_cache, write_whole
from rfray.store.storage import THREADS, Entry, Storage

FREE_SHARE = 0.02
"""Share of the disk that the cache leaves free, for checkpoints and logs: 10 GB of 500."""


def cache_folder(cache: CacheSettings) -> Path:
    """The cache of this node: `data.cache.dir`, else RFRAY_CACHE, else the user's cache folder."""
    return Path(cache.dir) if cache.dir else user_cache()


def make_room(folder: Path, max_gb: float, need: int) -> int:
    """Deletes files that are not in use, the longest unused first, until `need` bytes fit; returns how many do."""
    with FileLock(folder / ".room.lock"):
        remove_unfinished(folder)
        patterns = ("pixels-*.u8", "images-*.bytes", ".writing-*.u8")
        found = [path for pattern in patterns for path in folder.glob(pattern)]
        sizes = {path: int(path.read_text()) if path.suffix == ".bytes" else path.stat().st_size for path in found}
        idle = sorted(filter(is_idle, found), key=lambda path: path.stat().st_mtime)
        while True:
            disk = shutil.disk_usage(folder)
            room = max(0, int(min(max_gb * 1e9 - sum(sizes.values()), disk.free - FREE_SHARE * disk.total)))
            if room >= need or not idle:
                return room
            oldest = idle.pop(0)
            del sizes[oldest]
            oldest.unlink(missing_ok=True)
            if oldest.suffix == ".bytes":
                shutil.rmtree(oldest.with_suffix(""), ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Deletes files of pixels whose process was killed before they were whole."""
    for path in filter(is_idle, folder.glob(".writing-*.u8")):
        path.unlink(missing_ok=True)


@dataclass
class RemoteFolder:
    """A data folder at an address; all its image files are fetched when the first of them is asked for."""

    address: str
    settings: DataSettings

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, path: str) -> Path:
        """The file on this machine. Raises StorageError, and DataError where the cache has no room for all of them."""
        return below(self._fetched[0], path)

    def entries(self, class_folder: str, passed: PassedOver | None = None) -> Iterator[Entry]:
        """The image files of a class folder, as `folders.list_images` finds them on a disk."""
        passed = PassedOver() if passed is None else passed
        storage = Storage(self.address)
        return (one for one in storage.entries(class_folder) if passed.is_image(storage.address, one.path))

    @cached_property
    def _fetched(self) -> tuple[Path, BinaryIO]:
        """The folder on this machine, and a locked file: as long as it is open, no process deletes the folder.

        Files that are there already are not fetched again; a second process waits for the first. Files that are no
        longer at the address, and half-written ones of a process that was killed, are removed.
        """
        cache, max_gb = cache_folder(self.settings.cache), self.settings.cache.max_gb
        names = [name for names in self.settings.class_folders().values() for name in names]
        folder = cache / f"images-{hashlib.sha256(self.address.encode()).hexdigest()[:24]}"
        folder.mkdir(parents=True, exist_ok=True)
        size_file = folder.with_suffix(".bytes")
        with FileLock(folder.with_suffix(".lock")):
            entries = {entry.file(folder): entry for name in names for entry in self.entries(name)}
            missing = [entry for path, entry in entries.items() if not entry.is_at(path)]
            need = sum(entry.size for entry in entries.values())
            if missing:
                size_file.unlink(missing_ok=True)  # else what is there already would be counted twice
                if (room := make_room(cache, max_gb, need)) < need:
                    raise DataError(
                        f"{self.address}: its images take {need / 1e9:.3g} GB, but the cache {cache} has room for "
                        f"{room / 1e9:.3g} GB (data.cache.max_gb: {max_gb:g}). Allow more, or name a larger "
                        "disk (data.cache.dir)"
                    )
            clear_left_over(size_file)
            write_whole(size_file, str(need))
            lock = size_file.open("rb")
            fcntl.flock(lock, fcntl.LOCK_SH)
            with ThreadPoolExecutor(THREADS) as pool:
                try:
                    fetched = pool.map(partial(Storage(self.address).fetch, folder=folder), missing)
                    list(counting(fetched, "Fetching images", len(missing)))
                finally:
                    pool.shutdown(cancel_futures=True)
            for file in folder.rglob("*"):
                if file not in entries and not file.is_dir():
                    file.unlink()
        return folder, lock

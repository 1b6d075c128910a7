"""the cache folder of a node -> room in it: what was not used for longest goes first, nothing that is in use.

It holds files of decoded pixels (`pixels-*.u8`, see `pixels`) and fetched data folders (`images-*`, see `fetching`). A
file that is in use is locked, and its time is when it was last used.
"""

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from rfray.spec.sweep import CacheSettings
from rfray.store.files import user_cache

FREE_SHARE = 0.02
"""Share of the disk that the cache leaves free."""


def cache_folder(cache: CacheSettings) -> Path:
    """The cache of this node: `data.cache.dir`, else RFRAY_CACHE, else the user's cache folder."""
    return Path(cache.dir) if cache.dir else user_cache()


def make_room(folder: Path, max_gb: float, need: int) -> int:
    """Deletes what was not used for longest, nothing that is in use, until `need` bytes fit; how many there are."""
    for left in folder.glob(".writing-*.u8"):
        if _is_idle(left):  # its process was killed
            left.unlink(missing_ok=True)
    idle = [path for path in sorted(_kept(folder), key=lambda path: path.stat().st_mtime) if _is_idle(path)]
    while True:
        taken = sum(_size(path) for path in (*_kept(folder), *folder.glob(".writing-*.u8")))
        disk = shutil.disk_usage(folder)
        room = max(0, int(min(max_gb * 1e9 - taken, disk.free - FREE_SHARE * disk.total)))
        if room >= need or not idle:
            return room
        _delete(idle.pop(0))


def _kept(folder: Path) -> Iterator[Path]:
    yield from folder.glob("pixels-*.u8")
    yield from folder.glob("images-*.bytes")


def _size(path: Path) -> int:
    return int(path.read_text()) if path.suffix == ".bytes" else path.stat().st_size


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".parquet").unlink(missing_ok=True)
    if path.suffix == ".bytes":
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _is_idle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

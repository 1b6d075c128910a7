"""the cache folder of a node -> bytes of room in it, for which files that no process uses are deleted, oldest first.

It holds files of decoded pixels (`pixels-*.u8`, see `pixel_cache`) and fetched data folders (`images-*`, see
`remote_images`). A file that is in use is locked, and its time is when it was last used.
"""

import fcntl
import shutil
from pathlib import Path

from rfray.spec.sweep import CacheSettings
from rfray.store.files import user_cache

FREE_SHARE = 0.02
"""Share of the disk that the cache leaves free, for checkpoints and logs: 10 GB of 500."""


def cache_folder(cache: CacheSettings) -> Path:
    """The cache of this node: `data.cache.dir`, else RFRAY_CACHE, else the user's cache folder."""
    return Path(cache.dir) if cache.dir else user_cache()


def make_room(folder: Path, max_gb: float, need: int) -> int:
    """Deletes files that are not in use, the longest unused first, until `need` bytes fit; returns how many do."""
    for path in folder.glob(".writing-*.u8"):
        if _is_idle(path):  # its process was killed
            path.unlink(missing_ok=True)
    idle = [path for path in sorted(_kept(folder), key=lambda path: path.stat().st_mtime) if _is_idle(path)]
    while True:
        taken = sum(_size(path) for path in (*_kept(folder), *folder.glob(".writing-*.u8")))
        disk = shutil.disk_usage(folder)
        room = max(0, int(min(max_gb * 1e9 - taken, disk.free - FREE_SHARE * disk.total)))
        if room >= need or not idle:
            return room
        oldest = idle.pop(0)
        oldest.unlink(missing_ok=True)
        if oldest.suffix == ".bytes":
            shutil.rmtree(oldest.with_suffix(""), ignore_errors=True)


def _kept(folder: Path) -> list[Path]:
    return [*folder.glob("pixels-*.u8"), *folder.glob("images-*.bytes")]


def _size(path: Path) -> int:
    return int(path.read_text()) if path.suffix == ".bytes" else path.stat().st_size


def _is_idle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

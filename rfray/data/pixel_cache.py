"""image files -> decoded pixels: one memory-mapped file for each folder and geometry, shared by all trials of a node.

`pixels-<key>.u8` holds the pictures one after the other, in the order of the catalog. The key is made of the digests of
the image files, so other images never meet old pixels. A file gets its name when it is complete: a process that is
killed leaves a `.writing-*.u8`, which is deleted later. A file that is in use is locked (see `cache_limits`).
"""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from rfray.data.cache_limits import cache_folder, make_room
from rfray.data.decoding import UnreadableImageError, decode
from rfray.data.geometry import Geometry
from rfray.data.images import ImageFiles, PictureSource
from rfray.data.remote_images import RemoteFolder
from rfray.data.threads import in_threads
from rfray.spec.sweep import CacheSettings
from rfray.store.files import is_disk_full

GROWTH = 100_000_000
"""Bytes that are asked of the cache at a time, where the size of all pictures is not known: some 500 of 256 px."""
PIXELS_VERSION = "2"
"""Part of the key: a change to what is in the files needs a new one."""

Examined = TypeVar("Examined")


@dataclass(frozen=True)
class ScannedFile:
    """The result of reading one file."""

    digest: str
    """SHA-256 of the file's bytes; empty where they could not be read."""
    reason: str | None
    """Why it can't be used, or None."""
    width: int = 0
    height: int = 0
    """Size in pixels of the picture that a person sees."""


class CachedPixels:
    """A source that reads a file of decoded pixels."""

    def __init__(self, file: BinaryIO, sizes: np.ndarray) -> None:
        """`sizes` is (n, 2) int64: width and height of each picture in the file."""
        self._file = file  # locked, and so in use, as long as it is open
        self._pixels = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
        self._widths, self._heights = sizes.T.tolist()  # lists: indexing an array takes several times as long
        self._starts = [0, *np.cumsum(3 * sizes.prod(axis=1)).tolist()]

    def picture(self, row: int) -> np.ndarray:
        """See PictureSource."""
        pixels = self._pixels[self._starts[row] : self._starts[row + 1]]
        return pixels.reshape(self._heights[row], self._widths[row], 3)


class PixelWriter:
    """Writes one file of decoded pixels; deletes it where the cache has no room for it."""

    def __init__(self, geometry: Geometry, cache: CacheSettings, need: int | None) -> None:
        """`need` is the size in bytes, where it is known; else room is made as the file grows."""
        self._geometry = geometry
        self._folder = cache_folder(cache)
        self._max_gb = cache.max_gb
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f".writing-{uuid.uuid4().hex[:12]}.u8"
        self._file: BinaryIO | None = None
        self._size = self._limit = 0
        if self._has_room(need or GROWTH):
            self._file = self._path.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if need:
                with suppress(OSError):  # reserves the room, where the file system can, so that other processes see it
                    os.posix_fallocate(self._file.fileno(), 0, need)

    @property
    def is_open(self) -> bool:
        """Whether it takes pictures: False where the cache has no room, and at the end."""
        return self._file is not None

    def add(self, picture: np.ndarray) -> None:
        """Appends a picture, (height, width, 3) uint8."""
        if self._file is None:
            return
        if self._size + picture.nbytes > self._limit and not self._has_room(max(GROWTH, picture.nbytes)):
            self.close()
            return
        try:
            self._file.write(np.ascontiguousarray(picture).data)
            self._size += picture.nbytes
        except OSError as error:
            self.close()
            if not is_disk_full(error):
                raise

    def finish(self, digests: Sequence[str]) -> bool:
        """Gives the file its name; returns whether it fitted."""
        if self._file is None:
            return False
        self._file.truncate()  # of what was reserved, the room for pictures that can't be read
        self._file.flush()
        os.replace(self._path, pixel_file(digests, self._geometry, self._folder))
        self._file.close()
        self._file = None
        return True

    def close(self) -> None:
        """Deletes what is not finished."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _has_room(self, more: int) -> bool:
        with FileLock(self._folder / ".room.lock"):
            self._limit = self._size + make_room(self._folder, self._max_gb, more)
        return self._size + more <= self._limit


def no_room_in_cache(cache: CacheSettings) -> str:
    """The warning where decoded pixels have no room."""
    return (
        f"the cache for decoded pixels, {cache_folder(cache)}, has no room for all images (data.cache.max_gb: "
        f"{cache.max_gb:g}, or the disk is full); trials decode them whenever they need them, which is slower"
    )


def scan(
    folder: Path | RemoteFolder,
    paths: Sequence[str],
    geometries: Sequence[Geometry],
    cache: CacheSettings,
    examine: Callable[[bytes, np.ndarray], Examined] | None = None,
) -> tuple[list[ScannedFile], list[Examined], bool]:
    """Reads and decodes every file once, and keeps the readable pictures of each geometry in the cache.

    Returns the result for each, in the order of `paths`; what `examine` made of the bytes and the picture of each
    readable one, in the same order; and whether everything fitted into the cache.
    """

    def read(path: str) -> tuple[ScannedFile, list[Examined], list[np.ndarray]]:
        file, digest = folder / path, ""
        try:
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            picture = decode(data)
        except OSError as error:
            return ScannedFile(digest, error.strerror or str(error)), [], []
        except UnreadableImageError as error:
            return ScannedFile(digest, str(error)), [], []
        found = [examine(data, picture)] if examine else []
        kept = [geometry.stored(picture) for geometry in geometries]
        return ScannedFile(digest, None, picture.shape[1], picture.shape[0]), found, kept

    files: list[ScannedFile] = []
    found: list[Examined] = []
    writers = [PixelWriter(geometry, cache, _need_before(geometry, len(paths))) for geometry in geometries]
    try:
        for scanned, examined, kept in track(
            in_threads(read, paths), "Reading images", len(paths), console=Console(stderr=True), transient=True
        ):
            files.append(scanned)
            found.extend(examined)
            for writer, picture in zip(writers, kept, strict=False):
                writer.add(picture)
        digests = [file.digest for file in files if file.reason is None]
        fitted = [writer.finish(digests) for writer in writers]
    finally:
        for writer in writers:
            writer.close()
    return files, found, all(fitted)


def load_pixels(
    folder: Path | RemoteFolder,
    paths: Sequence[str],
    digests: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    geometry: Geometry,
    cache: CacheSettings,
) -> PictureSource:
    """The pictures of files that `scan` found readable, from the cache; where they are not in it, they are put there.

    `sizes` are width and height of each in pixels. Where the cache has no room they are decoded as they are needed.
    Raises DataError where a file has changed since, or is gone.
    """
    files = ImageFiles(folder, paths, digests, geometry)
    target = pixel_file(digests, geometry, cache_folder(cache))
    kept = np.array([geometry.stored_size(*size) for size in sizes], np.int64).reshape(-1, 2)
    need = 3 * int(kept.prod(axis=1).sum())
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # the first process that needs it decodes, the others wait
        cached = _open(target, need)
        if cached is None:
            writer = PixelWriter(geometry, cache, need)
            try:
                if writer.is_open:
                    for picture in in_threads(files.picture, range(len(paths))):
                        writer.add(picture)
                    writer.finish(digests)
            finally:
                writer.close()
            cached = _open(target, need)
    return files if cached is None else CachedPixels(cached, kept)


def pixel_file(digests: Sequence[str], geometry: Geometry, folder: Path) -> Path:
    """Where the pixels of the files with these digests are in a cache folder."""
    key = hashlib.sha256("\n".join([PIXELS_VERSION, *digests]).encode()).hexdigest()[:24]
    return folder / f"pixels-{key}-{geometry.key}.u8"


def _need_before(geometry: Geometry, count: int) -> int | None:
    """Bytes for so many pictures whose sizes are not known yet, or None where it depends on them."""
    width, height = geometry.stored_size(0, 0)
    return 3 * width * height * count or None


def _open(target: Path, need: int) -> BinaryIO | None:
    """The file, if it is there and complete, locked: it counts as used now, and is kept as long as it is open."""
    try:
        file = target.open("rb")
    except OSError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_size != need or not target.exists():  # cut short, or deleted before it was locked
        file.close()
        return None
    os.utime(target)
    return file

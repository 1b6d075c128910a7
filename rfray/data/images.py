"""the image files of a data folder -> their pictures, decoded or from the pixel cache; and the images of one part.

The cache has one memory-mapped file for each folder and geometry, for all trials of a node: `pixels-<key>.u8` holds
the pictures in the order of the catalog. The key is made of the digests of the image files, so other images never meet
old pixels. A file gets its name when it is complete: a process that is killed leaves a `.writing-*.u8`, which is
deleted later. A file that is in use is locked (see `node_cache`).
"""

import fcntl
import hashlib
import math
import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import pandas as pd
from filelock import FileLock

from rfray.data.decoding import UnreadableImageError, decode, read_image
from rfray.data.geometry import Geometry
from rfray.data.node_cache import RemoteFolder, cache_folder, make_room
from rfray.errors import DataError
from rfray.progress.phases import counting
from rfray.spec.sweep import CacheSettings
from rfray.store.files import below, is_disk_full

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_A_TASK = 16
"""Items that one task of `in_threads` computes: starting a task takes a tenth of the time of decoding 256 px."""
GROWTH = 100_000_000
"""Bytes that are asked of the cache at a time, where the size of all pictures is not known: some 500 of 256 px."""
PIXELS_VERSION = "2"
"""Part of the key: a change to what is in the files needs a new one."""


class PictureSource(Protocol):
    """Where the pictures of a data folder come from: their files, or the pixel cache."""

    def picture(self, row: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB: what the geometry keeps of one picture. Threads may call it side by side."""


@dataclass(frozen=True)
class ImageFiles:
    """A source that decodes a file each time its picture is asked for."""

    folder: Path | RemoteFolder
    paths: Sequence[str]
    digests: Sequence[str]
    """SHA-256 of each file, in hex digits."""
    geometry: Geometry | None
    """None leaves pictures as their files have them."""

    def picture(self, row: int) -> np.ndarray:
        """See PictureSource. Raises DataError where the file has changed since it was scanned, or is gone."""
        path, reason = below(self.folder, self.paths[row]), "other content"
        try:
            data = read_image(path)
            if hashlib.sha256(data).hexdigest() == self.digests[row]:
                picture = decode(data)
                return picture if self.geometry is None else self.geometry.stored(picture)
        except UnreadableImageError as error:
            reason = str(error)
        raise DataError(
            f"{path} has changed since the sweep began ({reason}); put it back, or start anew with `rfray tune --fresh`"
        )


class CachedPixels:
    """A source that reads a file of decoded pixels, which is in use as long as this is there."""

    def __init__(self, path: Path, sizes: np.ndarray) -> None:
        """`sizes` is (n, 2) int64: width and height of each picture. Raises OSError where there is no such file."""
        self._starts = [0, *np.cumsum(3 * sizes.prod(axis=1)).tolist()]
        self._widths, self._heights = sizes.T.tolist()  # lists: indexing an array takes several times as long
        self._file = path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_SH)
        if os.fstat(self._file.fileno()).st_size != self._starts[-1] or not path.exists():
            raise FileNotFoundError(f"{path} was cut short, or deleted before it was locked")
        self._pixels = np.memmap(self._file, dtype=np.uint8, mode="r").view(np.ndarray)
        os.utime(path)  # it counts as used now

    def picture(self, row: int) -> np.ndarray:
        """See PictureSource."""
        pixels = self._pixels[self._starts[row] : self._starts[row + 1]]
        return pixels.reshape(self._heights[row], self._widths[row], 3)


@dataclass(frozen=True)
class Images:
    """The images of one part."""

    source: PictureSource
    """May have the images of other parts too."""
    geometry: Geometry
    rows: np.ndarray
    """(n,) int: where in `source` this part's images are."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    ids: np.ndarray
    """(n,) str: path of each image below its data folder."""
    groups: np.ndarray | None = None
    """(n,) int: the same for images that belong together (`group_id` of the catalog); None where it is not known."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, positions: slice | np.ndarray) -> "Images":
        """The images at some positions, in that order."""
        groups = None if self.groups is None else self.groups[positions]
        rows, labels, ids = (each[positions] for each in (self.rows, self.labels, self.ids))
        return replace(self, rows=rows, labels=labels, ids=ids, groups=groups)

    def batch(self, chosen: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """(B, S, S, 3) uint8 of the images at the positions `chosen`; `generator` draws windows (see Geometry)."""
        side = self.geometry.side
        pixels = np.empty((len(chosen), side, side, 3), np.uint8)
        for position, row in enumerate(self.rows[chosen].tolist()):
            pixels[position] = self.geometry.window(self.source.picture(row), generator)
        return pixels


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    waiting: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Result, None, None]:
    """Like map(), with at most `waiting` results computed before they are asked for. Closing it ends the threads."""
    rest = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="rfray-data", initializer=initializer) as pool:
        try:
            tasks: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(rest, waiting))
            while tasks:
                result = tasks.popleft().result()
                tasks.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Like map(), with a thread for every core: OpenCV and Pillow release the interpreter lock while they decode."""
    workers = os.cpu_count() or 1
    chunks = (items[start : start + ITEMS_A_TASK] for start in range(0, len(items), ITEMS_A_TASK))
    for results in ahead(lambda chunk: [function(item) for item in chunk], chunks, workers, 2 * workers):
        yield from results


class PixelWriter:
    """Writes one file of decoded pixels; deletes it where the cache has no room for it, or it is not finished."""

    def __init__(self, geometry: Geometry, cache: CacheSettings, need: int) -> None:
        """`need` is the size in bytes; 0 where it is not known, and room is made as the file grows."""
        self._geometry, self._max_gb, self._folder = geometry, cache.max_gb, cache_folder(cache)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f".writing-{uuid.uuid4().hex[:12]}.u8"
        self._size = self._limit = 0
        self.file: BinaryIO | None = None  # None where the cache has no room, and at the end
        if self._has_room(need or GROWTH):
            self.file = self._path.open("wb")
            fcntl.flock(self.file, fcntl.LOCK_EX)
            if need:
                with suppress(OSError):  # reserves the room, where the file system can, so that other processes see it
                    os.posix_fallocate(self.file.fileno(), 0, need)

    def add(self, picture: np.ndarray) -> None:
        """Appends a picture, (height, width, 3) uint8."""
        if self.file is None:
            return
        if self._size + picture.nbytes > self._limit and not self._has_room(max(GROWTH, picture.nbytes)):
            self.close()
            return
        try:
            self.file.write(np.ascontiguousarray(picture).data)
            self._size += picture.nbytes
        except OSError as error:
            self.close()
            if not is_disk_full(error):
                raise

    def finish(self, digests: Sequence[str]) -> bool:
        """Gives the file its name; returns whether it fitted."""
        if self.file is None:
            return False
        self.file.truncate()  # of what was reserved, the room for pictures that can't be read
        self.file.flush()
        os.replace(self._path, pixel_file(digests, self._geometry, self._folder))
        self.close()
        return True

    def close(self) -> None:
        """Deletes what is not finished."""
        if self.file is not None:
            self._path.unlink(missing_ok=True)
            self.file.close()
            self.file = None

    def _has_room(self, more: int) -> bool:
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
    examine: Callable[[bytes, np.ndarray], Result] | None = None,
) -> tuple[pd.DataFrame, list[Result], bool]:
    """Reads and decodes every file once, and keeps the readable pictures of each geometry in the cache.

    Returns a table with a row for each, in the order of `paths`: digest (SHA-256; empty where nothing could be read),
    reason (why it can't be used, or None), width and height (pixels, as a person sees it); what `examine` made of the
    bytes and the picture of each readable one (it may find that one unreadable); and whether everything fitted into
    the cache.
    """

    def read(path: str) -> tuple[dict[str, Any], list[Result], list[np.ndarray]]:
        row: dict[str, Any] = {"digest": "", "reason": None, "width": 0, "height": 0}
        file = below(folder, path)
        try:
            data = read_image(file)
            row["digest"] = hashlib.sha256(data).hexdigest()
            picture = decode(data)
            examined = [examine(data, picture)] if examine else []
        except UnreadableImageError as error:
            return row | {"reason": str(error)}, [], []
        row["height"], row["width"] = picture.shape[:2]
        return row, examined, [geometry.stored(picture) for geometry in geometries]

    rows, found, writers = [], [], []
    with ExitStack() as stack:
        for geometry in geometries:
            need = 3 * math.prod(geometry.stored_size(0, 0)) * len(paths)  # 0 where it depends on the pictures
            writers.append(stack.enter_context(closing(PixelWriter(geometry, cache, need))))
        results = in_threads(read, paths)
        for row, examined, kept in counting(results, "Reading images", len(paths)):
            rows.append(row)
            found.extend(examined)
            for writer, picture in zip(writers, kept, strict=False):
                writer.add(picture)
        files = pd.DataFrame(rows, columns=["digest", "reason", "width", "height"])
        fitted = [writer.finish(files.loc[files["reason"].isna(), "digest"].tolist()) for writer in writers]
    return files, found, all(fitted)


def load_pixels(files: ImageFiles, geometry: Geometry, sizes: np.ndarray, cache: CacheSettings) -> PictureSource:
    """The pictures of files that `scan` found readable, from the cache; where they are not in it, they are put there.

    `sizes` is (n, 2) int: width and height of each in pixels. Where the cache has no room they are decoded as they are
    needed. Raises DataError where a file has changed since, or is gone.
    """
    target = pixel_file(files.digests, geometry, cache_folder(cache))
    kept = np.array([geometry.stored_size(*size) for size in sizes.tolist()], np.int64).reshape(-1, 2)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # the first process that needs it decodes, the others wait
        with suppress(OSError):
            return CachedPixels(target, kept)
        with closing(PixelWriter(geometry, cache, 3 * int(kept.prod(axis=1).sum()))) as writer:
            if writer.file is not None:
                for picture in in_threads(files.picture, range(len(files.paths))):
                    writer.add(picture)
            if writer.finish(files.digests):
                with suppress(OSError):
                    return CachedPixels(target, kept)
    return files


def pixel_file(digests: Sequence[str], geometry: Geometry, folder: Path) -> Path:
    """Where the pixels of the files with these digests are in a cache folder."""
    key = hashlib.sha256("\n".join([PIXELS_VERSION, *digests]).encode()).hexdigest()[:24]
    return folder / f"pixels-{key}-{geometry.key}.u8"

"""image files -> decoded pixels: one memory-mapped file a node, content and geometry, shared by all its trials.

`pixels-<key>.u8` holds the pictures one after the other, in the order of the catalog; `pixels-<key>.parquet` each one's
height, width and checksum. The key is the digest of what is in it. A file in use is locked (see `cache_room`).
"""

import fcntl
import hashlib
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress

from rfray.data.cache_limits import cache_folder, make_room
from rfray.data.decoding import UnreadableImageError, decode
from rfray.data.geometry import Geometry
from rfray.errors import DataError
from rfray.spec.sweep import CacheSettings
from rfray.store.files import is_disk_full, replacing

AT_ONCE = 16
"""Files that a thread reads before it hands them on."""
GROWTH = 100_000_000
"""Bytes for which room is made at a time, where the size of all is not known."""

INDEX = pa.schema({"height": pa.int32(), "width": pa.int32(), "checksum": pa.uint64()})
"""The columns beside a file of pixels."""
LAYOUT = "2"
"""Changes with what is in the files, so that those of another rfray are not taken for this one's."""

Given = TypeVar("Given")
Made = TypeVar("Made")


class Source(Protocol):
    """Where the pictures of a data folder come from."""

    def picture(self, row: int) -> np.ndarray:
        """(height, width, 3) uint8: what the geometry keeps of one."""


@dataclass(frozen=True)
class Images:
    """The images of one part."""

    source: Source
    """May hold other parts' images too."""
    geometry: Geometry
    rows: np.ndarray
    """(n,) int: where in `source` this part's images are."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    ids: np.ndarray
    """(n,) str: path of each image below its data folder."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, last: int) -> "Images":
        """The images from one position up to another, which is not included."""
        return self.at(slice(first, last))

    def at(self, here: slice | np.ndarray) -> "Images":
        """The images at some positions, in that order."""
        return replace(self, rows=self.rows[here], labels=self.labels[here], ids=self.ids[here])

    def batch(self, chosen: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """(B, S, S, 3) uint8 of the chosen images; `generator` draws the windows where the geometry has any."""
        side = self.geometry.side
        pixels = np.empty((len(chosen), side, side, 3), np.uint8)
        for position, row in enumerate(self.rows[chosen].tolist()):
            pixels[position] = self.geometry.window(self.source.picture(row), generator)
        return pixels


@dataclass(frozen=True)
class ScannedFile:
    """What reading one file came to."""

    digest: str
    """SHA-256 of the file's bytes; empty where they could not be read."""
    reason: str | None
    """Why it can't be used, or None."""
    width: int = 0
    height: int = 0
    """Size in pixels of the picture that a person sees."""


class DataFolder(Protocol):
    """Where the files of a data folder are: a Path, or a `fetching.RemoteFolder`."""

    def __truediv__(self, path: str, /) -> Path:
        """A file of it, on this machine."""


class Files:
    """Decodes the files themselves, each time anew."""

    def __init__(
        self, folder: DataFolder, paths: Sequence[str], digests: Sequence[str], geometry: Geometry | None
    ) -> None:
        """Without a geometry, pictures are as their files have them."""
        self._folder = folder
        self._paths = paths
        self._digests = digests
        self._geometry = geometry

    def picture(self, row: int) -> np.ndarray:
        """See Source. Raises DataError where the file has changed since it was scanned, or is gone."""
        path, reason = self._folder / self._paths[row], "other content"
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == self._digests[row]:
                picture = decode(data)
                return picture if self._geometry is None else self._geometry.stored(picture)
        except OSError as error:
            reason = error.strerror or str(error)
        except UnreadableImageError as error:
            reason = str(error)
        raise DataError(
            f"{path} has changed since the sweep began ({reason}); put it back, or start anew with `rfray tune --fresh`"
        )


class Stored:
    """Reads a file of decoded pixels; a picture that does not match its checksum is decoded from its own file."""

    def __init__(self, file: BinaryIO, index: pa.Table, files: Files) -> None:
        self._file = file  # it is locked, and so in use, as long as it is open
        self._pixels = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
        self._heights, self._widths, self._checksums = (index[name].to_pylist() for name in index.column_names)
        sizes = 3 * np.array(self._heights, np.int64) * np.array(self._widths, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._files = files
        self._sound = bytearray(len(sizes))

    def picture(self, row: int) -> np.ndarray:
        """See Source. Each is held against its checksum the first time that this process reads it."""
        pixels = self._pixels[self._starts[row] : self._starts[row + 1]]
        if not self._sound[row]:
            if checksum(pixels) != self._checksums[row]:
                return self._files.picture(row)
            self._sound[row] = 1
        return pixels.reshape(self._heights[row], self._widths[row], 3)


class Writer:
    """Writes a file of decoded pixels; gives it up where the cache has no room for it."""

    def __init__(self, geometry: Geometry, cache: CacheSettings, need: int | None) -> None:
        """`need` is the size in bytes, where it is known; else room is made as the file grows."""
        self._geometry = geometry
        self._folder = cache_folder(cache)
        self._max_gb = cache.max_gb
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f".writing-{uuid.uuid4().hex[:12]}.u8"
        self._file: BinaryIO | None = None
        self._size = self._limit = 0
        self._rows: list[tuple[int, int, int]] = []
        if self._has_room(need or GROWTH):
            self._file = self._path.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if need:
                with suppress(OSError):  # taken now, so that others know; where that can't be done, as it is written
                    os.posix_fallocate(self._file.fileno(), 0, need)

    @property
    def given_up(self) -> bool:
        """Whether there was no room (or all is done)."""
        return self._file is None

    def add(self, picture: np.ndarray, checksum: int) -> None:
        """Appends a picture, (height, width, 3) uint8."""
        if self._file is None:
            return
        self._rows.append((picture.shape[0], picture.shape[1], checksum))
        if self._size + picture.nbytes > self._limit and not self._has_room(max(GROWTH, picture.nbytes)):
            self.close()
            return
        try:
            self._file.write(picture.data)
            self._size += picture.nbytes
        except OSError as error:
            self.close()
            if not is_disk_full(error):
                raise

    def finish(self, digests: Sequence[str]) -> bool:
        """Gives the file its name; whether it fitted."""
        if self._file is None:
            return False
        target = _pixel_file(digests, self._geometry, self._folder)
        with replacing(target.with_suffix(".parquet")) as temporary:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            pq.write_table(pa.table(columns, schema=INDEX), temporary, write_page_checksum=True)
        self._file.truncate()  # what was taken for pictures that can't be read
        self._file.flush()
        os.replace(self._path, target)
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


def not_cached(cache: CacheSettings) -> str:
    """What to tell the user where decoded pixels have no room."""
    return (
        f"the cache for decoded pixels, {cache_folder(cache)}, has no room for all images (data.cache.max_gb: "
        f"{cache.max_gb:g}, or the disk is full); trials decode them whenever they need them, which is slower"
    )


def scan(
    folder: DataFolder,
    paths: Sequence[str],
    geometries: Sequence[Geometry],
    cache: CacheSettings,
    look: Callable[[bytes, np.ndarray], Made] | None = None,
) -> tuple[list[ScannedFile], list[Made | None], bool]:
    """Reads and decodes every file once, and keeps the readable pictures of each geometry in the cache.

    Returns what each came to, in the order of `paths`; what `look` made of each readable one's bytes and picture; and
    whether everything fitted into the cache.
    """

    def read(path: str) -> tuple[ScannedFile, Made | None, list[tuple[np.ndarray, int]]]:
        scanned, data, picture = _read(folder / path)
        if picture is None:
            return scanned, None, []
        kept = [_checked(geometry.stored(picture)) for geometry in geometries]
        return scanned, look(data, picture) if look else None, kept

    found: list[ScannedFile] = []
    seen: list[Made | None] = []
    writers = [Writer(geometry, cache, _need_before(geometry, len(paths))) for geometry in geometries]
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("Reading images", total=len(paths))
            for scanned, made, kept in in_threads(read, paths):
                found.append(scanned)
                seen.append(made)
                for writer, (picture, checksum) in zip(writers, kept, strict=False):
                    writer.add(picture, checksum)
                if len(found) % AT_ONCE == 0 or len(found) == len(paths):
                    progress.update(task, completed=len(found))
        digests = [one.digest for one in found if one.reason is None]
        fitted = [writer.finish(digests) for writer in writers]
    finally:
        for writer in writers:
            writer.close()
    return found, seen, all(fitted)


def load(
    folder: DataFolder,
    paths: Sequence[str],
    digests: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    geometry: Geometry,
    cache: CacheSettings,
) -> Source:
    """The pictures of files that `scan` found readable, from the cache, where they are put if they are not there.

    `sizes` are width and height of each in pixels. Where the cache has no room they are decoded as they are needed.
    Raises DataError where a file has changed since, or is gone.
    """
    files = Files(folder, paths, digests, geometry)
    target = _pixel_file(digests, geometry, cache_folder(cache))
    need = sum(3 * width * height for width, height in (geometry.stored_size(*size) for size in sizes))
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # the first that needs it decodes, the others wait
        stored = _open(target, need, files)
        if stored is not None:
            return stored
        writer = Writer(geometry, cache, need)
        if not writer.given_up:
            try:
                for picture, checksum in in_threads(lambda row: _checked(files.picture(row)), range(len(paths))):
                    writer.add(picture, checksum)
                writer.finish(digests)
            finally:
                writer.close()
        return _open(target, need, files) or files


def in_threads(function: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """map() over a pool of threads (OpenCV and Pillow let go of the interpreter), in order, a bounded way ahead."""
    workers = os.cpu_count() or 1
    starts = iter(range(0, len(items), AT_ONCE))
    with ThreadPoolExecutor(workers) as pool:

        def submit(start: int) -> Future[list[Made]]:
            return pool.submit(lambda: [function(item) for item in items[start : start + AT_ONCE]])

        ahead = deque(submit(start) for start in islice(starts, 2 * workers))
        try:
            while ahead:
                done = ahead.popleft().result()
                ahead.extend(submit(start) for start in islice(starts, 1))
                yield from done
        finally:
            pool.shutdown(cancel_futures=True)


def _read(path: Path) -> tuple[ScannedFile, bytes, np.ndarray | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        return ScannedFile("", error.strerror or str(error)), b"", None
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = decode(data)
    except UnreadableImageError as error:
        return ScannedFile(digest, str(error)), data, None
    return ScannedFile(digest, None, picture.shape[1], picture.shape[0]), data, picture


def _need_before(geometry: Geometry, count: int) -> int | None:
    """Bytes for so many pictures whose sizes are not known yet, or None where it depends on them."""
    if geometry.stored_size(0, 0) == (0, 0):
        return None
    width, height = geometry.stored_size(0, 0)
    return 3 * width * height * count


def _checked(stored: np.ndarray) -> tuple[np.ndarray, int]:
    stored = np.ascontiguousarray(stored)
    return stored, checksum(stored.reshape(-1))


def checksum(pixels: np.ndarray) -> int:
    """Of (n,) uint8: the sum, modulo 2^64, of its 8-byte words, each times an odd number of its own, and what is left.

    Any one word that changes changes it, and so do two that are swapped; a CRC-32 takes seven times as long.
    """
    whole = len(pixels) // 8 * 8
    words = pixels[:whole].view(np.uint64)
    left = int.from_bytes(pixels[whole:].tobytes())
    return (int(np.dot(words, _odd_numbers(len(words)))) + left) % 2**64


@lru_cache(maxsize=64)
def _odd_numbers(count: int) -> np.ndarray:
    return 2 * np.arange(count, dtype=np.uint64) + np.uint64(1)


def _pixel_file(digests: Sequence[str], geometry: Geometry, folder: Path) -> Path:
    key = hashlib.sha256("\n".join([LAYOUT, *digests]).encode()).hexdigest()[:24]
    return folder / f"pixels-{key}-{geometry.key}.u8"


def _open(target: Path, need: int, files: Files) -> Stored | None:
    """The file if it is there and whole: then it counts as used now, and is kept while it is open."""
    try:
        index = pq.read_table(target.with_suffix(".parquet"), page_checksum_verification=True)
        file = target.open("rb")
    except (OSError, pa.ArrowException):
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_size != need or not target.exists():
        file.close()
        return None
    os.utime(target)
    return Stored(file, index, files)

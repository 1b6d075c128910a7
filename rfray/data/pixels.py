"""image files -> decoded, resized pixels: one memory-mapped file a node, geometry and content, shared by all trials.

The file is plain uint8, (n, side, side, 3) in the order of the catalog; its name is the digest of what is in it.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import track

from rfray.errors import DataError
from rfray.files import replacing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow may open; its other readers stay out of reach of untrusted files."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings (any case) of the files that are taken for images."""
MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded (decompression bombs)."""

Image.MAX_IMAGE_PIXELS = None  # our own limit comes first, and says so in our words
cv2.setNumThreads(1)  # images are decoded in parallel, not the pixels of one
warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, without saying in which file

Given = TypeVar("Given")
Made = TypeVar("Made")


class UnreadableImageError(DataError):
    """One image file can't be used; the message is the reason."""


@dataclass(frozen=True)
class Images:
    """The images of one part, decoded."""

    pixels: np.ndarray
    """(m, S, S, 3) uint8, memory-mapped; may hold other parts' images too."""
    rows: np.ndarray
    """(n,) int: where in `pixels` this part's images are."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    ids: np.ndarray
    """(n,) str: path of each image below its data folder."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class ScannedFile:
    """What reading one file came to."""

    digest: str
    """SHA-256 of the file's bytes; empty where they could not be read."""
    reason: str | None
    """Why it can't be used, or None."""


def decode(data: bytes) -> np.ndarray:
    """The picture a person sees: (height, width, 3) uint8 RGB, turned as EXIF says, on white where transparent.

    16-bit images lose their lower 8 bits. Raises UnreadableImageError (no image, truncated, over MAX_PIXELS).
    """
    stream = io.BytesIO(data)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(f"{width}x{height} is over {MAX_PIXELS // 1_000_000} megapixels")
            if image.format == "JPEG" and data.find(b"\xff\xd9", stream.tell()) == -1:
                raise UnreadableImageError("truncated JPEG (it has no end)")  # decoders take zeros for pixels
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return _decode_plain_jpeg(data)
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, cv2.error) as error:  # Pillow's and OpenCV's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableImageError(reason) from None


def square(image: np.ndarray, side: int) -> np.ndarray:
    """(height, width, 3) -> (side, side, 3): the shorter edge scaled to `side`, then the middle cut out."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    middle = image[top : top + shorter, left : left + shorter]
    return cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA if shorter > side else cv2.INTER_CUBIC)


def cache_folder(given: str | None) -> Path:
    """The folder for decoded pixels on this node: `data.cache`, else RFRAY_CACHE, else the user's cache folder."""
    return Path(given or os.environ.get("RFRAY_CACHE") or user_cache_path("rfray"))


def scan(folder: Path, paths: Sequence[str], side: int, cache: Path) -> list[ScannedFile]:
    """Reads every file once: digests and reasons, in the order of `paths`; readable pixels go to the cache."""
    found: list[ScannedFile] = []

    def readable() -> Iterator[np.ndarray]:
        for scanned, pixels in _in_threads(lambda path: _read(folder / path, side), paths):
            found.append(scanned)
            if pixels is not None:
                yield pixels

    shown = track(readable(), "Reading images", total=len(paths), console=Console(stderr=True), transient=True)
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f"scan-{os.getpid()}.u8"  # its real name depends on what is in it
    try:
        _write_rows(fresh, shown)
        os.replace(fresh, _pixel_file([one.digest for one in found if one.reason is None], side, cache))
    finally:
        fresh.unlink(missing_ok=True)
    return found


def load(folder: Path, paths: Sequence[str], digests: Sequence[str], side: int, cache: Path) -> np.ndarray:
    """Memory-mapped pixels, (n, side, side, 3) uint8, of files that `scan` found readable; made if they are not there.

    Raises DataError where a file has changed since, or is gone.
    """
    target = _pixel_file(digests, side, cache)
    size = len(paths) * side * side * 3
    if not _has_size(target, size):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # the first that needs it decodes, the others wait
            if not _has_size(target, size):
                with replacing(target) as temporary:
                    _write_rows(temporary, _unchanged(folder, paths, digests, side))
    return np.memmap(target, dtype=np.uint8, mode="r", shape=(len(paths), side, side, 3))


def _decode_plain_jpeg(data: bytes) -> np.ndarray:
    # twice as fast as Pillow; turns by EXIF itself; None where the file is cut short
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UnreadableImageError("truncated or damaged JPEG")
    return np.asarray(pixels, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: 65535 is white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":  # floating-point TIFF: 1.0 is white
        image = Image.fromarray((np.nan_to_num(np.asarray(image)).clip(0, 1) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture)
    return np.asarray(image.convert("RGB"))


def _read(path: Path, side: int) -> tuple[ScannedFile, np.ndarray | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        return ScannedFile("", error.strerror or str(error)), None
    digest = hashlib.sha256(data).hexdigest()
    try:
        return ScannedFile(digest, None), square(decode(data), side)
    except UnreadableImageError as error:
        return ScannedFile(digest, str(error)), None


def _unchanged(folder: Path, paths: Sequence[str], digests: Sequence[str], side: int) -> Iterator[np.ndarray]:
    for path, digest, (scanned, pixels) in zip(
        paths, digests, _in_threads(lambda path: _read(folder / path, side), paths), strict=True
    ):
        if pixels is None or scanned.digest != digest:
            raise DataError(
                f"{folder / path} has changed since the sweep began ({scanned.reason or 'other content'}); "
                "put it back, or start anew with `rfray tune --fresh`"
            )
        yield pixels


def _in_threads(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """map() over a pool of threads (OpenCV and Pillow let go of the interpreter), in order, a bounded way ahead."""
    workers = os.cpu_count() or 1
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(function, item) for item in islice(remaining, 4 * workers)]
        while ahead:
            done = ahead.pop(0).result()
            ahead.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield done


def _write_rows(path: Path, rows: Iterable[np.ndarray]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(np.ascontiguousarray(row).data)


def _pixel_file(digests: Sequence[str], side: int, cache: Path) -> Path:
    key = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:24]
    return cache / f"pixels-{key}-{side}.u8"


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size

"""an image file -> its bytes -> the picture that a person sees, as an array; and the array in another size.

Every command reads and decodes image files here, and nothing in a file may hurt: only plain files are read, a limit
comes before whatever takes memory or time, and what a decoder raises is the reason why the file can't be used.
"""

import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from rfray.errors import DataError, first_line

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow may open: its other readers are not for untrusted files."""
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings (any case) of the files that are taken for images."""
MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a PNG of 190 kB can decode to 588 MB. Cameras make 24 to 45."""
MAX_SIDE = 65_535
"""Pixels of the longer side: what a JPEG can have. Some readers make room for many rows at once."""
MAX_SCANS = 100
"""Scans of a JPEG: libtiff's limit, too. Encoders write 10 or so, and each goes through all pixels again."""
MAX_SEGMENTS = 10_000
"""Segments of a JPEG up to its last scan: a segment has at most 64 kB, so that these hold more than MAX_BYTES."""
MAX_BYTES = 512_000_000
"""Larger files are refused before they are read: no picture that may be decoded takes as much."""
MAX_TAG_VALUES = MAX_PIXELS // 64
"""Numbers that a tag of a TIFF may have: a tile has 16 x 16 pixels or more (TIFF 6.0, section 15), in 4 planes."""
MAX_CHUNKS, CHUNK_BYTES = 1_000, 1_024
"""Chunks of a PNG: so many, and one more for each of these bytes of the file. Writers make chunks of 8 kB and more."""
MAX_RLE_BYTES = 4_000_000
"""Bytes of a run-length coded BMP: Pillow decodes each in Python, at some 2 MB a second."""
ROWS = 256
"""Rows of a picture that are made RGB at once (our choice)."""

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS comes first, with a message of our own
cv2.setNumThreads(1)  # images are decoded in parallel, not the pixels of one
warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, without saying in which file


_WEBP = "a WebP that is damaged, or takes more memory than there is"
_WORDS = {  # Pillow's -> for people
    "could not create decoder object": _WEBP,
    "failed to read next frame": _WEBP,
    "decoder error -2": "damaged: its decoder gave up",
}
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # but those without a segment: TEM and RST
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15; the others are tables
_SCAN, _END = 0xDA, 0xD9
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_TILE_WIDTH, _TILE_LENGTH, _OFFSETS = 322, 323, (273, 324)  # tags of a TIFF; the last: of its strips and tiles
_SHORT, _BYTES = 3, (1, 2, 7)  # types of tags; Pillow keeps the last three as bytes, not as a number each


class UnreadableImageError(DataError):
    """One image file can't be used; the message is the reason."""


def read_image(path: str | Path) -> bytes:
    """What is in an image file of this machine.

    Raises UnreadableImageError with the reason why it can't be read: it is not there, no plain file, over MAX_BYTES.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
            raise UnreadableImageError("a folder" if stat.S_ISDIR(status.st_mode) else "not a plain file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(f"{status.st_size / 1e6:.0f} MB are over {MAX_BYTES / 1e6:.0f} MB")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise UnreadableImageError(getattr(error, "strerror", None) or str(error)) from None


def decode(data: bytes) -> np.ndarray:
    """The picture a person sees: (height, width, 3) uint8 RGB, turned as EXIF says, on white where transparent.

    16-bit images lose their lower 8 bits. Raises UnreadableImageError (no image, truncated, damaged, over a limit).
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _decoded_jpeg(data)
        if data.startswith((b"II", b"MM")):
            _check_tags(data)
        _check_python_loops(data)
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            _check_size(*image.size)
            return _to_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow's, in words for people
        words = first_line(error)
        raise UnreadableImageError(_WORDS.get(words, words)) from None
    except Exception as error:  # a decoder or a reader of EXIF that has met what it did not expect; a lack of memory
        reason = (str(error).splitlines() or [""])[0]
        raise UnreadableImageError(f"can't be decoded ({type(error).__name__}: {reason})") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} is over {MAX_PIXELS // 1_000_000} megapixels")
    if max(width, height) > MAX_SIDE:
        raise UnreadableImageError(f"{width}x{height} is over {MAX_SIDE:,} pixels a side")


def _decoded_jpeg(data: bytes) -> np.ndarray:
    width, height, common = _jpeg_header(data)
    if not common:
        with JpegImageFile(io.BytesIO(data)) as image:
            _check_same(image.size, width, height)
            return _to_rgb(image)
    # twice as fast as Pillow; turns by EXIF itself; None where the file is cut short
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UnreadableImageError("truncated or damaged JPEG")
    _check_same(pixels.shape[:2], width, height)
    return np.asarray(pixels, dtype=np.uint8)


def _check_same(sides: tuple[int, ...], width: int, height: int) -> None:
    if sorted(sides) != sorted((width, height)):
        raise UnreadableImageError(f"damaged JPEG: two readers take it for {width}x{height} and for other sizes")


def _jpeg_header(data: bytes) -> tuple[int, int, bool]:
    """Width, height, and whether it is grey or has three colours of 8 bits each: as libjpeg, which decodes, reads them.

    Like libjpeg's `next_marker` it goes from one marker to the next over whatever is between them, and over segments by
    their lengths: a reader that goes otherwise may see another picture. Raises UnreadableImageError.
    """
    position, kind, frame, scans, width, height, segments = 2, 0, b"", 0, 0, 0, 0
    while (found := _MARKER.search(data, position)) is not None:
        marker, begin = found[0][1], found.end()
        segments += 1
        if segments > MAX_SEGMENTS:
            raise UnreadableImageError(f"a JPEG of more than {MAX_SEGMENTS:,} segments")
        if marker == _END:
            break
        position = begin + max(2, int.from_bytes(data[begin : begin + 2]))
        if marker in _FRAMES:
            if frame:
                raise UnreadableImageError("damaged JPEG: two pictures in one")
            kind, frame = marker, data[begin + 2 : position]
            width, height = int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])
            _check_size(width, height)
        elif marker == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise UnreadableImageError(f"a JPEG of more than {MAX_SCANS} scans")
            if scans == 1 and data.find(b"\xff\xd9", position) == -1:  # decoders would take zeros for pixels
                raise UnreadableImageError("truncated JPEG (it has no end)")
            if kind not in _PROGRESSIVE and data[begin + 2 : begin + 3] == frame[5:6]:  # all colours in one scan
                break
    if len(frame) < 6 or not scans:
        raise UnreadableImageError("truncated or damaged JPEG")
    return width, height, frame[0] == 8 and frame[5] in (1, 3)


def _check_python_loops(data: bytes) -> None:
    """Raises UnreadableImageError where Pillow would go millions of times through a loop in Python."""
    if data.startswith(b"BM") and len(data) > MAX_RLE_BYTES and int.from_bytes(data[30:34], "little") in (1, 2):
        raise UnreadableImageError(f"a run-length coded BMP of more than {MAX_RLE_BYTES / 1e6:.0f} MB")
    position, chunks = 8, 0
    while data.startswith(b"\x89PNG") and position < len(data) and data[position + 4 : position + 8] != b"IEND":
        position, chunks = position + 12 + int.from_bytes(data[position : position + 4]), chunks + 1
        if chunks > MAX_CHUNKS + len(data) // CHUNK_BYTES:
            raise UnreadableImageError(f"a PNG of more than {chunks - 1:,} chunks")


def _check_tags(data: bytes) -> None:
    """Raises UnreadableImageError where a TIFF would take memory that is not in proportion to its pixels.

    libtiff makes room for a whole tile, however small the picture is; and it takes the first of two equal tags, Pillow
    the last. So the largest counts.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    big = number(2, 2) == 43  # BigTIFF
    wide, entry = (8, 20) if big else (4, 12)
    start = number(wide, wide)
    first = start + (8 if big else 2)
    last = min(first + number(start, first - start) * entry, len(data))
    tiles = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for at in range(first, last, entry):
        tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, wide)
        if count > MAX_TAG_VALUES and (kind not in _BYTES or tag in _OFFSETS):
            raise UnreadableImageError(f"a TIFF whose tag {tag} has {count} values")
        if tag in tiles:
            tiles[tag] = max(tiles[tag], number(at + 4 + wide, 2 if kind == _SHORT else wide))
    if tiles[_TILE_WIDTH] * tiles[_TILE_LENGTH] > MAX_PIXELS:
        size = f"{tiles[_TILE_WIDTH]}x{tiles[_TILE_LENGTH]}"
        raise UnreadableImageError(f"a TIFF with tiles of {size}: over {MAX_PIXELS // 1_000_000} megapixels")


def square(image: np.ndarray, side: int) -> np.ndarray:
    """(height, width, 3) -> (side, side, 3): the middle square, scaled.

    It is halved by averaging while it is at least twice as large, then scaled bilinearly, so that every pixel counts:
    one step of INTER_AREA would take longer than decoding. Bicubic where it is smaller than `side`.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    middle = image[top : top + shorter, left : left + shorter]
    while len(middle) >= 2 * side:
        half = len(middle) // 2
        middle = cv2.resize(middle[: 2 * half, : 2 * half], (half, half), interpolation=cv2.INTER_AREA)
    return cv2.resize(middle, (side, side), interpolation=cv2.INTER_LINEAR if shorter > side else cv2.INTER_CUBIC)


def _to_rgb(image: Image.Image) -> np.ndarray:
    ImageOps.exif_transpose(image, in_place=True)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, ROWS):  # all rows at once would be four times in memory
        bottom = min(top + ROWS, image.height)
        pixels[top:bottom] = _rows_to_rgb(image.crop((0, top, image.width, bottom)))
    return pixels


def _rows_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: 65535 is white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":  # floating-point TIFF: 1.0 is white
        image = Image.fromarray((np.nan_to_num(np.asarray(image)).clip(0, 1) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture)
    return np.asarray(image.convert("RGB"))

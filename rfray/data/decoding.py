"""bytes of an image file -> the picture that a person sees, as an array; and the array in another size."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rfray.errors import DataError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow may open: its other readers are not for untrusted files."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings (any case) of the files that are taken for images."""
ADOBE = 0xEE
"""The marker of a JPEG whose colours may not be YCbCr (Adobe's application segment, APP14)."""
MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a PNG of 190 kB can decode to 588 MB. Cameras make 24 to 45."""

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS comes first, with a message of our own
cv2.setNumThreads(1)  # images are decoded in parallel, not the pixels of one
warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, without saying in which file


class UnreadableImageError(DataError):
    """One image file can't be used; the message is the reason."""


def decode(data: bytes) -> np.ndarray:
    """The picture a person sees: (height, width, 3) uint8 RGB, turned as EXIF says, on white where transparent.

    16-bit images lose their lower 8 bits. Raises UnreadableImageError (no image, truncated, over MAX_PIXELS).
    """
    try:
        header = _jpeg_header(data)
        if header is not None:
            return _decode_jpeg(data, *header)
        stream = io.BytesIO(data)
        with Image.open(stream, formats=IMAGE_FORMATS) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return _decode_jpeg(data, *image.size, stream.tell())
            _check_size(*image.size)
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, cv2.error) as error:  # Pillow's and OpenCV's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableImageError(reason) from None


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


def _jpeg_header(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and the length of the header (ITU T.81, annex B) of a JPEG that can only be grey or YCbCr.

    None for anything else, which Pillow then opens. This saves Pillow's header, a tenth of the time of decoding 256 px.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    width = height = channels = 0
    position = 2
    while position + 10 <= len(data):
        begin, marker, length = data[position], data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if begin != 0xFF or length < 2 or not 0xC0 <= marker < 0xFF or marker == ADOBE:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame
            if channels:
                return None
            height, width = (int.from_bytes(data[position + at : position + at + 2]) for at in (5, 7))
            channels = data[position + 9]
        position += 2 + length
        if marker == 0xDA:  # a scan
            return (width, height, position) if channels in (1, 3) and width and height else None
    return None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} is over {MAX_PIXELS // 1_000_000} megapixels")


def _decode_jpeg(data: bytes, width: int, height: int, header: int) -> np.ndarray:
    _check_size(width, height)
    if data.find(b"\xff\xd9", header) == -1:
        raise UnreadableImageError("truncated JPEG (it has no end)")  # decoders take zeros for pixels
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

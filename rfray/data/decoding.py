"""bytes of an image file -> the picture that a person sees, as an array; and the array in another size."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from rfray.errors import DataError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow may open: its other readers are not for untrusted files."""
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings (any case) of the files that are taken for images."""
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
        stream = io.BytesIO(data)
        is_jpeg = data.startswith(b"\xff\xd8\xff")
        with JpegImageFile(stream) if is_jpeg else Image.open(stream, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(f"{width}x{height} is over {MAX_PIXELS // 1_000_000} megapixels")
            if not is_jpeg or image.mode not in ("RGB", "L"):
                return _to_rgb(ImageOps.exif_transpose(image))
            if data.find(b"\xff\xd9", stream.tell()) == -1:  # behind the header, which may have an image inside
                raise UnreadableImageError("truncated JPEG (it has no end)")  # decoders take zeros for pixels
        # twice as fast as Pillow; turns by EXIF itself; None where the file is cut short
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise UnreadableImageError("truncated or damaged JPEG")
        return np.asarray(pixels, dtype=np.uint8)
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, cv2.error) as error:  # Pillow's and OpenCV's
        raise UnreadableImageError((str(error).splitlines() or [type(error).__name__])[0]) from None


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
    if image.mode.startswith("I"):  # 16-bit grey: 65535 is white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":  # floating-point TIFF: 1.0 is white
        image = Image.fromarray((np.nan_to_num(np.asarray(image)).clip(0, 1) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture)
    return np.asarray(image.convert("RGB"))

"""a decoded picture -> the same as it may reach a detector: compressed, scaled down and back, blurred, noisy.

A corruption (Hendrycks and Dietterich 2019) is applied to the picture as its file has it, at full resolution;
`data.reencode` and the geometry follow. They belong to the detector, and its input is a corrupted file.
"""

import zlib
from functools import partial

import cv2
import numpy as np

from rfray.data.geometry import reencoded

FAMILIES: dict[str, tuple[int, ...]] = {
    "jpeg": (90, 70, 50, 30),
    "scale": (75, 50, 25),
    "blur": (1, 2, 4),
    "noise": (5, 10, 20),
}
"""Kind of corruption -> its strengths, mildest first: quality of the JPEG encoder; per cent that a picture is scaled
down to, and back; standard deviation of a Gaussian blur, in pixels; standard deviation of Gaussian noise, of 255.
From hardly visible to as strong as social networks and small thumbnails make it: rfray's own choice."""


def scaled(percent: int, picture: np.ndarray) -> np.ndarray:
    """Scaled down to so many per cent by averaging, and back by bicubic interpolation."""
    height, width = picture.shape[:2]
    small = (max(1, round(width * percent / 100)), max(1, round(height * percent / 100)))
    smaller = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def blurred(sigma: int, picture: np.ndarray) -> np.ndarray:
    """Blurred by a Gaussian with this standard deviation, in pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.uint8)


def noisy(sigma: int, picture: np.ndarray) -> np.ndarray:
    """With Gaussian noise of this standard deviation (of 255) on every channel; the same for the same picture."""
    cv2.setRNGSeed(zlib.crc32(np.ascontiguousarray(picture).data) >> 1)  # an int, of this thread's generator alone
    noise = np.empty(picture.shape, np.int16)
    cv2.randn(noise, np.zeros(3), np.full(3, float(sigma)))
    return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), dtype=np.uint8)


FUNCTIONS = {"jpeg": reencoded, "scale": scaled, "blur": blurred, "noise": noisy}
"""Family -> what it makes, at a strength, of a picture."""

CORRUPTIONS = {
    f"{family}_{strength}": partial(FUNCTIONS[family], strength)
    for family, strengths in FAMILIES.items()
    for strength in strengths
}
"""Name in files and columns (jpeg_90) -> corruption: (height, width, 3) uint8 RGB -> a new array of the same kind."""

CORRUPTION_NAMES = tuple(CORRUPTIONS)

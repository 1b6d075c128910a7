"""a decoded picture -> the pixels that the cache keeps of it -> the square that a model gets."""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from rfray.data.decoding import square
from rfray.spec.sweep import Reencode, Sweep
from rfray.spec.trial import Trial


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a square of S x S pixels. Trials with the same `key` share a file of decoded pixels."""

    resize: str
    """scale: the shorter edge is scaled to S; crop: a window of S x S is cut out, no pixel changed."""
    side: int
    """S, in pixels."""
    reencode: Reencode | None

    @property
    def key(self) -> str:
        """Stands for what `stored` makes of a picture; not for the size of a window, which is cut from it later."""
        size = f"scale{self.side}" if self.resize == "scale" else "whole"
        return size if self.reencode is None else f"{size}-jpeg{self.reencode.quality}at{self.reencode.size}"

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what `stored` makes of a picture of this size."""
        if self.resize == "scale":
            return self.side, self.side
        return (width, height) if self.reencode is None else (self.reencode.size, self.reencode.size)

    def stored(self, picture: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 RGB -> the pixels that the cache keeps of it, of the same type."""
        if self.reencode is not None:
            picture = reencoded(self.reencode.quality, square(picture, self.reencode.size))
        return square(picture, self.side) if self.resize == "scale" else picture

    def window(self, stored: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
        """The kept pixels -> (S, S, 3): a window at random coordinates, or the middle one without `generator`.

        A picture smaller than the window is extended by its mirror image, which changes no pixel of it.
        """
        if self.resize == "scale":
            return stored
        height, width = stored.shape[:2]
        below, right = max(0, self.side - height), max(0, self.side - width)
        if below or right:
            borders = below // 2, below - below // 2, right // 2, right - right // 2
            stored = cv2.copyMakeBorder(stored, *borders, cv2.BORDER_REFLECT)
        free = np.array(stored.shape[:2]) - self.side
        top, left = free // 2 if generator is None else generator.integers(0, free + 1)
        return stored[top : top + self.side, left : left + self.side]

    def square(self, picture: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 RGB -> (S, S, 3): the input of a model that predicts it."""
        return self.window(self.stored(picture), None)

    def seen(self, width: int, height: int) -> float:
        """Side, in pixels of the picture, of the square around its middle that the middle `window` shows.

        It is larger than the picture where the window is.
        """
        shorter = min(width, height)
        if self.resize == "scale":
            return shorter
        return self.side if self.reencode is None else self.side * shorter / self.reencode.size


HASHED_SIDE = 32
"""Side, in pixels, of the square that imagehash's phash works on."""


def hashed_square(picture: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 RGB -> (32, 32) uint8, grey: what a perceptual hash is made of."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(Image.fromarray(grey).resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS))


def geometry_of(trial: Trial, reencode: Reencode | None) -> Geometry:
    """The geometry of a trial's images, in a sweep or a bundle with this `reencode`."""
    return Geometry(trial.resize, trial.image_size, reencode)


def reencoded(quality: int, picture: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 RGB -> the same after JPEG of a quality (1 to 100; OpenCV's tables, chroma halved)."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def geometries(sweep: Sweep) -> list[Geometry]:
    """The geometries of a sweep's trials, one for each `key`.

    Of a range of image sizes only the smallest: the others are made when a trial has one of them.
    """
    sizes = sweep.trial.image_sizes(0)
    found = [Geometry(resize, side, sweep.data.reencode) for resize in sweep.trial.choices("resize") for side in sizes]
    return list({geometry.key: geometry for geometry in found}.values())

"""a decoded picture -> what is kept of it for training, and -> the square that a model sees."""

from dataclasses import dataclass

import cv2
import numpy as np

from rfray.data.decoding import square
from rfray.spec.sweep import DataSettings, Reencode, Sweep
from rfray.spec.trial import Trial
from rfray.store.bundle_record import Bundle, Member


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a square of S x S pixels: what every trial with the same one can share."""

    resize: str
    """scale: the shorter edge is scaled to S; crop: a window of S x S is cut out, no pixel changed."""
    side: int
    """S, in pixels."""
    reencode: Reencode | None

    @property
    def key(self) -> str:
        """Names what `stored` makes of a picture. Windows of any size are cut from the same."""
        size = f"scale{self.side}" if self.resize == "scale" else "whole"
        return size if self.reencode is None else f"{size}-jpeg{self.reencode.quality}at{self.reencode.size}"

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what `stored` makes of a picture of this size."""
        if self.resize == "scale":
            return self.side, self.side
        return (width, height) if self.reencode is None else (self.reencode.size, self.reencode.size)

    def stored(self, picture: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 RGB -> what is kept of it."""
        if self.reencode is not None:
            picture = reencoded(square(picture, self.reencode.size), self.reencode.quality)
        return square(picture, self.side) if self.resize == "scale" else picture

    def window(self, stored: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
        """What is kept -> (S, S, 3): a window at a random place, or the middle one without `generator`.

        A picture smaller than the window is continued by its mirror image, which leaves the traces in it alone.
        """
        if self.resize == "scale":
            return stored
        height, width = stored.shape[:2]
        below, right = max(0, self.side - height), max(0, self.side - width)
        if below or right:
            stored = cv2.copyMakeBorder(
                stored, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REFLECT
            )
        free = np.array(stored.shape[:2]) - self.side
        top, left = free // 2 if generator is None else generator.integers(0, free + 1)
        return stored[top : top + self.side, left : left + self.side]

    def square(self, picture: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 RGB -> (S, S, 3): what a model sees of it when it predicts."""
        return self.window(self.stored(picture), None)

    def seen(self, width: int, height: int) -> float:
        """Side, in its own pixels, of the square around a picture's middle that the middle `window` shows.

        It reaches beyond the picture where the window is larger.
        """
        shorter = min(width, height)
        if self.resize == "scale":
            return shorter
        return self.side if self.reencode is None else self.side * shorter / self.reencode.size


def geometry_of(settings: DataSettings, trial: Trial) -> Geometry:
    """How a trial's images are made."""
    return Geometry(trial.resize, trial.image_size, settings.reencode)


def geometry_of_member(bundle: Bundle, member: Member) -> Geometry:
    """How a member wants its pictures."""
    return Geometry(member.trial.resize, member.trial.image_size, bundle.reencode)


def reencoded(picture: np.ndarray, quality: int) -> np.ndarray:
    """What a JPEG of this quality (1 to 100, OpenCV's tables, chroma halved) makes of (height, width, 3) uint8 RGB."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def geometries(sweep: Sweep) -> list[Geometry]:
    """What the trials' images are made into, each that differs in what is kept of a picture once.

    Of a range of image sizes the smallest alone: the others are made when a trial asks for them.
    """
    axes = sweep.trial.axes()
    sizes = axes.get("image_size", sweep.trial.choices("image_size"))
    sides = sizes if isinstance(sizes, list) else [int(sizes.bounds[0])]
    all_of_them = [Geometry(way, side, sweep.data.reencode) for way in sweep.trial.choices("resize") for side in sides]
    return list({geometry.key: geometry for geometry in all_of_them}.values())

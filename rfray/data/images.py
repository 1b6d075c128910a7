"""the paths of a data folder -> its pictures, each decoded when it is asked for; and the images of one part."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from rfray.data.decoding import UnreadableImageError, decode
from rfray.data.geometry import Geometry
from rfray.data.remote_images import RemoteFolder
from rfray.errors import DataError


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
        path, reason = self.folder / self.paths[row], "other content"
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == self.digests[row]:
                picture = decode(data)
                return picture if self.geometry is None else self.geometry.stored(picture)
        except OSError as error:
            reason = error.strerror or str(error)
        except UnreadableImageError as error:
            reason = str(error)
        raise DataError(
            f"{path} has changed since the sweep began ({reason}); put it back, or start anew with `rfray tune --fresh`"
        )


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

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, positions: slice | np.ndarray) -> "Images":
        """The images at some positions, in that order."""
        return replace(self, rows=self.rows[positions], labels=self.labels[positions], ids=self.ids[positions])

    def batch(self, chosen: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """(B, S, S, 3) uint8 of the images at the positions `chosen`; `generator` draws windows (see Geometry)."""
        side = self.geometry.side
        pixels = np.empty((len(chosen), side, side, 3), np.uint8)
        for position, row in enumerate(self.rows[chosen].tolist()):
            pixels[position] = self.geometry.window(self.source.picture(row), generator)
        return pixels

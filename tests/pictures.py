"""Small real images for tests: noise is real, noise with a checkerboard on it is fake."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rfray.data.geometry import Geometry
from rfray.data.images import Images

SIDE = 32


def picture(fake: bool, generator: np.random.Generator) -> np.ndarray:
    """(32, 32, 3) uint8."""
    pixels = generator.integers(60, 190, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    if fake:
        rows, columns = np.indices((SIDE, SIDE))
        pixels = pixels + 40 * (((rows + columns) % 2)[..., None] * 2 - 1)
    return pixels.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class InMemory:
    """A source of pictures: an array, (n, S, S, 3) uint8."""

    pixels: np.ndarray

    def picture(self, row: int) -> np.ndarray:
        return self.pixels[row]


def images_in_memory(pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> Images:
    """The images at these rows of (n, S, S, 3) uint8 pixels."""
    return Images(InMemory(pixels), Geometry("scale", pixels.shape[1], None), rows, labels, ids)


def write_folder(folder: Path, per_class: int, seed: int) -> None:
    """Writes {real,fake}/<number>.bmp: files of one size and kind, so that they don't give the label away."""
    generator = np.random.default_rng(seed)
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(picture(name == "fake", generator)).save(folder / name / f"{number:03d}.bmp")

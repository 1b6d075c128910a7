"""Random numbers -> folders of JPEG files, as many and as large as a benchmark needs, and no two of them alike."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

QUALITY = 90
SHAPES = 12
"""Ellipses in a picture: edges, as things have."""


def write_pictures(folder: Path, count: int, side: int = 256) -> Path:
    """Writes {real,fake}/<number>.jpg, `count` square images in all; returns `folder`.

    The fakes went through half the size and back. The same arguments give the same images.
    """
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)

    def write(number: int) -> None:
        generator = np.random.default_rng([side, number])
        picture, name = _picture(side, generator), "real"
        if number % 2:
            picture, name = cv2.resize(cv2.resize(picture, (side // 2, side // 2)), (side, side)), "fake"
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        (folder / name / f"{number:05d}.jpg").write_bytes(data.tobytes())

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    return folder


def _picture(side: int, generator: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8: ellipses on clouds, whose spectrum falls with frequency as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(generator.normal(size=(3, side, side))) / frequency
    clouds = np.fft.irfft2(waves, s=(side, side)).transpose(1, 2, 0)
    picture = np.ascontiguousarray((128 + 40 * clouds / clouds.std()).clip(0, 255).astype(np.uint8))
    for _ in range(SHAPES):
        centre, axes = generator.integers(0, side, 2).tolist(), generator.integers(side // 30, side // 5, 2).tolist()
        colour = generator.integers(0, 256, 3).tolist()
        cv2.ellipse(picture, centre, axes, float(generator.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    noise = generator.integers(-3, 4, picture.shape, dtype=np.int8)  # a camera's
    return (picture + noise.astype(np.int16)).clip(0, 255).astype(np.uint8)

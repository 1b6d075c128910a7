"""Two photographs that scikit-learn ships -> folders of JPEG files, as many and as large as a benchmark needs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

QUALITY = 90
CROPS = (160, 400)
"""Smallest and largest side, in pixels of the photograph, of what an image shows."""


def write_pictures(folder: Path, count: int, side: int = 256) -> Path:
    """Writes {real,fake}/<number>.jpg, `count` square images in all, no two alike; returns `folder`.

    The fakes went through half the size and back. The same arguments give the same images.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)

    def write(number: int) -> None:
        generator = np.random.default_rng([side, number])
        crop = _crop(photographs[number // 2 % len(photographs)], side, generator)
        name = "real"
        if number % 2:
            name, crop = "fake", cv2.resize(cv2.resize(crop, (side // 2, side // 2)), (side, side))
        _, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        (folder / name / f"{number:05d}.jpg").write_bytes(data.tobytes())

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    return folder


def _crop(photograph: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8: a random part of the photograph, mirrored half of the time, with a camera's noise."""
    extent = int(generator.integers(*CROPS))
    top, left = (int(generator.integers(0, length - extent + 1)) for length in photograph.shape[:2])
    crop = photograph[top : top + extent, left : left + extent, :: generator.choice([-1, 1])]
    scaled = cv2.resize(np.ascontiguousarray(crop), (side, side), interpolation=cv2.INTER_CUBIC)
    noise = generator.integers(-3, 4, scaled.shape, dtype=np.int8)
    return (scaled + noise.astype(np.int16)).clip(0, 255).astype(np.uint8)

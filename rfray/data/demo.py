"""two photographs that scikit-learn ships -> the demo data set: a folder of real and up-sampled ("fake") 96 px crops.

Generators make images by up-sampling, which leaves no fine detail and a pattern repeated with every pixel of the small
image (Zhang, Karaman and Chang 2019, "Detecting and Simulating Artifacts in GAN Fake Images"). The fakes imitate it:
crops scaled to half the size and back, then mixed with the original crop, as a swapped face is blended into its
photograph. Real and fake crops have the same tiles, texture rule and JPEG encoding, so that neither content nor format
tells them apart. Train and test share no pixel.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image

Upsample = Callable[[np.ndarray, np.random.Generator], np.ndarray]

DEMO_NAME = "demo-v2"
"""A change to anything below needs a new version: the images of the old one may be in a user's cache."""
SEED = 0
SIZE = 96
"""Height and width of a crop in pixels: two cores train lcnet_050 on 400 of them in a second."""
PER_TILE = 34
"""Crops of each class from each tile: train has about a thousand images then."""
MIN_TEXTURE = 150.0
"""Least variance of the Laplacian of a crop's grey values (0 to 255): sky and blur look the same real and fake."""
UPSAMPLED_SHARE = (0.5, 1.0)
"""Least and greatest weight of the up-sampled image in a fake, drawn evenly; the original crop has the rest."""
JPEG_QUALITY = (70, 95)
"""Lowest and highest quality, drawn evenly for every crop, real or fake: what websites use."""
KERNEL_NOISE = 0.03
"""Relative standard deviation of the weights of the transposed convolution: its checkerboard is barely visible."""
TILES = {
    "china.jpg": ("121..", "11112", "12111"),
    "flower.jpg": ("..1..", ".112.", "..1.."),
}
"""Photograph -> its tiles, row by row: 1 for train, 2 for test, a dot where there is too little texture."""


def make_demo(folder: Path) -> Path:
    """Writes the demo data set below `folder`, unless it is there already, and returns its own folder.

    The folder holds {train,test}/{real,fake}/<tile>/<number>.jpg: 34 crops of each class from each of 14 tiles in train
    and 4 others in test. The same versions of NumPy, OpenCV and Pillow write the same bytes every time. Several
    processes may call it at once; one that is killed leaves a folder of another name, which the next call removes.
    """
    finished = folder.absolute() / DEMO_NAME
    if not finished.exists():
        finished.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(finished.with_name(f".{DEMO_NAME}.lock")):
            if not finished.exists():  # else another process was faster
                unfinished = finished.with_name(f".{DEMO_NAME}.part")
                shutil.rmtree(unfinished, ignore_errors=True)
                _write(unfinished)
                os.replace(unfinished, finished)
    return finished


def texture(image: np.ndarray) -> float:
    """Variance of the Laplacian of the grey values (0 to 255) of an RGB image, uint8 (height, width, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _write(folder: Path) -> None:
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(SEED)
    for name, rows in TILES.items():
        photograph = load_sample_image(name)
        height, width = photograph.shape[0] // len(rows), photograph.shape[1] // len(rows[0])
        for row, column in np.ndindex(len(rows), len(rows[0])):
            part = {"1": "train", "2": "test"}.get(rows[row][column])
            if part is not None:
                tile = photograph[row * height : (row + 1) * height, column * width : (column + 1) * width]
                for label, number, crop in _crops(tile, rng):
                    path = folder / part / label / f"{Path(name).stem}-{row}-{column}" / f"{number:02}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    quality = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
                    Image.fromarray(crop).save(path, quality=quality)


def _crops(tile: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, int, np.ndarray]]:
    """PER_TILE real and as many fake crops of one tile, each from a corner of its own: class, number, crop."""
    rows, columns = tile.shape[0] - SIZE + 1, tile.shape[1] - SIZE + 1
    corners = (divmod(int(corner), columns) for corner in rng.permutation(rows * columns))
    crops = (tile[top : top + SIZE, left : left + SIZE] for top, left in corners)
    textured = (crop for crop in crops if texture(crop) > MIN_TEXTURE)
    methods = list(UPSAMPLING.values())
    for number in range(PER_TILE):
        yield "real", number, next(textured)
        crop = next(textured)
        small = cv2.resize(crop, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
        share = rng.uniform(*UPSAMPLED_SHARE)
        upsampled = methods[number % len(methods)](small, rng)
        yield "fake", number, cv2.addWeighted(upsampled, share, crop, 1 - share, 0)


def _resized(interpolation: int) -> Upsample:
    return lambda small, rng: cv2.resize(small, None, fx=2, fy=2, interpolation=interpolation)


def _transposed_convolution(small: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stride 2, kernel 4x4: bilinear weights made a little uneven, so that a faint checkerboard appears."""
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) * (1 + KERNEL_NOISE * rng.standard_normal((4, 4)))
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.float64)
    spread = np.zeros((2 * padded.shape[0], 2 * padded.shape[1], 3))
    spread[::2, ::2] = padded
    large = cv2.filter2D(spread, -1, 4 * weights / weights.sum(), anchor=(2, 2))[2:-2, 2:-2]
    return np.asarray(np.clip(np.rint(large), 0, 255), dtype=np.uint8)


UPSAMPLING: dict[str, Upsample] = {
    "nearest": _resized(cv2.INTER_NEAREST),
    "bilinear": _resized(cv2.INTER_LINEAR),
    "bicubic": _resized(cv2.INTER_CUBIC),
    "transposed convolution": _transposed_convolution,
}
"""Name -> function of a small RGB image, uint8 (h, w, 3), and a generator: the image at twice the size."""

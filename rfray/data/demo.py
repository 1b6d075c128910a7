"""two photographs that scikit-learn ships -> the demo data set: a folder of real and up-sampled ("fake") 96 px crops.

A generator makes its images by up-sampling, and up-sampling leaves a trace: no fine detail, and a pattern that repeats
with every pixel of the smaller image. Zhang, Karaman and Chang, "Detecting and Simulating Artifacts in GAN Fake Images"
(2019), imitate generators by it. So do the fakes here: crops that were scaled to half the size and back, then mixed
with the original crop, as a swapped face is blended into its photograph.
Real and fake crops come from the same tiles of the photographs, in the same numbers, with the same texture rule and the
same JPEG encoding, so that neither content nor format tells them apart. Train and test share no pixel.
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
    "china.jpg": (
        "121..",
        "11112",
        "12111",
    ),
    "flower.jpg": (
        "..1..",
        ".112.",
        "..1..",
    ),
}
"""Photograph -> its tiles, row by row: 1 for train, 2 for test, a dot where there is too little texture."""


def make_demo(folder: Path) -> Path:
    """Writes the demo data set below `folder`, unless it is there already, and returns its own folder.

    The folder holds {train,test}/{real,fake}/<tile>/<number>.jpg: RGB, 96x96 pixels, 34 crops of each class from each
    tile, 952 crops from 14 tiles in train and 272 from 4 others in test. A tile's name is the same in real and fake.
    The same versions of NumPy, OpenCV and Pillow write the same bytes every time. Several processes may call it at
    once; one that is killed leaves a folder of another name, which the next call removes.
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
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(SEED)
    shipped = load_sample_images()
    photographs = {Path(path).name: image for path, image in zip(shipped.filenames, shipped.images, strict=True)}
    for name, rows in TILES.items():
        height, width = photographs[name].shape[0] // len(rows), photographs[name].shape[1] // len(rows[0])
        for row, column in np.ndindex(len(rows), len(rows[0])):
            part = {"1": "train", "2": "test"}.get(rows[row][column])
            if part is not None:
                tile = photographs[name][row * height : (row + 1) * height, column * width : (column + 1) * width]
                _write_tile(folder / part, f"{Path(name).stem}-{row}-{column}", tile, rng)


def _write_tile(part: Path, name: str, tile: np.ndarray, rng: np.random.Generator) -> None:
    """Writes PER_TILE real and as many fake crops of one tile, each from a corner of its own."""
    real, fake = part / "real" / name, part / "fake" / name
    real.mkdir(parents=True)
    fake.mkdir(parents=True)
    crops = _textured_crops(tile, rng)
    methods = list(UPSAMPLING.values())
    for number in range(PER_TILE):
        _save(next(crops), real / f"{number:02}.jpg", rng)
        crop = next(crops)
        small = cv2.resize(crop, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
        share = rng.uniform(*UPSAMPLED_SHARE)
        upsampled = methods[number % len(methods)](small, rng)
        _save(cv2.addWeighted(upsampled, share, crop, 1 - share, 0), fake / f"{number:02}.jpg", rng)


def _textured_crops(tile: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All crops with enough texture, in random order."""
    rows, columns = tile.shape[0] - SIZE + 1, tile.shape[1] - SIZE + 1
    for corner in rng.permutation(rows * columns):
        top, left = divmod(int(corner), columns)
        crop = tile[top : top + SIZE, left : left + SIZE]
        if texture(crop) > MIN_TEXTURE:
            yield crop


def _save(crop: np.ndarray, path: Path, rng: np.random.Generator) -> None:
    low, high = JPEG_QUALITY
    Image.fromarray(crop).save(path, quality=int(rng.integers(low, high + 1)))


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

"""Folders of images -> the time to fill the cache of decoded pixels against that of decoding alone."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from benchmarks.figures import Figure, alternate, timed
from benchmarks.pictures import write_pictures
from rfray.data.decoding import square
from rfray.data.geometry import Geometry
from rfray.data.images import ImageFiles, load_pixels, scan
from rfray.spec.sweep import CacheSettings

SIDE = 224


def cache(folder: Path, rounds: int = 3, images: int = 2000, large_images: int = 200) -> list[Figure]:
    """`scan` and `load` of images of 256 and of 1024 px: both read, check, digest, decode, scale and write."""
    return [
        figure
        for number, side in ((images, 256), (large_images, 1024))
        for figure in _figures(write_pictures(folder / f"{side}", number, side), rounds, f"{number} JPEGs of {side} px")
    ]


def _figures(pictures: Path, rounds: int, what: str) -> list[Figure]:
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    files = [np.frombuffer((pictures / path).read_bytes(), np.uint8) for path in paths]
    geometry = Geometry("scale", SIDE, None)
    settings = CacheSettings(dir=str(pictures / "cache"))
    scanned, _, _ = scan(pictures, paths, [geometry], settings)
    image_files = ImageFiles(pictures, paths, scanned["digest"].tolist(), geometry)
    sizes = scanned[["width", "height"]].to_numpy()

    def anew(build: Callable[[], object]) -> float:
        shutil.rmtree(pictures / "cache")  # before the system begins to write it to the disk
        return timed(build)

    def by_scan() -> float:
        return anew(lambda: scan(pictures, paths, [geometry], settings))

    def by_load() -> float:
        return anew(lambda: load_pixels(image_files, geometry, sizes, settings))

    def decoding() -> float:
        return timed(lambda: decode_all(files))

    def scaling() -> float:
        return timed(lambda: decode_all(files, SIDE))

    return [
        Figure(f"{name} {what} to {SIDE} px", reference, *alternate(build, alone, rounds), least_ratio=goal)
        for name, build in (("scan", by_scan), ("load", by_load))
        for reference, alone, goal in (
            ("decoding and scaling alone", scaling, 0.85),
            ("decoding alone", decoding, None),
        )
    ]


def decode_all(files: Sequence[np.ndarray], side: int | None = None) -> None:
    """Decodes every file, and scales it, with a thread on every core, and keeps nothing."""

    def decode(file: np.ndarray) -> None:
        picture = cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)
        if side is not None:
            square(np.asarray(picture, np.uint8), side)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(decode, files):
            pass

"""Folders of small plain images, for tests of what becomes of data folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rfray.data.catalog import divide, scan_folder
from rfray.data.geometry import Geometry
from rfray.spec.sweep import DataSettings

SIDE = Geometry("scale", 16, None)
LARGER = Geometry("scale", 24, None)
NO_PAIRS = np.empty((0, 2), int)


def write_image(path: Path, number: int) -> None:
    """A plain image; its colour is the number, so that no two are the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (number % 256, number // 256, 7)).save(path, "PNG")


def write_images(folder: Path, count: int, first: int = 0) -> None:
    """Writes 000.png, 001.png, …"""
    for number in range(count):
        write_image(folder / f"{number:03d}.png", first + number)


def write_groups(folder: Path, groups: Sequence[str], each: int, first: int) -> None:
    """Writes `each` images into a subfolder a group."""
    for position, group in enumerate(groups):
        write_images(folder / group, each, first + position * each)


def settings(folder: Path, **more: object) -> DataSettings:
    """Images in train (and valid) below a folder, pixels in cache beside them."""
    given = {"train": str(folder / "train"), "cache": {"dir": str(folder / "cache")}, **more}
    if "test" not in given:
        given.setdefault("test", str(folder / "test"))
    return DataSettings.model_validate(given)


def training(given: DataSettings, seed: int = 0, pairs: np.ndarray = NO_PAIRS, most: int | None = None) -> pd.DataFrame:
    return divide(scan_folder(given, "train", [SIDE]).images, given, seed, pairs, most)


def counts(catalog: pd.DataFrame) -> dict[tuple[str, int], int]:
    return {(str(part), int(label)): int(n) for (part, label), n in catalog.groupby(["part", "label"]).size().items()}


def parts_of(catalog: pd.DataFrame, column: str) -> pd.Series:
    """How many parts the images with the same value are in."""
    return catalog.groupby(column)["part"].nunique()


def two_classes(folder: Path, count: int = 10) -> None:
    write_images(folder / "train/real", count)
    write_images(folder / "train/fake", count, 500)

"""Data folders -> the catalog, a table of every usable image; and from it the images of one part.

Its columns: `path` (str, below its data folder, with /), `folder` (its data folder: train, val or test), `label` (int8:
0 real, 1 fake), `subfolder` (str: below the class folder, may be empty), `part` (train, val, test, or left out),
`group_id` (int: the same for what belongs together), `digest` (SHA-256 of the file), `width`, `height` (pixels), `size`
(bytes) and `modified` (nanoseconds), by which a later command notices that the folder has changed.

A path alone names no image: the same one may be in several folders.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from rfray.data.fingerprints import fingerprint, to_table
from rfray.data.folders import drawn, image_folder, list_images
from rfray.data.geometry import Geometry
from rfray.data.images import ImageFiles, Images, PictureSource
from rfray.data.pixel_cache import load_pixels, scan
from rfray.errors import DataError
from rfray.spec.sweep import CLASSES, DataSettings

COLUMNS = [
    *("path", "folder", "label", "subfolder", "part", "group_id"),
    *("digest", "width", "height", "size", "modified"),
]


@dataclass(frozen=True)
class Scanned:
    """One data folder, read through."""

    images: pd.DataFrame
    """The usable images, ordered by path: COLUMNS without part and group_id, and those of `fingerprints.to_table`."""
    unreadable: pd.DataFrame
    """The left-out ones: path, reason, folder, size, modified."""
    cached: bool
    """Whether all decoded pixels fitted into the cache."""
    there: int
    """How many images the folder has; more than were read, where only some were drawn."""


def scan_folder(
    settings: DataSettings, folder: str, geometries: Sequence[Geometry], most: int | None = None
) -> Scanned:
    """Lists and reads (at most so many images of) a data folder, each once; pixels go to the cache on the way.

    Raises DataError: folders or classes missing or empty, given twice, too much unreadable.
    """
    _check_distinct(settings)
    there = list_images(settings, folder)
    listed = drawn(there, most).assign(folder=folder)
    where = image_folder(settings, folder)
    files, prints, cached = scan(where, listed["path"].tolist(), geometries, settings.cache, fingerprint)
    reasons = pd.Series([file.reason for file in files], index=listed.index, dtype=object)
    bad = reasons.notna()
    unreadable = listed.loc[bad, ["path", "folder", "size", "modified"]].assign(reason=reasons[bad])
    if bad.mean() > settings.max_unreadable:
        raise DataError(
            f"{where}: {bad.sum()} of {len(listed)} files can't be read, more than data.max_unreadable "
            f"({100 * settings.max_unreadable:g} %) allows:\n  "
            + "\n  ".join(f"{row.path}: {row.reason}" for row in unreadable.head(10).itertuples())
        )
    seen = to_table(prints)
    for name in ("digest", "width", "height"):
        seen[name] = [getattr(file, name) for file in files if file.reason is None]
    images = pd.concat([listed[~bad].reset_index(drop=True), seen], axis=1)
    for label, name in enumerate(CLASSES):
        if not (images["label"] == label).any():
            raise DataError(f"{where}: no readable image of class {name}")
    return Scanned(images, unreadable.reset_index(drop=True), cached, len(there))


def load_images(catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry) -> Images:
    """The images of one part, from the node's cache (made there if it is missing).

    Raises DataError where a file is not what the catalog says.
    """
    here = catalog[catalog["folder"] == _folder_of(catalog, part)]
    source = load_folder(here, settings, geometry)
    rows = np.flatnonzero((here["part"] == part).to_numpy())
    chosen = here.iloc[rows]
    return Images(source, geometry, rows, chosen["label"].to_numpy(), chosen["path"].to_numpy(dtype=np.str_))


def load_folder(images: pd.DataFrame, settings: DataSettings, geometry: Geometry) -> PictureSource:
    """The pictures of all images of one data folder, in their order (folder, path, digest, width, height)."""
    sizes = list(zip(images["width"], images["height"], strict=True))
    paths, digests = images["path"].tolist(), images["digest"].tolist()
    return load_pixels(
        image_folder(settings, images["folder"].iloc[0]), paths, digests, sizes, geometry, settings.cache
    )


def decode_images(
    catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry, ids: list[str]
) -> Images:
    """A few images of one part, in the order of `ids`, each decoded from its file whenever it is asked for."""
    chosen = catalog[catalog["part"] == part].set_index("path").loc[ids]
    files = ImageFiles(image_folder(settings, _folder_of(catalog, part)), ids, chosen["digest"].tolist(), geometry)
    return Images(files, geometry, np.arange(len(ids)), chosen["label"].to_numpy(), np.array(ids, dtype=np.str_))


def original_pictures(catalog: pd.DataFrame, settings: DataSettings, part: str) -> PictureSource:
    """The pictures of one part at full resolution, in the order of the catalog, each decoded when it is asked for."""
    chosen = catalog[catalog["part"] == part]
    folder = image_folder(settings, _folder_of(catalog, part))
    return ImageFiles(folder, chosen["path"].tolist(), chosen["digest"].tolist(), None)


def part_digest(catalog: pd.DataFrame, part: str) -> str:
    """Sixteen hex digits that change with the images of a part, their names or their labels."""
    chosen = catalog.loc[catalog["part"] == part, ["path", "label", "digest"]]
    return hashlib.sha256(chosen.to_csv(index=False).encode()).hexdigest()[:16]


def _folder_of(catalog: pd.DataFrame, part: str) -> str:
    return str(catalog.loc[catalog["part"] == part, "folder"].iloc[0])


def _check_distinct(settings: DataSettings) -> None:
    """Raises DataError where an image would be in two data folders."""
    given = {part: folder for part in ("train", "val", "test") if (folder := settings.folder(part)) is not None}
    names = [name for names in settings.class_folders().values() for name in names]
    for (one, first), (other, second) in combinations(given.items(), 2):
        for name, other_name in product(names, names):
            here, there = Path(first, name).resolve(), Path(second, other_name).resolve()
            if here.is_relative_to(there) or there.is_relative_to(here):
                raise DataError(
                    f"data.{one} ({first}) and data.{other} ({second}) share images: "
                    f"{here} and {there} are the same folder, or one is inside the other"
                )

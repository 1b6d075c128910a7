"""Data folders -> the catalog, a table of every usable image, divided into parts; and from it the images of one part.

Its columns: `path` (str, below its data folder, with /), `folder` (its data folder: train, val, test, or test-<name>
of a further test set), `label` (int8: 0 real, 1 fake), `subfolder` (str: below the class folder, may be empty),
`source` (str: the generator of a fake, the origin of a photograph, may be empty), `part` (train, val, test,
test-<name>, or left out), `group_id` (int: the same for what belongs together), `digest` (SHA-256 of the file),
`width`, `height` (pixels), `size` (bytes) and `modified` (nanoseconds), by which a later command notices that the
folder has changed.

A path alone names no image: the same one may be in several folders.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from rfray.data.fingerprints import Fingerprint, fingerprint
from rfray.data.folders import check_distinct, drawn, image_folder, list_images
from rfray.data.geometry import Geometry
from rfray.data.held_out import held_out_parts
from rfray.data.images import ImageFiles, Images, PictureSource, load_pixels, scan
from rfray.data.listing import PassedOver
from rfray.data.near_duplicates import linked_groups
from rfray.data.sources import sources
from rfray.errors import DataError
from rfray.spec.sweep import CLASSES, DataSettings
from rfray.store.run_dir import UNREADABLE

GROUPS_NEEDED = 10
"""`split_by: auto` keeps subfolders together where every class has so many: the usual 0.15 for val is one or more."""
BY_IMAGE = "or set data.split_by: image, as subfolders stay together"


@dataclass(frozen=True)
class Scanned:
    """One data folder, read through."""

    images: pd.DataFrame
    """The usable images, ordered by path: CATALOG without part and group_id, and the fields of Fingerprint."""
    unreadable: pd.DataFrame
    """The left-out ones: path, reason, folder, size, modified."""
    cached: bool
    """Whether all decoded pixels fitted into the cache."""
    there: int
    """How many images the folder has; more than were read, where only some were drawn."""
    passed: PassedOver
    """What else is in it."""


def scan_folder(
    settings: DataSettings, folder: str, geometries: Sequence[Geometry], most: int | None = None
) -> Scanned:
    """Lists and reads (at most so many images of) a data folder, each once; pixels go to the cache on the way.

    Raises DataError: folders or classes missing or empty, given twice, too much unreadable.
    """
    check_distinct(settings)
    passed = PassedOver()
    there = list_images(settings, folder, passed)
    listed = drawn(there, most).assign(folder=folder)
    where = image_folder(settings, folder)
    files, prints, cached = scan(where, listed["path"].tolist(), geometries, settings.cache, fingerprint)
    read, bad = pd.concat([listed, files], axis=1), files["reason"].notna()
    unreadable = read.loc[bad, UNREADABLE].reset_index(drop=True)
    check_unreadable(settings, folder, unreadable, len(listed))
    stored = pd.DataFrame(prints, columns=Fingerprint._fields)
    images = read[~bad].drop(columns="reason").reset_index(drop=True).join(stored)
    images = images.assign(source=sources(images, settings))
    for label, name in enumerate(CLASSES):
        if not (images["label"] == label).any():
            raise DataError(f"{where}: no readable image of class {name}")
    return Scanned(images, unreadable, cached, len(there), passed)


def check_unreadable(settings: DataSettings, folder: str, unreadable: pd.DataFrame, count: int) -> None:
    """Raises DataError where more of the `count` files of a data folder are unreadable than are allowed."""
    if len(unreadable) / count > settings.max_unreadable:
        raise DataError(
            f"{image_folder(settings, folder)}: {len(unreadable)} of {count} files can't be read, more than "
            f"data.max_unreadable ({100 * settings.max_unreadable:g} %) allows:",
            *(f"  {row.path}: {row.reason}" for row in unreadable.head(10).itertuples()),
        )


def load_images(catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry) -> Images:
    """The images of one part, from the node's cache (made there if it is missing).

    Raises DataError where a file is not what the catalog says.
    """
    here = catalog[catalog["folder"] == catalog.loc[catalog["part"] == part, "folder"].iloc[0]]
    source = load_folder(here, settings, geometry)
    rows = np.flatnonzero((here["part"] == part).to_numpy())
    chosen = here.iloc[rows]
    labels, groups = (chosen[column].to_numpy() for column in ("label", "group_id"))
    return Images(source, geometry, rows, labels, chosen["path"].to_numpy(dtype=np.str_), groups)


def load_folder(images: pd.DataFrame, settings: DataSettings, geometry: Geometry) -> PictureSource:
    """The pictures of all images of one data folder, in their order (folder, path, digest, width, height)."""
    files = picture_files(images, settings, geometry)
    return load_pixels(files, geometry, images[["width", "height"]].to_numpy(), settings.cache)


def decode_images(
    catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry, ids: list[str]
) -> Images:
    """A few images of one part, in the order of `ids`, each decoded from its file whenever it is asked for."""
    chosen = catalog[catalog["part"] == part].set_index("path", drop=False).loc[ids]
    files = picture_files(chosen, settings, geometry)
    return Images(files, geometry, np.arange(len(ids)), chosen["label"].to_numpy(), np.array(ids, dtype=np.str_))


def picture_files(images: pd.DataFrame, settings: DataSettings, geometry: Geometry | None) -> ImageFiles:
    """The files of some images of one data folder, in their order; without a geometry, pictures at full resolution."""
    folder = image_folder(settings, images["folder"].iloc[0])
    return ImageFiles(folder, images["path"].tolist(), images["digest"].tolist(), geometry)


def part_digest(catalog: pd.DataFrame, part: str) -> str:
    """Sixteen hex digits that change with the images of a part, their names or their labels."""
    chosen = catalog.loc[catalog["part"] == part, ["path", "label", "digest"]]
    return hashlib.sha256(chosen.to_csv(index=False).encode()).hexdigest()[:16]


def identities(paths: pd.Series, pattern: str, flags: int = 0) -> pd.Series:
    """What `data.group_pattern` finds in each path: its matches (of its first group, if any), each once, but "".

    `flags` are those of `re`.
    """
    compiled = re.compile(pattern, flags)
    group = min(compiled.groups, 1)
    found = paths.map(lambda path: dict.fromkeys(match[group] for match in compiled.finditer(path)))
    return found.map(lambda texts: [text for text in texts if text])


def keeps_subfolders(images: pd.DataFrame, settings: DataSettings) -> bool:
    """Whether images in one subfolder stay in one part (`data.split_by`)."""
    per_class = images[images["subfolder"] != ""].groupby("label")["subfolder"].nunique()
    enough = len(per_class) == len(CLASSES) and per_class.min() >= GROUPS_NEEDED
    return settings.split_by == "group" or (settings.split_by == "auto" and bool(enough))


def group_ids(images: pd.DataFrame, settings: DataSettings, pairs: np.ndarray) -> np.ndarray:
    """(n,) int: images with the same number must stay on one side of a split.

    They are the same file, look alike (`pairs`, (k, 2) int positions), show one identity (`data.group_pattern`) or are
    in one subfolder (`data.split_by`); or are linked through others, such as an image of two identities.
    """
    keys = [images["digest"]]
    if keeps_subfolders(images, settings):
        keys.append(images["subfolder"].replace("", None))
    if settings.group_pattern is not None:
        keys.append(identities(images["path"], settings.group_pattern))
    links = [pairs]
    for key in keys:  # images with the same text belong together, and None says nothing
        texts = key.reset_index(drop=True).explode().dropna()
        first = pd.Series(texts.index, texts.index).groupby(texts.to_numpy()).transform("first")
        links.append(np.column_stack([first.index, first.astype(int)]))
    return linked_groups(len(images), np.concatenate(links))


def divide(
    images: pd.DataFrame, settings: DataSettings, seed: int, pairs: np.ndarray, most: int | None = None
) -> pd.DataFrame:
    """Adds `group_id` and `part`: train, val, and test where `data.test` is a share of the training folder.

    `images` are those of the training folder, and those of val where it has a folder of its own (column `folder`).
    `pairs` is (k, 2) int: positions of images that look alike. Of val, where it is no folder, `most` images are enough.
    Raises DataError where there are too few images to divide.
    """
    together = group_ids(images, settings, pairs)
    advice = f", {BY_IMAGE}" if keeps_subfolders(images, settings) else ""
    advice += (
        ", or have data.group_pattern link fewer (all its matches count; with ^ only the first)"
        if settings.group_pattern is not None
        else ""
    )
    labels = images["label"].to_numpy()
    parts = images["folder"].to_numpy(dtype=object, copy=True)
    for number, part in enumerate(("test", "val")):
        if (share := settings.share(part)) is None:
            continue
        here = np.flatnonzero(parts == "train")
        cut = partial(_cut, labels[here], together[here], seed=seed + number, advice=advice)
        if part == "val" and most is not None and most < share * len(here):
            with suppress(DataError):  # groups may be too large for so few
                parts[here[cut(most / len(here), setting="data.val_images")]] = part
                continue
        parts[here[cut(share, setting=f"data.{part}")]] = part
    if settings.held_out:
        here = np.flatnonzero(parts == "train")
        parts[here] = held_out_parts(images.iloc[here], together[here], settings.held_out, seed + 1, most)
    return images.assign(group_id=together, part=parts.astype(str))


def fold_of(catalog: pd.DataFrame, fold: tuple[int, int], seed: int) -> pd.DataFrame:
    """The catalog with train and val divided anew: a fold (its number from 1, of how many) is val, the rest train.

    Stratified by class; images of one group are in one fold. The same for the same images and seed.
    Raises DataError where a fold would lack a class.
    """
    number, folds = fold
    training = np.flatnonzero(catalog["part"].isin(["train", "val"]))
    labels, together = (catalog[column].to_numpy()[training] for column in ("label", "group_id"))
    apart = [len(np.unique(together[labels == label])) for label in range(len(CLASSES))]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    cuts = [judged for _, judged in splitter.split(labels, labels, together)] if min(apart) >= folds else []
    if not cuts or any(np.bincount(labels[judged], minlength=len(CLASSES)).min() == 0 for judged in cuts):
        fewest = int(np.argmin(apart))
        raise DataError(
            f"data.folds {folds}: some fold would lack a class, as class {CLASSES[fewest]} has {apart[fewest]} groups "
            "that stay together (same picture, identity or subfolder). Choose fewer folds, or add images"
        )
    part = catalog["part"].to_numpy(copy=True)
    part[training] = "train"
    part[training[cuts[number - 1]]] = "val"
    return catalog.assign(part=part)


def _cut(labels: np.ndarray, together: np.ndarray, share: float, seed: int, setting: str, advice: str) -> np.ndarray:
    """Positions (sorted) of the share that is cut off: stratified by class, images of one group never divided.

    Raises DataError where a class can't be on both sides.
    """
    group = pd.factorize(together)[0]
    adds = pd.crosstab(group, labels).reindex(columns=range(len(CLASSES)), fill_value=0).to_numpy()
    counts, order = adds.sum(axis=0), list(range(len(adds)))
    np.random.default_rng(seed).shuffle(order)
    taken, missing = _taken(adds, order, share)
    if missing is None:
        return np.flatnonzero(taken[group])
    least = 1.0
    if counts.all():  # the share that the smallest group of each class is, to a thousandth more
        least = max((adds[adds[:, label] > 0] / counts).max(axis=1).min() for label in range(len(CLASSES)))
        least = np.ceil(least * 1000) / 1000
    works = share < least < 0.9 and _taken(adds, order, least)[1] is None
    raise DataError(
        f"{setting} {share}: class {CLASSES[missing]} has {counts[missing]} images in "
        f"{(adds[:, missing] > 0).sum()} groups that stay together (same picture, look-alikes, identity or subfolder); "
        f"too few to have some on both sides. Add images unlike these{f', set {setting}: {least:g}' if works else ''}"
        f"{advice}"
    )


def _taken(adds: np.ndarray, order: list[int], share: float) -> tuple[np.ndarray, int | None]:
    """Which groups (images of each class: (groups, classes) int) make up a share; a class that is not on both sides.

    They are visited in this order and taken while no class gets more than its share.
    """
    counts, have, taken = adds.sum(axis=0), np.zeros(len(CLASSES)), np.zeros(len(adds), bool)
    wanted = np.maximum(1, np.round(counts * share))
    for number in order:
        if np.all(have + adds[number] <= wanted):
            taken[number] = True
            have += adds[number]
    missing = [label for label in range(len(CLASSES)) if have[label] < 1 or have[label] >= counts[label]]
    return taken, missing[0] if missing else None

"""folders -> catalog: a table of every usable image with path, label, subfolder, part and digest.

Columns: `path` (str, below its data folder, with /), `label` (int8: 0 real, 1 fake), `subfolder` (str: below the
class folder, may be empty), `part` (train, val, test, or left out), `group_id` (int: the same for what belongs
together), `digest` (SHA-256 of the file), `width`, `height` (pixels), `size` (bytes) and `modified` (nanoseconds), by
which a later command notices that the folder has changed.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from rfray.data.cache_limits import cache_folder
from rfray.data.decoding import SUFFIXES
from rfray.data.demo import make_demo
from rfray.data.fingerprints import fingerprint, to_table
from rfray.data.geometry import Geometry
from rfray.data.images import ImageFiles, Images, PictureSource
from rfray.data.near_duplicates import linked_groups
from rfray.data.pixel_cache import load, scan
from rfray.data.remote_images import RemoteFolder
from rfray.errors import DataError
from rfray.spec.sweep import CLASSES, DataSettings
from rfray.store.storage import is_address

GROUPS_NEEDED = 10
"""`split_by: auto` keeps subfolders together where every class has at least this many of them."""


COLUMNS = ["path", "label", "subfolder", "part", "group_id", "digest", "width", "height", "size", "modified"]


@dataclass(frozen=True)
class Scanned:
    """One data folder, read through."""

    images: pd.DataFrame
    """The usable images, ordered by path: COLUMNS without part and group_id, and those of `fingerprints.to_table`."""
    unreadable: pd.DataFrame
    """The left-out ones: path, reason, size, modified."""
    cached: bool
    """Whether all decoded pixels fitted into the cache."""
    there: int
    """How many images the folder has; more than were read, where only some were drawn."""


def image_folder(settings: DataSettings, part: str) -> Path | RemoteFolder:
    """The data folder that the images of a part are in (made first, for the built-in data)."""
    if settings.source == "demo":
        return make_demo(cache_folder(settings.cache)) / ("test" if part == "test" else "train")
    folder = {"val": settings.val_folder, "test": settings.test_folder}.get(part) or settings.train
    assert folder is not None  # DataSettings makes sure of it
    if is_address(folder):
        names = [name for names in settings.class_folders().values() for name in names]
        return RemoteFolder(folder, tuple(names), settings.cache)
    return Path(folder)


def list_images(settings: DataSettings, part: str) -> pd.DataFrame:
    """Every image file of the data folder of a part, ordered by path: path, label, subfolder, size, modified.

    Nothing is fetched of one at an address. Raises StorageError, and DataError as `list_folder` does.
    """
    folder, classes = image_folder(settings, part), settings.class_folders()
    if isinstance(folder, Path):
        return list_folder(folder, classes)
    found = list(folder.entries())
    rows = [
        (
            entry.path,
            label,
            _subfolder(PurePosixPath(entry.path), PurePosixPath(class_folder)),
            entry.size,
            entry.modified,
        )
        for label, name in enumerate(CLASSES)
        for class_folder in classes[name]
        for entry in found
        if entry.path.startswith(f"{class_folder}/")
    ]
    for label, name in enumerate(CLASSES):
        if all(row[1] != label for row in rows):
            raise _no_image(folder.address, name, classes[name])
    return _listing(rows)


def drawn(listed: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """At most so many (2 or more; None for all) of the images listed, of each class its share and at least one.

    The same ones wherever the folder is, and all of them again where there are to be more.
    """
    if most is None or len(listed) <= most:
        return listed
    numbers = [int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) for path in listed["path"]]
    ranks = pd.Series(numbers, listed.index, np.uint64).groupby(listed["label"]).rank(method="first")
    fake = min(max(round(most * listed["label"].mean()), 1), most - 1)
    return listed[ranks <= listed["label"].map({0: most - fake, 1: fake})].reset_index(drop=True)


def divide(
    images: pd.DataFrame, settings: DataSettings, seed: int, pairs: np.ndarray, most: int | None = None
) -> pd.DataFrame:
    """Adds `group_id` and `part` to the images of the training folder: train, val, and test where it is a share.

    `pairs` is (k, 2) int: positions of images that look alike. Of val `most` images are enough.
    Raises DataError where there are too few to divide.
    """
    together = group_ids(images, settings, pairs)
    labels = images["label"].to_numpy()
    parts = np.full(len(images), "train", dtype=object)
    if settings.test_share:
        parts[_cut(labels, together, settings.test_share, seed, "test")] = "test"
    rest = np.flatnonzero(parts == "train")
    parts[rest[_selected(labels[rest], together[rest], settings.val_share or 0, seed + 1, most)]] = "val"
    return images.assign(group_id=together, part=parts.astype(str))


def scan_folder(settings: DataSettings, part: str, geometries: Sequence[Geometry], most: int | None = None) -> Scanned:
    """Lists and reads (at most so many images of) the folder of a part, each once; pixels go to the cache on the way.

    Raises DataError: folders or classes missing or empty, given twice, too much unreadable.
    """
    _check_distinct(settings)
    folder = image_folder(settings, part)
    there = list_images(settings, part)
    listed = drawn(there, most)
    files, prints, cached = scan(folder, listed["path"].tolist(), geometries, settings.cache, fingerprint)
    reasons = pd.Series([file.reason for file in files], index=listed.index, dtype=object)
    bad = reasons.notna()
    unreadable = listed.loc[bad, ["path", "size", "modified"]].assign(reason=reasons[bad])
    if bad.mean() > settings.max_unreadable:
        raise DataError(
            f"{_shown(folder)}: {bad.sum()} of {len(listed)} files can't be read, more than data.max_unreadable "
            f"({100 * settings.max_unreadable:g} %) allows:\n  "
            + "\n  ".join(f"{row.path}: {row.reason}" for row in unreadable.head(10).itertuples())
        )
    seen = to_table(prints)
    for name in ("digest", "width", "height"):
        seen[name] = [getattr(file, name) for file in files if file.reason is None]
    images = pd.concat([listed[~bad].reset_index(drop=True), seen], axis=1)
    for label, name in enumerate(CLASSES):
        if not (images["label"] == label).any():
            raise DataError(f"{_shown(folder)}: no readable image of class {name}")
    return Scanned(images, unreadable.reset_index(drop=True), cached, len(there))


def list_folder(folder: Path, classes: Mapping[str, list[str]]) -> pd.DataFrame:
    """Every image file below the class folders, ordered by path: path, label, subfolder, size, modified.

    Linked folders are followed. Raises DataError where the folder or a class folder is missing, a class has no image,
    a folder would be read twice, or a name is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    rows: list[tuple[str, int, str, int, int]] = []
    folders_read: dict[Path, str] = {}
    for label, name in enumerate(CLASSES):
        before = len(rows)
        for class_folder in classes[name]:
            if not (folder / class_folder).is_dir():
                there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
                raise DataError(
                    f"{folder}: no folder {class_folder!r} for class {name}; there: {', '.join(there) or 'no folder'}. "
                    "data.classes says which folder is which class"
                )
            rows.extend(
                (path.relative_to(folder).as_posix(), label, _subfolder(path, folder / class_folder), size, modified)
                for path, size, modified in _image_files(folder / class_folder, name, folders_read)
            )
        if len(rows) == before:
            raise _no_image(folder, name, classes[name])
    return _listing(rows)


def changes(settings: DataSettings, part: str, known: pd.DataFrame, most: int | None = None) -> list[str]:
    """What differs between a data folder now and the `path`, `size`, `modified` noted before; empty if nothing.

    Where `most` were drawn, of those that would be now.
    """
    now = drawn(list_images(settings, part), most)
    before, after = (set(zip(table["path"], table["size"], table["modified"], strict=True)) for table in (known, now))
    old_paths, new_paths = {path for path, *_ in before}, {path for path, *_ in after}
    changed = {path for path, *_ in before ^ after} & old_paths & new_paths
    return (
        [f"{path} is new" for path in sorted(new_paths - old_paths)]
        + [f"{path} is gone" for path in sorted(old_paths - new_paths)]
        + [f"{path} has changed" for path in sorted(changed)]
    )


def fold_of(catalog: pd.DataFrame, fold: tuple[int, int], seed: int) -> pd.DataFrame:
    """The catalog with train and val divided anew: a fold (its number from 1, of how many) is val, the rest train.

    Stratified by class; images of one group are in one fold. The same for the same images and seed.
    Raises DataError where a fold would lack a class.
    """
    number, folds = fold
    training = np.flatnonzero(catalog["part"].isin(["train", "val"]))
    labels, together = (catalog[column].to_numpy()[training] for column in ("label", "group_id"))
    apart = [len(np.unique(together[labels == label])) for label in range(len(CLASSES))]
    cuts = []
    if min(apart) >= folds:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        cuts = [judged for _, judged in splitter.split(labels, labels, together)]
    if not cuts or any(np.bincount(labels[judged], minlength=len(CLASSES)).min() == 0 for judged in cuts):
        fewest = int(np.argmin(apart))
        raise DataError(
            f"data.folds {folds}: not every fold would have images of both classes: class {CLASSES[fewest]} has "
            f"{apart[fewest]} groups that stay together (same picture, identity or subfolder). Choose fewer folds, or "
            "add images"
        )
    part = catalog["part"].to_numpy(copy=True)
    part[training] = "train"
    part[training[cuts[number - 1]]] = "val"
    return catalog.assign(part=part)


def load_images(catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry) -> Images:
    """The images of one part, from the node's cache (made there if it is missing).

    Raises DataError where a file is not what the catalog says.
    """
    folder = image_folder(settings, part)
    same_folder = [other for other in catalog["part"].unique() if image_folder(settings, other) == folder]
    here = catalog[catalog["part"].isin(same_folder)]
    source = load_folder(here, settings, part, geometry)
    rows = np.flatnonzero((here["part"] == part).to_numpy())
    chosen = here.iloc[rows]
    return Images(source, geometry, rows, chosen["label"].to_numpy(), chosen["path"].to_numpy(dtype=np.str_))


def decode_images(
    catalog: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry, ids: list[str]
) -> Images:
    """A few images of one part, in the order of `ids`, each decoded from its file whenever it is asked for."""
    chosen = catalog[catalog["part"] == part].set_index("path").loc[ids]
    files = ImageFiles(image_folder(settings, part), ids, chosen["digest"].tolist(), geometry)
    return Images(files, geometry, np.arange(len(ids)), chosen["label"].to_numpy(), np.array(ids, dtype=np.str_))


def load_folder(images: pd.DataFrame, settings: DataSettings, part: str, geometry: Geometry) -> PictureSource:
    """The pictures of all images of a part's folder, in their order (path, digest, width, height)."""
    sizes = list(zip(images["width"], images["height"], strict=True))
    paths, digests = images["path"].tolist(), images["digest"].tolist()
    return load(image_folder(settings, part), paths, digests, sizes, geometry, settings.cache)


def original_pictures(catalog: pd.DataFrame, settings: DataSettings, part: str) -> PictureSource:
    """The pictures of one part at full resolution, in the order of the catalog, each decoded when it is asked for."""
    chosen = catalog[catalog["part"] == part]
    return ImageFiles(image_folder(settings, part), chosen["path"].tolist(), chosen["digest"].tolist(), None)


def part_digest(catalog: pd.DataFrame, part: str) -> str:
    """Sixteen hex digits that change with the images of a part, their names or their labels."""
    chosen = catalog.loc[catalog["part"] == part, ["path", "label", "digest"]]
    return hashlib.sha256(chosen.to_csv(index=False).encode()).hexdigest()[:16]


def _check_distinct(settings: DataSettings) -> None:
    """Raises DataError where the same images would be trained on and reported on."""
    if settings.train and settings.test_folder:
        names = [name for names in settings.class_folders().values() for name in names]
        for one, other in product(names, names):
            train, test = Path(settings.train, one).resolve(), Path(settings.test_folder, other).resolve()
            if train.is_relative_to(test) or test.is_relative_to(train):
                raise DataError(
                    f"data.train ({settings.train}) and data.test ({settings.test_folder}) share images: "
                    f"{train} and {test} are the same folder, or one is inside the other"
                )


def _image_files(folder: Path, class_name: str, folders_read: dict[Path, str]) -> Iterator[tuple[Path, int, int]]:
    """Path, size and time of each image below a class folder; notes in `folders_read` which folders that were."""
    for parent, subfolders, files in os.walk(folder, onerror=_not_listed, followlinks=True):
        real, shown = Path(parent).resolve(), f"{parent} (class {class_name})"
        if real in folders_read:
            raise DataError(f"{shown} and {folders_read[real]} are the same folder; its images would be read twice")
        folders_read[real] = shown
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                status = os.stat(path, follow_symlinks=path.exists())
                try:
                    str(path).encode()
                except UnicodeEncodeError:
                    raise DataError(f"{str(path)!a}: this name is not UTF-8; rename it") from None
                yield path, status.st_size, status.st_mtime_ns


def _not_listed(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}")


def _shown(folder: Path | RemoteFolder) -> str:
    return str(folder) if isinstance(folder, Path) else folder.address


def _no_image(folder: object, name: str, class_folders: list[str]) -> DataError:
    return DataError(
        f"{folder}: class {name} has no image in {', '.join(class_folders)} "
        f"(images end in {', '.join(SUFFIXES)}, any case)"
    )


def _listing(rows: list[tuple[str, int, str, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["path", "label", "subfolder", "size", "modified"])
    return table.astype({"label": "int8"}).sort_values("path", ignore_index=True)


def _subfolder(path: PurePath, class_folder: PurePath) -> str:
    group = path.parent.relative_to(class_folder).as_posix()
    return "" if group == "." else group


def group_ids(images: pd.DataFrame, settings: DataSettings, pairs: np.ndarray) -> np.ndarray:
    """(n,) int: images with the same number must stay on one side of a split.

    They are the same file, look alike (`pairs`, (k, 2) int positions), show one identity (`data.group_pattern`) or are
    in one subfolder (`data.split_by`); or are linked through others.
    """
    alike = [images["digest"]]
    per_class = images[images["subfolder"] != ""].groupby("label")["subfolder"].nunique()
    enough = len(per_class) == len(CLASSES) and per_class.min() >= GROUPS_NEEDED
    if settings.split_by == "group" or (settings.split_by == "auto" and enough):
        alike.append(images["subfolder"].replace("", None))
    if settings.group_pattern is not None:
        alike.append(images["path"].map(partial(_identity, re.compile(settings.group_pattern))))
    links = [pairs]
    for keys in alike:
        numbers = pd.factorize(keys)[0]
        known = np.flatnonzero(numbers >= 0)
        first = known[np.unique(numbers[known], return_index=True)[1]]
        links.append(np.column_stack([known, first[numbers[known]]]))
    return linked_groups(len(images), np.concatenate(links))


def _identity(pattern: re.Pattern[str], path: str) -> str | None:
    found = pattern.search(path)
    return None if found is None else found[1 if pattern.groups else 0]


def _selected(labels: np.ndarray, together: np.ndarray, fraction: float, seed: int, most: int | None) -> np.ndarray:
    """Positions of val: `most` images where that is fewer, and no group too large for it."""
    if most is not None and most < fraction * len(labels):
        with suppress(DataError):
            return _cut(labels, together, most / len(labels), seed, "val_images")
    return _cut(labels, together, fraction, seed, "val")


def _cut(labels: np.ndarray, together: np.ndarray, fraction: float, seed: int, setting: str) -> np.ndarray:
    """Positions (sorted) of the `fraction` cut off: stratified by class, members of one group never divided.

    Groups are visited in random order and taken while no class gets more than its share.
    Raises DataError where a class can't be on both sides.
    """
    counts = np.bincount(labels, minlength=len(CLASSES))
    wanted = np.maximum(1, np.round(counts * fraction))
    members: dict[int, list[int]] = {}
    for position, number in enumerate(together):
        members.setdefault(int(number), []).append(position)
    order = list(members.values())
    np.random.default_rng(seed).shuffle(order)
    taken: list[int] = []
    have = np.zeros(len(CLASSES))
    for group in order:
        adds = np.bincount(labels[group], minlength=len(CLASSES))
        if np.all(have + adds <= wanted):
            taken.extend(group)
            have += adds
    for name, count, cut_off in zip(CLASSES, counts, have, strict=True):
        if cut_off < 1 or cut_off >= count:
            raise DataError(
                f"{setting} {fraction}: class {name} has {int(count)} images in "
                f"{len({int(one) for one, label in zip(together, labels, strict=True) if CLASSES[label] == name})} "
                "groups that stay together (same picture, identity or subfolder); too few to have some on both sides. "
                f"Add images, change {setting}, or set data.split_by: image"
            )
    return np.sort(np.array(taken))

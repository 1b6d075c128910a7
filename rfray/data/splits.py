"""The images of a sweep's folders -> which of them belong together (`group_id`), and which part each is in."""

import re
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from rfray.data.near_duplicates import linked_groups
from rfray.errors import DataError
from rfray.spec.sweep import CLASSES, DataSettings

GROUPS_NEEDED = 10
"""`split_by: auto` keeps subfolders together where every class has at least this many of them, so that
the usual share for val, 0.15, is at least one of them."""


def group_ids(images: pd.DataFrame, settings: DataSettings, pairs: np.ndarray) -> np.ndarray:
    """(n,) int: images with the same number must stay on one side of a split.

    They are the same file, look alike (`pairs`, (k, 2) int positions), show one identity (`data.group_pattern`) or are
    in one subfolder (`data.split_by`); or are linked through others.
    """
    links = [pairs]
    for keys in _keys_in_common(images, settings):
        numbers = pd.factorize(keys)[0]
        known = np.flatnonzero(numbers >= 0)
        first = known[np.unique(numbers[known], return_index=True)[1]]
        links.append(np.column_stack([known, first[numbers[known]]]))
    return linked_groups(len(images), np.concatenate(links))


def divide(
    images: pd.DataFrame, settings: DataSettings, seed: int, pairs: np.ndarray, most: int | None = None
) -> pd.DataFrame:
    """Adds `group_id` and `part`: train, val, and test where `data.test` is a share of the training folder.

    `images` are those of the training folder, and those of val where it has a folder of its own (column `folder`).
    `pairs` is (k, 2) int: positions of images that look alike. Of val, where it is a share, `most` images are enough.
    Raises DataError where there are too few images to divide.
    """
    together = group_ids(images, settings, pairs)
    labels = images["label"].to_numpy()
    parts = images["folder"].to_numpy(dtype=object, copy=True)
    if (share := settings.share("test")) is not None:
        here = np.flatnonzero(parts == "train")
        parts[here[_cut(labels[here], together[here], share, seed, "data.test")]] = "test"
    if (share := settings.share("val")) is not None:
        here = np.flatnonzero(parts == "train")
        parts[here[_val(labels[here], together[here], share, seed + 1, most)]] = "val"
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


def _keys_in_common(images: pd.DataFrame, settings: DataSettings) -> Iterator["pd.Series[str]"]:
    """Columns of text: images with the same text belong together, and None says nothing."""
    yield images["digest"]
    per_class = images[images["subfolder"] != ""].groupby("label")["subfolder"].nunique()
    enough = len(per_class) == len(CLASSES) and per_class.min() >= GROUPS_NEEDED
    if settings.split_by == "group" or (settings.split_by == "auto" and enough):
        yield images["subfolder"].replace("", None)
    if settings.group_pattern is not None:
        pattern = re.compile(settings.group_pattern)
        found = images["path"].map(pattern.search)
        yield found.map(lambda match: match[1 if pattern.groups else 0], na_action="ignore")


def _val(labels: np.ndarray, together: np.ndarray, share: float, seed: int, most: int | None) -> np.ndarray:
    """Positions of val: `most` images where that is fewer, unless the groups are too large for so few."""
    if most is not None and most < share * len(labels):
        with suppress(DataError):
            return _cut(labels, together, most / len(labels), seed, "data.val_images")
    return _cut(labels, together, share, seed, "data.val")


def _cut(labels: np.ndarray, together: np.ndarray, share: float, seed: int, setting: str) -> np.ndarray:
    """Positions (sorted) of the share that is cut off: stratified by class, images of one group never divided.

    Groups are visited in random order and taken while no class gets more than its share.
    Raises DataError where a class can't be on both sides.
    """
    counts = np.bincount(labels, minlength=len(CLASSES))
    wanted = np.maximum(1, np.round(counts * share))
    members: dict[int, list[int]] = {}
    for position, number in enumerate(together.tolist()):
        members.setdefault(number, []).append(position)
    order = list(members.values())
    np.random.default_rng(seed).shuffle(order)
    taken: list[int] = []
    have = np.zeros(len(CLASSES))
    for group in order:
        adds = np.bincount(labels[group], minlength=len(CLASSES))
        if np.all(have + adds <= wanted):
            taken.extend(group)
            have += adds
    for label, name in enumerate(CLASSES):
        if have[label] < 1 or have[label] >= counts[label]:
            raise DataError(
                f"{setting} {share}: class {name} has {counts[label]} images in "
                f"{len(np.unique(together[labels == label]))} groups that stay together (same picture, identity or "
                f"subfolder); too few to have some on both sides. Add images, change {setting}, or set "
                "data.split_by: image"
            )
    return np.sort(np.array(taken))

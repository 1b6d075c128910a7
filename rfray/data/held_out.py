"""Sources that are held out to choose by (`data.val: {groups: […]}`) -> which images are in train and which in val."""

import numpy as np
import pandas as pd

from rfray.data.folders import list_images
from rfray.data.sources import sources
from rfray.errors import DataError, SweepError, nearest_first
from rfray.spec.sweep import CLASSES
from rfray.spec.sweep_file import SweepFile

LEFT_OUT = "left out"
"""The part of images of train or val that are also in test, or that `data.leave_out` names, or that belong together
with those of sources that are held out."""
APART = 1 / 3
"""Share of the groups whose images are judged where groups (such as identities) have images of most sources."""


def check_held_out(file: SweepFile) -> None:
    """Raises SweepError for a source in `data.val` that no image of the training folder has, DataError as listing it.

    Also where no image of a class would be left to learn from.
    """
    data, key = file.sweep.data, ("data", "val", "groups")
    if not data.held_out:
        return
    listed = list_images(data, "train").assign(folder="train")
    names = sources(listed, data)
    known = sorted(set(names) - {""})
    if not known:
        raise SweepError(file.problem(("data", "val"), "no image has a known source; data.group says how to find it"))
    if unknown := [name for name in data.held_out if name not in known]:
        raise SweepError(*(file.not_allowed(key, name, nearest_first(name, known)) for name in unknown))
    kept = listed.loc[~names.isin(data.held_out), "label"]
    for label, name in enumerate(CLASSES):
        if not (kept == label).any():
            allowed = f"fewer of them, as no {name} image would be left to learn from"
            raise SweepError(file.not_allowed(key, list(data.held_out), allowed))


def held_out_parts(
    images: pd.DataFrame, together: np.ndarray, held_out: tuple[str, ...], seed: int, most: int | None
) -> np.ndarray:
    """(n,) text: train, val or left out, of images with label and source; `together` (n,) int: their groups.

    The sources that are held out are val; of a class of which none is, as large a share of its groups. What belongs
    together with val is left out of train. Of val `most` images are enough; the others are left out.
    Raises DataError where train or val would lack a class, or no image has one of the sources.
    """
    there = set(images["source"]) - {""}
    for name in held_out:
        if name not in there:
            raise DataError(f"data.val: no image of source {name!r}; there: {nearest_first(name, sorted(there))}")
    random, labels = np.random.default_rng(seed), images["label"].to_numpy()
    named = images["source"].isin(held_out).to_numpy()
    of_class = [named & (labels == label) for label in range(len(CLASSES))]
    share = max(some.sum() / max(1, (labels == label).sum()) for label, some in enumerate(of_class))
    val = named.copy()
    for label, some in enumerate(of_class):
        if not some.any():
            val |= (labels == label) & _drawn(together, labels == label, share, random)
    linked = np.isin(together, together[val]) & ~val
    if 2 * linked.sum() > (~val).sum():  # groups have images of most sources: some are judged, others learned from
        apart = _drawn(together, np.ones(len(labels), bool), APART, random)
        free = np.isin(labels, [label for label, some in enumerate(of_class) if not some.any()])
        val, linked = apart & (named | free), np.where(apart, ~named & ~free, named)
    parts = np.where(linked, LEFT_OUT, np.where(val, "val", "train"))
    for part, (label, name) in ((part, one) for part in ("train", "val") for one in enumerate(CLASSES)):
        if not ((parts == part) & (labels == label)).any():
            raise DataError(
                f"data.val: {part} has no {name} image where {', '.join(held_out)} are held out and what belongs "
                "together stays in one part; hold out other sources, or add images"
            )
    count = int((parts == "val").sum())
    for label in range(len(CLASSES)) if most is not None else ():
        its = random.permutation(np.flatnonzero((parts == "val") & (labels == label)))
        parts[its[max(1, round(len(its) * min(1, (most or 0) / count))) :]] = LEFT_OUT
    return parts


def _drawn(together: np.ndarray, rows: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """(n,) bool: the images of groups drawn by chance until they have this share of the rows; one at least, not all."""
    groups, counts = np.unique(together[rows], return_counts=True)
    order = random.permutation(len(groups))
    taken = int(np.searchsorted(np.cumsum(counts[order]), share * rows.sum())) + 1
    return np.isin(together, groups[order[: max(1, min(taken, len(groups) - 1))]])

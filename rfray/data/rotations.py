"""`search.judge: unseen` -> which sources each trial leaves out, and from it the images of its train and val.

A rotation leaves out one source of fakes, and sources of photographs. No image is judged in two of them. Images of a
class of which some sources are known take no part where their own is not: they may be of any.
"""

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd

from rfray.data.catalog import fold_of
from rfray.data.folders import list_images
from rfray.data.held_out import LEFT_OUT, held_out_parts
from rfray.data.sources import MIN_IMAGES, sources
from rfray.errors import DataError, SweepError
from rfray.spec.sweep import MOST_ROTATIONS, Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.store.records import Fold
from rfray.store.run_dir import RunDir

ALL = ""
"""In the place of a source of photographs: all of them."""


class Rotation(NamedTuple):
    """The sources that are left out together."""

    fake: str
    real: tuple[str, ...] = ()
    """Of photographs; empty where no two of them are known: then it is a share of all photographs."""


@dataclass(frozen=True)
class Rotations:
    """All rotations of a sweep, and what is in none of them."""

    all: tuple[Rotation, ...]
    few: dict[str, int]
    """Sources with fewer than MIN_IMAGES images -> how many; every trial learns from them."""
    more: tuple[str, ...]
    """Smaller sources of fakes beyond MOST_ROTATIONS; every trial learns from them."""
    unknown: int
    """Images that take no part, as their source is not known."""

    def lines(self) -> list[str]:
        """What is left out in turn, for people."""
        said = [f"{one.fake} with {', '.join(one.real) or 'a share of the real images'}" for one in self.all]
        lines = [f"Each trial leaves out, and is judged on, one of {len(said)} in turn: {'; '.join(said)}"]
        if self.few:
            few = ", ".join(f"{source} ({count})" for source, count in self.few.items())
            lines.append(f"Never left out, as they have fewer than {MIN_IMAGES} images: {few}")
        if self.more:
            lines.append(f"Never left out, as {MOST_ROTATIONS} sources have more images: {', '.join(self.more)}")
        if self.unknown:
            lines.append(f"{self.unknown:,} images whose source is not known take no part (data.group)")
        return lines


def rotations(images: pd.DataFrame) -> Rotations:
    """The rotations of images with label and source ("" where it is not known), the largest source of fakes first.

    Raises DataError where fewer than two sources of fakes have MIN_IMAGES images.
    """
    counts = [images.loc[(images["label"] == label) & (images["source"] != ""), "source"] for label in (0, 1)]
    known = [
        {str(name): int(count) for name, count in sorted(of.value_counts().items(), key=_largest)} for of in counts
    ]
    reals, fakes = ([name for name, count in of.items() if count >= MIN_IMAGES] for of in known)
    if len(fakes) < 2:
        there = ", ".join(f"{name} ({count})" for name, count in known[1].items()) or "none is known"
        raise DataError(
            f"search.judge: unseen needs two sources of fakes with {MIN_IMAGES} images each, of which one is left out; "
            f"there: {there}. data.group says how their names are found"
        )
    turns = fakes[:MOST_ROTATIONS]
    with_reals = _shared_out(turns, {name: known[0][name] for name in reals})
    few = chain.from_iterable(of.items() for of in (known[1], known[0] if len(reals) > 1 else {}))
    named = (1, 0) if len(reals) > 1 else (1,)
    return Rotations(
        all=tuple(map(Rotation, turns, map(tuple, with_reals))),
        few={name: count for name, count in few if count < MIN_IMAGES},
        more=tuple(fakes[MOST_ROTATIONS:]),
        unknown=int((images["label"].isin(named) & (images["source"] == "")).sum()),
    )


def _shared_out(turns: list[str], reals: dict[str, int]) -> list[list[str]]:
    """The sources of photographs that each source of fakes is left out with; none where no two of them are known.

    One of its own name, and about as many images each; where there are fewer sources, each in several turns. `reals`:
    source -> its images.
    """
    if len(reals) < 2:
        return [[] for _ in turns]
    if len(reals) < len(turns):
        return [[list(reals)[turn % len(reals)]] for turn in range(len(turns))]
    found = [[name] if name in reals else [] for name in turns]
    for name in (name for name in reals if name not in turns):
        min(found, key=lambda those: sum(reals[one] for one in those)).append(name)
    return found


def _largest(counted: tuple[object, int]) -> tuple[int, str]:
    return -counted[1], str(counted[0])


def training_rotations(catalog: pd.DataFrame) -> Rotations:
    """The rotations of a run: of its train and val. Raises DataError as `rotations`."""
    return rotations(catalog[catalog["part"].isin(["train", "val"])])


def fold_count(run: RunDir, sweep: Sweep) -> int:
    """How often a finalist is trained without some of the training images, each time judged on them; 0: never."""
    return len(training_rotations(run.catalog()).all) if sweep.judges_unseen else sweep.data.folds or 0


def judged_on(catalog: pd.DataFrame, fold: Fold, sweep: Sweep) -> pd.DataFrame:
    """The catalog with train and val divided anew: val is a fold, or what one rotation leaves out.

    The same for the same images and seed. Raises DataError where train or val would lack a class.
    """
    return _rotated(catalog, fold, sweep) if sweep.judges_unseen else fold_of(catalog, fold, sweep.seed)


def _rotated(catalog: pd.DataFrame, fold: Fold, sweep: Sweep) -> pd.DataFrame:
    """See `judged_on`. At most `data.val_images` images are judged."""
    rows = np.flatnonzero(catalog["part"].isin(["train", "val"]))
    images, together = catalog.iloc[rows], catalog["group_id"].to_numpy()[rows]
    turns, found = _turns(images, together, sweep.seed), training_rotations(catalog).all
    number, this = fold[0] - 1, found[fold[0] - 1]
    own = images["source"].isin(this.real) if this.real else np.zeros(len(rows), bool)
    dropped = np.where(images["label"] == 1, images["source"] == "", own | ((images["source"] == "") & bool(this.real)))
    kept = (turns == number) | ~dropped.astype(bool)
    judged = images.assign(source=np.where(turns == number, this.fake, ""))[kept]
    try:
        parts = held_out_parts(judged, together[kept], (this.fake,), sweep.seed + fold[0], sweep.val_images)
    except DataError as error:
        raise DataError(f"search.judge: {sweep.search.judge}: {str(error).removeprefix('data.val: ')}") from None
    part = catalog["part"].to_numpy(dtype=object, copy=True)
    part[rows] = LEFT_OUT
    part[rows[kept]] = parts
    return catalog.assign(part=part.astype(str))


def _turns(images: pd.DataFrame, together: np.ndarray, seed: int) -> np.ndarray:
    """(n,) int: the rotation, from 0, in which an image is judged; -1 where in none.

    Photographs of a source that several rotations leave out are divided among these, and all of them where no two
    sources are known; images of one group stay together.
    """
    found, turns = rotations(images).all, np.full(len(images), -1)
    labels, names = images["label"].to_numpy(), images["source"].to_numpy()
    groups, place = np.unique(together, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(groups))[place]
    for turn, one in enumerate(found):
        turns[(labels == 1) & (names == one.fake)] = turn
    for name in sorted({name for one in found for name in one.real or (ALL,)}):
        its = np.flatnonzero((labels == 0) & (True if name == ALL else names == name))
        sharing = np.array([turn for turn, one in enumerate(found) if name in (one.real or (ALL,))])
        rank = np.unique(drawn[its], return_inverse=True)[1]  # the groups in the order in which they were drawn
        turns[its] = sharing[rank % len(sharing)]
    return turns


def listed_rotations(sweep: Sweep) -> Rotations:
    """The rotations of what is in the training folder now. Raises DataError as `rotations`, and as listing it."""
    listed = list_images(sweep.data, "train").assign(folder="train")
    return rotations(listed.assign(source=sources(listed, sweep.data)))


def check_rotations(file: SweepFile) -> None:
    """Raises SweepError where the training folder lacks the sources that `search.judge: unseen` needs."""
    try:
        if file.sweep.judges_unseen:
            listed_rotations(file.sweep)
    except DataError as error:
        raise SweepError(file.problem(("search", "judge"), str(error).removeprefix("search.judge: "))) from None

"""a probe's features, the images' sources -> `LeftOut`: how good a head is on sources that it has not learned from.

Each pair of a fakes' source and a photographs' source is told apart by a head that has learned from neither. Where one
class has no two sources that are known, or none with images enough, a share of its images takes the place of the
source. Images of one group are never on both sides.
"""

from itertools import product

import numpy as np
from sklearn.linear_model import LogisticRegression

from rfray.audit.left_out import NO_SOURCES, too_few
from rfray.data.sources import MIN_IMAGES, large_enough
from rfray.spec.sweep import CLASSES
from rfray.stats.paired_tests import placements
from rfray.store.records import LeftOut, LeftOutPair
from rfray.training.probe import ITERATIONS, LearnedHead

MOST_SOURCES, MOST_IMAGES = 4, 2000
"""Of each class the largest ones are left out, and of so many images at most a head learns or is judged: at most 16
heads, less than what choosing the strength of the probe's own head takes (our choice)."""
HELD_OUT = 1 / 3
"""Share of the groups of images that a head is judged on where it is not a whole source (our choice)."""


def judge_left_out(
    features: np.ndarray, labels: np.ndarray, sources: np.ndarray, groups: np.ndarray, head: LearnedHead, seed: int
) -> LeftOut:
    """The AUC of each pair of sources by a head that has learned from neither, as strongly regularised as `head`.

    `features` (n, F) float32, `labels` (n,) 0 real and 1 fake, `sources` (n,) text, "" where it is not known, `groups`
    (n,) int: images with the same number stay on one side.
    """
    counts = [_counts(sources[labels == label]) for label in range(len(CLASSES))]
    known = [of if len(of) > 1 else {} for of in counts]
    if not any(known):
        return LeftOut(reason=NO_SOURCES)
    enough = [large_enough(of) for of in known]
    kinds = [these[:MOST_SOURCES] or [""] for these in enough]
    few = {source: n for of in known for source, n in of.items() if n < MIN_IMAGES}
    if not any(enough):
        return LeftOut(reason=too_few(MIN_IMAGES), few=few)
    more = sum(len(these[MOST_SOURCES:]) for these in enough)
    rows = _subsample(labels, sources, kinds, seed)
    features, labels, sources, groups = features[rows], labels[rows], sources[rows], groups[rows]
    apart = _held_out(groups, seed)
    pairs = []
    for fake, real in product(kinds[1], kinds[0]):
        learned, judged = _sides(labels, sources, groups, apart, (real, fake))
        found = _judged(features, labels, groups, learned, judged, head.strength)
        if found is not None:
            reals, fakes = np.bincount(labels[judged]).tolist()
            pairs.append(LeftOutPair(fake=fake, real=real, fakes=fakes, reals=reals, **found))
    seen = _judged(features, labels, groups, ~apart, apart, head.strength)
    if not pairs or seen is None:
        return LeftOut(reason=too_few(MIN_IMAGES), few=few)
    return LeftOut(seen=seen["auc"], seen_low=seen["low"], pairs=tuple(pairs), few=few, more=more)


def _counts(sources: np.ndarray) -> dict[str, int]:
    """Known source -> its images, the largest first, equal ones by name."""
    names, counts = np.unique(sources[sources != ""], return_counts=True)
    return {str(names[row]): int(counts[row]) for row in np.argsort(-counts, kind="stable")}


def _subsample(labels: np.ndarray, sources: np.ndarray, kinds: list[list[str]], seed: int) -> np.ndarray:
    """(m,) int, sorted: MOST_IMAGES at most, half of them of each class.

    Of a class as many of each source that is left out as of all others together; none whose source is not known where
    sources of its class are left out: it may be one of these.
    """
    rows, random = [], np.random.default_rng(seed)
    for label, those in enumerate(kinds):
        its = labels == label
        parts = [its]
        if those != [""]:
            parts = [its & (sources == one) for one in those]
            parts.append(its & (sources != "") & ~np.isin(sources, those))
        parts = [part for part in parts if part.any()]
        rows += [random.permutation(np.flatnonzero(part))[: MOST_IMAGES // len(kinds) // len(parts)] for part in parts]
    return np.sort(np.concatenate(rows))


def _held_out(groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: the images of a share of the groups, drawn by chance."""
    different = np.random.default_rng(seed).permutation(np.unique(groups))
    return np.isin(groups, different[: max(1, round(HELD_OUT * len(different)))])


def _sides(
    labels: np.ndarray, sources: np.ndarray, groups: np.ndarray, apart: np.ndarray, pair: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Which images a head learns from, and which it is judged on, (n,) bool each, without a source of each class.

    Of a class whose source is "", those `apart` are judged.
    """
    learned, judged = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for label, source in enumerate(pair):
        its = labels == label
        judged |= its & (sources == source if source else apart)
        learned |= its & (sources != source if source else ~apart)
    linked = np.isin(groups, groups[judged])
    if 2 * (learned & linked).sum() > learned.sum():  # most groups have images of several sources, as identities do
        return learned & ~apart, judged & apart
    return learned & ~linked, judged


def _judged(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    learned: np.ndarray,
    judged: np.ndarray,
    strength: float,
) -> dict[str, float] | None:
    """auc, low and high of a head, learned and judged on these images; None where either has too few of a class."""
    if min(np.bincount(labels[rows], minlength=2).min() for rows in (learned, judged)) < MIN_IMAGES:
        return None
    centre, scale = features[learned].mean(axis=0), features[learned].std(axis=0)
    scale[scale == 0] = 1
    regression = LogisticRegression(C=strength / learned.sum(), max_iter=ITERATIONS)
    regression.fit((features[learned] - centre) / scale, labels[learned])
    scores = regression.decision_function((features[judged] - centre) / scale)
    found = placements(labels[judged], scores[None], groups=groups[judged])
    return {"auc": float(found.aucs[0])} | dict(zip(("low", "high"), found.intervals[0].tolist(), strict=True))

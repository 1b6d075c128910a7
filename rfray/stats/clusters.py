"""Which images belong together -> sums over groups, and shares of images with intervals that know the groups.

Images of one group (frames of a video, pictures of one identity, near duplicates) are no independent evidence. All
functions take the groups as (n,) int numbers from 0, or None where every image stands alone.
"""

import numpy as np
import pandas as pd
from scipy import special

from rfray.stats.intervals import TAIL, wilson
from rfray.store.run_dir import RunDir

PSEUDO = 0.1
"""So much of a group of hits, and of one of misses, is added before the design effect is computed: without, it is far
too small by chance where few groups have all the misses. Chosen by simulation (tests/stats/test_clusters.py)."""
EXACT = 2048
"""Sum of the groups' differences up to which signs are flipped exactly: above, a normal distribution is as good."""


def groups_in(run: RunDir, *parts: str) -> "pd.Series[int] | None":
    """Id of each image in these parts of a run -> number of its group; None where the run has no catalog."""
    if not run.catalog_file.exists():
        return None
    found: pd.Series[int] = pd.concat([run.images(part)["group_id"] for part in parts])
    return found


def groups_of_images(ids: np.ndarray, groups: "pd.Series[int] | None") -> np.ndarray | None:
    """(n,) int: the number of the group of each of the images `ids` (n,); None where no two share one.

    `groups` is indexed by id; an image that is not in it stands alone.
    """
    if groups is None or not len(ids):
        return None
    known = pd.factorize(groups.reindex(ids))[0]
    numbers = np.unique(np.where(known < 0, len(known) + np.arange(len(known)), known), return_inverse=True)[1]
    return None if numbers.max() + 1 == len(ids) else numbers


def sums_by_group(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(k, count) float64: the sum of each row of `values` (k, n) over each group."""
    return np.array([np.bincount(groups, row, count) for row in values]).reshape(len(values), count)


def standard_errors(groups: np.ndarray | float) -> np.ndarray:
    """How many standard errors reach from the middle of a 95 % interval to its end, by the number of groups (...).

    By Student's t distribution with one degree of freedom less than there are groups, at least one: the variance is
    known from the groups alone, and with few of them it is not known well (Korn and Graubard 1998).
    """
    return np.asarray(special.stdtrit(np.maximum(groups, 2) - 1, 1 - TAIL))


def share_intervals(hits: np.ndarray, counted: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """95 % interval of the share of hits among the counted images of each row: (k, 2) float64 in [0, 1].

    `hits` and `counted` (k, n) bool; every hit is counted. Wilson's (1927) where images stand alone. With groups it is
    Wilson's of the effective numbers of images (Rao and Scott 1992), with `standard_errors`: the number is divided by
    `design_effects`. nan where no image is counted.
    """
    found, of = hits.sum(axis=1).astype(float), counted.sum(axis=1).astype(float)
    if groups is None:
        return wilson(found, of)
    effect, clusters = design_effects(hits, counted, groups)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: no image
        return wilson(found / effect, of / effect, standard_errors(clusters))


def design_effects(hits: np.ndarray, counted: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many images are worth one independent image, for the share of hits: (k,) float64; and (k,) groups counted.

    `hits` and `counted` (k, n) bool, `groups` (n,) int. It is the variance of the share as it comes from the groups
    (that of a ratio, as groups differ in size) divided by that of as many independent images; where it comes out below
    1, by chance, it is 1. For it, PSEUDO of a group more of hits and as much of misses are counted.
    """
    found, of = hits.sum(axis=1).astype(float), counted.sum(axis=1).astype(float)
    count = int(groups.max()) + 1
    sizes, inside = sums_by_group(counted, groups, count), sums_by_group(hits, groups, count)
    clusters = (sizes > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: no image
        usual = (sizes**2).sum(axis=1) / of  # images in the group of an image, on average
        more = of + 2 * PSEUDO * usual
        share = (found + PSEUDO * usual) / more
        squares = ((inside - share[:, None] * sizes) ** 2).sum(axis=1)
        squares += PSEUDO * usual**2 * (share**2 + (1 - share) ** 2)
        effect = squares / more * (clusters + 2 * PSEUDO) / (clusters + 2 * PSEUDO - 1) / (share * (1 - share))
        effect = np.where(clusters > 1, np.clip(effect, 1, np.maximum(of, 1)), of)
    return effect, clusters


def flip_signs(differences: np.ndarray) -> np.ndarray:
    """(k,) float64: two-sided p of each row of whole numbers (k, g), whose signs are flipped at random.

    `differences` says for each group how many more of its images one row has right than another. Where both are equally
    good, either sign is as likely (Fisher's randomisation test, 1935). The statistic, the sum over its root of squares,
    is that of Obuchowski (1998) for clustered pairs but for a constant. Where each group is one image it is McNemar's
    exact test. Exact, by the Fourier transform of the distribution, which is a product of cosines; normal where the
    differences sum to more than EXACT.
    """
    size = np.abs(np.rint(differences))
    total, seen = size.sum(axis=1), np.abs(np.rint(differences).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.where(total > 0, 2 * special.ndtr(-seen / np.sqrt((size**2).sum(axis=1))), 1.0)
    for row in np.flatnonzero((total > 0) & (total <= EXACT)):
        values, often = np.unique(size[row][size[row] > 0], return_counts=True)
        most = int(total[row])  # the sum is one of -most, -most + 2, … most
        angles = np.pi * np.arange((most + 1) // 2 + 1) / (most + 1)
        transform = np.prod(np.cos(np.outer(values, angles)) ** often[:, None], axis=0) * np.exp(-1j * most * angles)
        shares = np.fft.irfft(transform, most + 1)
        beyond = shares[np.abs(np.arange(-most, most + 1, 2)) >= seen[row]].sum()
        p_values[row] = np.clip(beyond, 2 * 0.5 ** often.sum(), 1)  # all groups of one sign is the least likely sum
    return np.asarray(p_values)

"""labels, scores -> AUCs, their DeLong covariance, and confidence intervals.

DeLong, DeLong and Clarke-Pearson (1988): an AUC is the mean of the *placements* of the fakes (the share of real images
scored lower), and its variance follows from the spread of the placements of both classes. Computed from ranks in
O(n log n) as by Sun and Xu (2014).
"""

from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats has the same under other names, and takes a second to import


@dataclass(frozen=True)
class Interval:
    """A confidence interval, low <= high, both in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True)
class Delong:
    """The AUCs of k score columns on the same images and how they vary together."""

    aucs: np.ndarray
    """(k,) float64 in [0, 1]."""
    covariance: np.ndarray
    """(k, k) float64: their covariance; of a difference: c[0, 0] + c[1, 1] - 2 c[0, 1]."""
    real: int
    fake: int
    """Images of each class."""


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a share of `n` independent images (Wilson 1927). Raises ValueError where `n` is 0.

    Written out: scipy's `binomtest(hits, n).proportion_ci`, which gives the same, first works out an exact test that
    nobody asked for, and takes a hundred times as long.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is not a share")
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (hits + z**2 / 2) / (n + z**2)
    reach = z / (n + z**2) * np.sqrt(hits * (n - hits) / n + z**2 / 4)
    return Interval(max(float(centre - reach), 0.0), min(float(centre + reach), 1.0))


def auc_interval(labels: np.ndarray, scores: np.ndarray, confidence: float = 0.95) -> Interval:
    """Confidence interval of the AUC of `scores` (n,), higher for fake; `labels` (n,) are 0 real, 1 fake.

    DeLong's variance on the logit scale. Raises ValueError where a class is missing or a score is nan.
    """
    found = delong(labels, scores[:, None])
    return logit_interval(float(found.aucs[0]), float(found.covariance[0, 0]), min(found.real, found.fake), confidence)


def delong(labels: np.ndarray, scores: np.ndarray, strata: np.ndarray | None = None) -> Delong:
    """AUCs and covariance of the columns of `scores` (n, k), higher for fake; `labels` (n,) are 0 real, 1 fake.

    With `strata` (n,) only images of the same stratum are compared, as the scores of different cross-validation folds
    come from different models; images of a stratum without both classes are left out. The spread is then taken over
    all placements, which presumes strata of like composition.
    Raises ValueError where a class is missing or a score is nan.
    """
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers, not nan")
    places = np.full(scores.shape, np.nan)
    for stratum in [slice(None)] if strata is None else [np.flatnonzero(strata == one) for one in np.unique(strata)]:
        inside = labels[stratum]
        if 0 < inside.sum() < len(inside):
            places[stratum] = np.column_stack([placements(inside, column) for column in scores[stratum].T])
    used = ~np.isnan(places).any(axis=1)
    fake, real = places[used & (labels == 1)], places[used & (labels == 0)]
    if not len(fake) or not len(real):
        raise ValueError("an AUC needs images of both classes")
    return Delong(fake.mean(axis=0), _of_mean(fake) + _of_mean(real), len(real), len(fake))


def placements(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each fake the share of real images scored lower, of each real image the share of fakes scored higher.

    (n,) float64 in [0, 1]; ties count half. Both classes must be there.
    """
    order = np.argsort(scores)
    is_fake, in_order = labels[order] == 1, scores[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))  # of each different score
    ends = np.append(starts[1:], len(scores))
    fakes = np.concatenate([[0], np.cumsum(is_fake)])
    fakes_below = np.repeat((fakes[starts] + fakes[ends]) / 2, ends - starts)
    reals_below = np.repeat((starts + ends) / 2, ends - starts) - fakes_below
    placed = np.empty(len(scores))
    placed[order] = np.where(is_fake, reals_below / (len(scores) - fakes[-1]), 1 - fakes_below / fakes[-1])
    return placed


def logit_interval(auc: float, variance: float, pairs: int, confidence: float = 0.95) -> Interval:
    """Interval of an AUC from its variance; `pairs` is the size of the smaller class.

    On the logit scale, since it stays within [0, 1] and covers better near 1 than the plain one (Pepe 2003, 5.2).
    Where the variance is 0 (an AUC of 1, say), DeLong has nothing to say: then the exact binomial interval
    (Clopper and Pearson 1934) of `pairs` independent real-fake pairs, which is wider than it need be.
    """
    tail = (1 - confidence) / 2
    if variance <= 0 or not 0 < auc < 1:
        right, wrong = pairs * auc, pairs * (1 - auc)
        low = float(special.betaincinv(right, wrong + 1, tail)) if right > 0 else 0.0
        return Interval(low, float(special.betaincinv(right + 1, wrong, 1 - tail)) if wrong > 0 else 1.0)
    centre = np.log(auc / (1 - auc))
    reach = float(special.ndtri(1 - tail)) * np.sqrt(variance) / (auc * (1 - auc))
    return Interval(*(float(1 / (1 + np.exp(-end))) for end in (centre - reach, centre + reach)))


def _of_mean(values: np.ndarray) -> np.ndarray:
    """(k, k): covariance of the column means of (m, k) values in [0, 1]; of one row, the greatest variance possible."""
    if len(values) == 1:
        return np.diag(values[0] * (1 - values[0]))
    return np.atleast_2d(np.cov(values, rowvar=False)) / len(values)

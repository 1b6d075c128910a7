"""Figures on two different sets of images -> whether they differ: AUCs, or shares, that are independent."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from rfray.stats.intervals import Z


@dataclass(frozen=True)
class Difference:
    """What a figure on one set is, less the same on another."""

    value: float
    low: float
    high: float
    """Of its 95 % interval."""
    p: float
    """Two-sided."""


def auc_variance(auc: float, low: float, high: float) -> float:
    """The variance of an AUC from its 95 % interval, the inverse of `intervals.auc_interval`.

    Of an interval on the logit scale, exact. Of an AUC of 0 or 1, whose interval is the binomial one, it is that of a
    normal distribution whose interval reaches as far.
    """
    if 0 < auc < 1 and low > 0 and high < 1:
        reach = (special.logit(high) - special.logit(low)) / 2
        return float((reach / Z * auc * (1 - auc)) ** 2)
    return float((max(high - auc, auc - low) / Z) ** 2)


def auc_difference(auc: float, variance: float, other: float, other_variance: float) -> Difference:
    """Of two AUCs on different images, from their variances (DeLong's), by the normal distribution.

    Hanley and McNeil (1983, equation 1) without the correlation, which is 0 for sets without an image in common.
    """
    return _difference(auc - other, variance + other_variance, variance + other_variance)


def independent_images(share: float, low: float, high: float) -> float:
    """Of how many independent images a share has a 95 % interval as wide as this: the inverse of `intervals.wilson`.

    Where images belong together, they are fewer than there are images: see `clusters.share_intervals`.
    """
    width, square = high - low, Z**2
    # width of Wilson's interval, squared: 4 square (n share (1 - share) + square / 4) / (n + square)^2; solved for n
    half = square * (width**2 - 2 * share * (1 - share))
    return float((np.sqrt(half**2 + (width * square) ** 2 * (1 - width**2)) - half) / width**2)


def share_difference(share: float, n: float, other: float, other_n: float) -> Difference:
    """Of two shares of different images: the z test of two proportions with their common variance.

    `n` and `other_n` are numbers of images that are independent: see `independent_images`. The interval takes the
    variance of each by itself (Fleiss, Levin and Paik 2003, section 3.2).
    """
    common = (share * n + other * other_n) / (n + other_n)
    tested = common * (1 - common) * (1 / n + 1 / other_n)
    return _difference(share - other, share * (1 - share) / n + other * (1 - other) / other_n, tested)


def _difference(value: float, variance: float, tested: float) -> Difference:
    """With the variance for the interval, and that which the test takes; p is 1 where both are the same for certain."""
    reach = Z * np.sqrt(variance)
    p = float(2 * special.ndtr(-abs(value) / np.sqrt(tested))) if tested > 0 else float(value == 0)
    return Difference(value, float(max(value - reach, -1)), float(min(value + reach, 1)), p)

"""counts, AUCs and their variances -> 95 % confidence intervals: low and high."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # scipy.stats has the same under other names, and takes a second to import

TAIL = (1 - 0.95) / 2
"""Probability on either side of a 95 % interval."""
Z = float(special.ndtri(1 - TAIL))
"""So many standard errors are half of a 95 % interval."""


def wilson(hits: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Score interval of the share `hits` / `n` of independent images (Wilson 1927).

    Written out, as scipy's `binomtest(hits, n).proportion_ci` takes one share at a time and a hundred times as long.

    Args:
        hits: (...) numbers between 0 and `n`.
        n: (...) numbers of images.

    Returns:
        (..., 2) float64 in [0, 1]: low and high; nan where `n` is 0.
    """
    hits, n = np.asarray(hits), np.asarray(n)
    with np.errstate(invalid="ignore"):  # 0 / 0: no image
        centre = (hits + Z**2 / 2) / (n + Z**2)
        reach = Z / (n + Z**2) * np.sqrt(hits * (n - hits) / n + Z**2 / 4)
    return np.asarray(np.clip(np.stack([centre - reach, centre + reach], axis=-1), 0, 1))


def auc_interval(auc: float, variance: float, pairs: int) -> tuple[float, float]:
    """Interval of an AUC from its variance, on the logit scale: low and high, in [0, 1].

    The logit scale stays within [0, 1] and covers better near 1 than the plain one (Pepe 2003, section 5.2). Where the
    variance is 0 (at an AUC of 1, for example) that gives no interval. Then it is the exact binomial one (Clopper and
    Pearson 1934) of `pairs` independent pairs of a real and a fake image, which is wider than it has to be.

    Args:
        auc: in [0, 1].
        variance: of the AUC, >= 0.
        pairs: number of images in the smaller class.
    """
    if variance <= 0 or not 0 < auc < 1:
        right, wrong = pairs * auc, pairs * (1 - auc)
        low = float(special.betaincinv(right, wrong + 1, TAIL)) if right > 0 else 0.0
        return low, float(special.betaincinv(right + 1, wrong, 1 - TAIL)) if wrong > 0 else 1.0
    centre = np.log(auc / (1 - auc))
    reach = Z * np.sqrt(variance) / (auc * (1 - auc))
    return float(1 / (1 + np.exp(reach - centre))), float(1 / (1 + np.exp(-centre - reach)))

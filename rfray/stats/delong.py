"""labels and the scores of k rows -> their AUCs, how far those vary, and their differences from one row's AUC.

DeLong, DeLong and Clarke-Pearson (1988): an AUC is the mean of the *placements* of the fake images (the share of real
images with a lower score), and its variance follows from how the placements of both classes vary. Computed from ranks
in O(n log n), as by Sun and Xu (2014).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from rfray.stats.intervals import Z, auc_interval

NOISE = 1e-28
"""A variance of this or less is rounding: one image of ten million with another placement gives more."""


@dataclass(frozen=True)
class AucDifferences:
    """AUCs of k rows, each minus that of one reference row on the same images."""

    values: np.ndarray
    """(k,) float64 in [-1, 1]."""
    variances: np.ndarray
    """(k,) float64: DeLong's; nan where a class has one image only and its placements differ."""
    pairs: int
    """Images of the smaller class."""

    @cached_property
    def p_values(self) -> np.ndarray:
        """(k,) float64: two-sided p of DeLong's paired test; 1 where all placements are the same.

        Where the variance is 0 but the AUCs differ (one is 1 and one 0, for example) that test is undefined. Then it is
        the sign test of as many independent pairs as the difference amounts to.
        """
        size = np.abs(self.values)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_delong = 2 * special.ndtr(-size / np.sqrt(self.variances))
        by_sign = np.minimum(1, 2 * 0.5 ** (size * self.pairs))
        return np.asarray(np.where(self.variances <= NOISE, by_sign, by_delong))

    def interval(self, row: int) -> tuple[float, float]:
        """The 95 % interval of one row's difference, in [-1, 1]; nan where its variance is.

        Where the variance is 0 but the AUCs differ, the exact interval of `auc_interval`.
        """
        value, variance = float(self.values[row]), float(self.variances[row])
        if variance <= NOISE and value:
            low, high = auc_interval(abs(value), 0, self.pairs)
            return (low, high) if value > 0 else (-high, -low)
        reach = Z * np.sqrt(variance)
        return float(np.maximum(value - reach, -1)), float(np.minimum(value + reach, 1))


@dataclass(frozen=True)
class Placements:
    """The placements of the images of each class among those of the other, by each of k rows of scores."""

    real: np.ndarray
    """(k, r) float64 in [0, 1]: of each real image the share of fake images with a higher score; ties count half."""
    fake: np.ndarray
    """(k, f) float64 in [0, 1]: of each fake image the share of real images with a lower score; ties count half."""

    @property
    def pairs(self) -> int:
        """Images of the smaller class."""
        return int(min(self.real.shape[1], self.fake.shape[1]))

    @cached_property
    def aucs(self) -> np.ndarray:
        """(k,) float64 in [0, 1]."""
        return np.asarray(self.fake.mean(axis=1))

    @cached_property
    def variances(self) -> np.ndarray:
        """(k,) float64: DeLong's variance of each AUC; the greatest possible of a class with one image."""
        real, fake = (_variance_of_mean(each, each[:, 0] * (1 - each[:, 0])) for each in (self.real, self.fake))
        return np.asarray(real + fake)

    @cached_property
    def intervals(self) -> np.ndarray:
        """(k, 2) float64: the 95 % interval of each AUC, as by `auc_interval`."""
        pairs = zip(self.aucs.tolist(), self.variances.tolist(), strict=True)
        return np.array([auc_interval(auc, variance, self.pairs) for auc, variance in pairs])

    def minus(self, reference: int) -> AucDifferences:
        """The rows' AUCs, each minus that of row `reference`."""
        differences = (each - each[reference] for each in (self.real, self.fake))
        real, fake = (_variance_of_mean(each, np.where(each[:, 0] == 0, 0, np.nan)) for each in differences)
        return AucDifferences(self.aucs - self.aucs[reference], np.asarray(real + fake), self.pairs)


def placements(labels: np.ndarray, scores: np.ndarray, strata: np.ndarray | None = None) -> Placements:
    """The placements of all images by each row of scores.

    Args:
        labels: (n,) 0 real, 1 fake.
        scores: (k, n) numbers, higher for fake.
        strata: (n,) compares only images of the same stratum, as the scores of different folds come from different
            models. Images of a stratum without both classes are left out. The variance is then taken over all
            placements, which assumes that the strata are alike.

    Raises:
        ValueError: where no stratum has images of both classes.
    """
    strata = np.zeros(len(labels)) if strata is None else strata
    parts = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    parts = [part for part in parts if 0 < labels[part].sum() < len(labels[part])]
    if not parts:
        raise ValueError("an AUC needs images of both classes")
    used = np.zeros(len(labels), bool)
    for part in parts:
        used[part] = True
    real, fake = used & (labels == 0), used & (labels == 1)
    found = Placements(*(np.empty((len(scores), np.count_nonzero(chosen))) for chosen in (real, fake)))

    def fill(row: int) -> None:
        values = np.empty(len(labels))
        for part in parts:
            values[part] = _placements_of(labels[part], scores[row, part])
        found.real[row], found.fake[row] = values[real], values[fake]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(len(scores))))
    return found


def _placements_of(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) float64: the placement of each image by its score in (n,); there are images of both classes."""
    order = np.argsort(scores)
    is_fake, in_order = labels[order] == 1, scores[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))  # of each different score
    ends = np.append(starts[1:], len(scores))
    fakes = np.concatenate([[0], np.cumsum(is_fake)])
    fakes_below = np.repeat((fakes[starts] + fakes[ends]) / 2, ends - starts)
    reals_below = np.repeat((starts + ends) / 2, ends - starts) - fakes_below
    found = np.empty(len(scores))
    found[order] = np.where(is_fake, reals_below / (len(scores) - fakes[-1]), 1 - fakes_below / fakes[-1])
    return found


def _variance_of_mean(values: np.ndarray, of_one: np.ndarray) -> np.ndarray:
    """(k,) float64: variance of the mean of each row of (k, m) `values`; `of_one` where m is 1."""
    return of_one if values.shape[1] == 1 else values.var(axis=1, ddof=1) / values.shape[1]

"""labels and the scores of many rows -> what each row's AUC and accuracy are against a reference row's, paired.

DeLong's test for AUCs, McNemar's exact one for accuracies, Holm's correction for as many tests as there are rows. They
take images for independent of each other.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from rfray.stats.intervals import logit_interval, placements

NOISE = 1e-28
"""A variance of this or less is rounding: one image of ten million that is placed one place apart gives more."""

PROVEN = 0.05
"""What is to be taken for better must be so rarely so much better by chance."""


@dataclass(frozen=True)
class Differences:
    """AUCs of k rows, each minus that of one reference row on the same images."""

    values: np.ndarray
    """(k,) float64 in [-1, 1]."""
    variances: np.ndarray
    """(k,) float64: DeLong's; nan where a class has one image only and the two rows place it differently."""
    pairs: int
    """Images of the smaller class."""

    @cached_property
    def p_values(self) -> np.ndarray:
        """(k,) float64: how probable a difference as large as this is, in either direction, where there is none.

        1 where all images are placed alike. Where the variance is 0 but the AUCs differ (one is 1 and one 0, say),
        DeLong has nothing to say: then the sign test of as many independent pairs as the difference amounts to.
        """
        size = np.abs(self.values)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_delong = 2 * special.ndtr(-size / np.sqrt(self.variances))
        by_sign = np.minimum(1, 2 * 0.5 ** (size * self.pairs))
        return np.asarray(np.where(self.variances <= NOISE, by_sign, by_delong))

    def interval(self, row: int, confidence: float = 0.95) -> tuple[float, float]:
        """Low and high of one row's difference, in [-1, 1]; nan where its variance is.

        Where the variance is 0 but the AUCs differ, that of `logit_interval`.
        """
        value, variance = float(self.values[row]), float(self.variances[row])
        if variance <= NOISE and value:
            ends = logit_interval(abs(value), 0, self.pairs, confidence)
            return (ends.low, ends.high) if value > 0 else (-ends.high, -ends.low)
        reach = float(special.ndtri((1 + confidence) / 2)) * np.sqrt(variance)
        return float(np.maximum(value - reach, -1)), float(np.minimum(value + reach, 1))


@dataclass(frozen=True)
class Placed:
    """Where k rows of scores place the images of each class among those of the other: what AUCs are the means of."""

    real: np.ndarray
    """(k, r) float64: of each real image the share of fakes scored higher."""
    fake: np.ndarray
    """(k, f) float64: of each fake the share of real images scored lower."""

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
        variances = np.zeros(len(self.real))
        for each in (self.real, self.fake):
            variances += _of_mean(each, each[:, 0] * (1 - each[:, 0]))
        return variances

    def minus(self, reference: int) -> Differences:
        """The rows' AUCs, each minus that of row `reference`."""
        variances = np.zeros(len(self.real))
        for each in (self.real, self.fake):
            apart = each - each[reference]
            variances += _of_mean(apart, np.where(apart[:, 0] == 0, 0, np.nan))
        return Differences(self.aucs - self.aucs[reference], variances, self.pairs)


def place(labels: np.ndarray, scores: np.ndarray) -> Placed:
    """Places the images by each row of `scores` (k, n), higher for fake; `labels` (n,) are 0 real, 1 fake.

    Raises ValueError where a class is missing.
    """
    is_fake = labels == 1
    if is_fake.all() or not is_fake.any():
        raise ValueError("an AUC needs images of both classes")
    found = Placed(*(np.empty((len(scores), np.count_nonzero(chosen))) for chosen in (~is_fake, is_fake)))

    def fill(row: int) -> None:
        placed = placements(labels, scores[row])
        found.real[row], found.fake[row] = placed[~is_fake], placed[is_fake]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(len(scores))))
    return found


def mcnemar(right: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(k,) float64: how probable it is that one of two is right alone so unevenly often, were they equally good.

    `right` (k, n) and `reference` (n,) bool: whether the image is called what it is, by each row and by the one that
    they are compared with. McNemar (1947) in its exact form: scipy's two-sided `binomtest` of a half, all rows at once.
    """
    alone, other_alone = ((right & ~reference).sum(axis=1), (~right & reference).sum(axis=1))
    p_values = 2 * special.bdtr(np.minimum(alone, other_alone), alone + other_alone, 0.5)
    return np.asarray(np.minimum(1, p_values))


def pays(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the AUC of `after` (n,) is higher than that of `before`, as DeLong's one-sided test has it (p < 0.05)."""
    if not 0 < labels.sum() < len(labels) or not np.isfinite([before, after]).all():
        return False
    gained = place(labels, np.stack([before, after])).minus(0)
    return bool(gained.values[1] > 0 and gained.p_values[1] / 2 < PROVEN)


def clearly_worse(labels: np.ndarray, scores: np.ndarray, times: float) -> dict[int, float]:
    """Row -> p of each row of `scores` (k, n) whose AUC is clearly lower than that of the first one.

    That is where 1 - AUC is more than so many `times` as large (of many images, the smallest difference is none of
    chance), and would be larger by chance in less than 5 % of cases (DeLong's paired test, corrected by Holm's method).
    None is where a class is missing.
    """
    if not 0 < labels.sum() < len(labels):
        return {}
    placed = place(labels, scores)
    corrected = holm(placed.minus(0).p_values[1:])
    wrong = 1 - placed.aucs
    return {row: float(p) for row, p in enumerate(corrected, start=1) if p < PROVEN and wrong[row] > times * wrong[0]}


def holm(p_values: np.ndarray) -> np.ndarray:
    """(k,) float64: p values corrected for their number (Holm 1979); nan stays nan, and is not counted.

    The smallest times their number, the next times one less, and so on; none less than the one before it.
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # nan goes last
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    return corrected


def _of_mean(values: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """(k,) float64: variance of the mean of each row of (k, m) `values`; `alone` where m is 1."""
    return alone if values.shape[1] == 1 else values.var(axis=1, ddof=1) / values.shape[1]

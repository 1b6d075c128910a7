"""labels and the scores of k rows -> their AUCs with intervals, and which rows paired tests tell from one of them.

DeLong, DeLong and Clarke-Pearson (1988): an AUC is the mean of the *placements* of the fake images (the share of real
images with a lower score), and its variance follows from how the placements of both classes vary. Computed from ranks
in O(n log n), as by Sun and Xu (2014).

Where images belong together, variances are those of Obuchowski (1997, Biometrics 53:567), in which whole groups are
what single images are to DeLong: they vary by the sums of their placements, and a group with both classes has a
covariance, too. Where each group is one image both are the same.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from rfray.stats.clusters import flip_signs, standard_errors, sums_by_group
from rfray.stats.intervals import NOISE, Z, auc_interval

LEVEL = 0.05
"""The usual level of significance (Fisher 1925): rows differ where p is less."""


@dataclass(frozen=True)
class AucDifferences:
    """AUCs of k rows, each minus that of one reference row on the same images."""

    values: np.ndarray
    """(k,) float64 in [-1, 1]."""
    variances: np.ndarray
    """(k,) float64: DeLong's; nan where a class has one image only and its placements differ."""
    p_values: np.ndarray
    """(k,) float64: two-sided p of DeLong's paired test; 1 where all placements are the same, nan as `variances`."""
    intervals: np.ndarray
    """(k, 2) float64 in [-1, 1]: 95 %; nan as `variances`."""


@dataclass(frozen=True)
class Placements:
    """The placements of the images of each class among those of the other, by each of k rows of scores."""

    real: np.ndarray
    """(k, r) float64 in [0, 1]: of each real image the share of fake images with a higher score; ties count half."""
    fake: np.ndarray
    """(k, f) float64 in [0, 1]: of each fake image the share of real images with a lower score; ties count half."""
    groups: tuple[np.ndarray, np.ndarray] | None = None
    """(r,) and (f,) int: the number of the group of each real and each fake image; None: each stands alone."""

    @cached_property
    def counts(self) -> tuple[int, int]:
        """How many independent pieces of evidence the real and the fake images are: images, or groups of them."""
        if self.groups is None:
            return self.real.shape[1], self.fake.shape[1]
        real, fake = (len(np.unique(each)) for each in self.groups)
        return real, fake

    @property
    def pairs(self) -> int:
        """Images, or groups, of the smaller class."""
        return min(self.counts)

    @cached_property
    def errors(self) -> float:
        """So many standard errors are half of a 95 % interval."""
        return Z if self.groups is None else float(standard_errors(self.pairs))

    @cached_property
    def aucs(self) -> np.ndarray:
        """(k,) float64 in [0, 1]."""
        return np.asarray(self.fake.mean(axis=1))

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """What the AUCs vary by, of the real and of the fake: placements, or (k, g) how far each group's sum is off.

        That is the sum of the placements of the class's images in each group, minus as many times their mean.
        """
        if self.groups is None:
            return self.real, self.fake
        count = 1 + max(int(each.max()) for each in self.groups)
        centred = (each - each.mean(axis=1, keepdims=True) for each in (self.real, self.fake))
        real, fake = (sums_by_group(each, of, count) for each, of in zip(centred, self.groups, strict=True))
        return real, fake

    @cached_property
    def variances(self) -> np.ndarray:
        """(k,) float64: the variance of each AUC; the greatest possible of a class with one image or group."""
        means = (each.mean(axis=1) for each in (self.real, self.fake))
        return self.variances_of(self.parts, [mean * (1 - mean) for mean in means])

    @cached_property
    def intervals(self) -> np.ndarray:
        """(k, 2) float64: the 95 % interval of each AUC, as by `auc_interval`."""
        pairs = zip(self.aucs.tolist(), self.variances.tolist(), strict=True)
        return np.array([auc_interval(auc, variance, self.pairs, self.errors) for auc, variance in pairs])

    @cached_property
    def covariance(self) -> np.ndarray:
        """(k, k) float64: of the AUCs; its diagonal are the variances. Both classes need two images, or groups."""
        real, fake = (each - each.mean(axis=1, keepdims=True) for each in self.parts)
        found, sizes = np.zeros((len(real), len(real))), (self.real.shape[1], self.fake.shape[1])
        for each, images, count in zip((real, fake), sizes, self.counts, strict=True):
            found += each @ each.T * (count / (count - 1) / images**2)
        if self.groups is not None:
            count = len(np.unique(np.concatenate(self.groups)))
            both = real @ fake.T * (count / (count - 1) / (sizes[0] * sizes[1]))
            found += both + both.T
        return found

    def variances_of(self, parts: Sequence[np.ndarray], of_one: Sequence[np.ndarray]) -> np.ndarray:
        """(k,) float64: the variances of sums of AUCs from the same sums of their `parts`.

        `of_one`, (k,) for real and fake each, stands for the part of a class that has one image, or group, only.
        """
        found = np.zeros(len(parts[0]))
        sizes = self.real.shape[1], self.fake.shape[1]
        for each, images, count, one in zip(parts, sizes, self.counts, of_one, strict=True):
            if count == 1:
                found += one
            elif self.groups is None:
                found += each.var(axis=1, ddof=1) / images
            else:
                found += np.einsum("kg,kg->k", each, each) * (count / (count - 1) / images**2)
        if self.groups is not None:
            count = len(np.unique(np.concatenate(self.groups)))
            if count > 1:
                found += np.einsum("kg,kg->k", *parts) * (2 * count / (count - 1) / (sizes[0] * sizes[1]))
        return found

    def minus(self, reference: int) -> AucDifferences:
        """The rows' AUCs, each minus that of row `reference`.

        Where the variance is 0 but the AUCs differ (one is 1 and one 0, for example) DeLong's test is undefined. Then p
        is that of the sign test of as many independent pairs as the difference amounts to, and the interval the exact
        one of `auc_interval`.
        """
        differences = [each - each[reference] for each in self.parts]
        apart = ((each != each[reference]).any(axis=1) for each in (self.real, self.fake))
        variances = self.variances_of(differences, [np.where(one, np.nan, 0) for one in apart])
        values = self.aucs - self.aucs[reference]
        size, reach = np.abs(values), self.errors * np.sqrt(variances)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_delong = 2 * self.tail(size / np.sqrt(variances))
        by_sign = np.minimum(1, 2 * 0.5 ** (size * self.pairs))
        intervals = np.stack([np.maximum(values - reach, -1), np.minimum(values + reach, 1)], axis=1)
        for row in np.flatnonzero((variances <= NOISE) & (values != 0)):
            low, high = auc_interval(float(size[row]), 0, self.pairs)
            intervals[row] = (low, high) if values[row] > 0 else (-high, -low)
        return AucDifferences(values, variances, np.where(variances <= NOISE, by_sign, by_delong), intervals)

    def tail(self, errors: np.ndarray) -> np.ndarray:
        """Probability that a difference comes out so many standard errors above what it is; as `errors`."""
        if self.groups is None:
            return np.asarray(special.ndtr(-errors))
        return np.asarray(special.stdtr(max(self.pairs - 1, 1), -errors))

    def quantile(self, p_values: np.ndarray) -> np.ndarray:
        """How many standard errors have this `tail`."""
        if self.groups is None:
            return np.asarray(-special.ndtri(p_values))
        return np.asarray(-special.stdtrit(max(self.pairs - 1, 1), p_values))


def placements(
    labels: np.ndarray, scores: np.ndarray, strata: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Placements:
    """The placements of all images, `labels` (n,) 0 real, 1 fake, by each row of `scores` (k, n), higher for fake.

    With `strata` (n,) only images of the same stratum are compared, as the scores of different folds come from
    different models, and those of a stratum without both classes are left out. The variance is then taken over all
    placements, which assumes that the strata are alike. Images with the same number in `groups` (n,) int belong
    together. Raises ValueError where no stratum has images of both classes.
    """
    strata = np.zeros(len(labels)) if strata is None else strata
    parts = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    parts = [part for part in parts if 0 < labels[part].sum() < len(labels[part])]
    if not parts:
        raise ValueError("an AUC needs images of both classes")
    found, used = np.empty(scores.shape), np.sort(np.concatenate(parts))

    def fill(row: int) -> None:
        for part in parts:
            found[row, part] = _placements_of(labels[part], scores[row, part])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(len(scores))))
    real, fake = (used[labels[used] == label] for label in (0, 1))
    numbers = None if groups is None else np.unique(groups[used], return_inverse=True)[1]
    if numbers is None or numbers.max() + 1 == len(used):
        return Placements(found.take(real, axis=1), found.take(fake, axis=1))
    by_image = np.zeros(len(labels), int)
    by_image[used] = numbers
    return Placements(found.take(real, axis=1), found.take(fake, axis=1), (by_image[real], by_image[fake]))


def accuracy_p_values(right: np.ndarray, reference: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """(k,) float64: two-sided p of each of k rows being right as often as one: `mcnemar`, or with groups `flip_signs`.

    `right` (k, n) and `reference` (n,) bool as for `mcnemar`, `groups` (n,) int numbers from 0.
    """
    if groups is None:
        return mcnemar(right, reference)
    return flip_signs(sums_by_group(right.astype(float) - reference, groups, int(groups.max()) + 1))


def mcnemar(right: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(k,) float64: two-sided p of McNemar's test (1947) in its exact form, for each of k rows against one.

    `right` (k, n) bool says whether each row classifies the image correctly, `reference` (n,) bool the same of the row
    that they are compared with. It is scipy's `binomtest` of a half, for all rows at once.
    """
    alone, other_alone = ((right & ~reference).sum(axis=1), (~right & reference).sum(axis=1))
    return np.asarray(np.minimum(1, 2 * special.bdtr(np.minimum(alone, other_alone), alone + other_alone, 0.5)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """(k,) float64: p values corrected for their number (Holm 1979); nan stays nan, and is not counted.

    The smallest is multiplied by their number, the next by one less, and so on; none is less than the one before it.
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # nan goes last
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    return corrected


def improves_auc(labels: np.ndarray, before: np.ndarray, after: np.ndarray, groups: np.ndarray | None = None) -> bool:
    """Whether `after` (n,) has a higher AUC than `before` (n,) by DeLong's one-sided test at LEVEL; no if undefined.

    `groups` (n,) int: see `placements`.
    """
    if not 0 < labels.sum() < len(labels) or not np.isfinite([before, after]).all():
        return False
    gained = placements(labels, np.stack([before, after]), groups=groups).minus(0)
    return bool(gained.values[1] > 0 and gained.p_values[1] / 2 < LEVEL)


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

"""AUCs of several rows on the same images -> which of them are worse than the best one, all rows looked at together.

The best of many was picked after looking, so it is better by luck, too, and a test between it and another row finds
differences too often. These are multiple comparisons with the best (Hsu 1984): every row is compared with every other
at once, and how far it is behind is held against how far, by chance, any of them would be behind any. The chance is
that of the joint normal distribution of all AUCs (with groups Student's t), with DeLong's or Obuchowski's covariance,
and is drawn. The p values are stepped down (Westfall and Young 1993): also where several rows are equally good and the
best, none of them is called worse in 95 % of cases. Hsu's own value says that of one row alone.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rfray.stats.intervals import NOISE
from rfray.stats.paired_tests import LEVEL, Placements, placements

DRAWS, FEWEST_DRAWS = 100_000, 500
"""Of the joint distribution, at the most and at least: 100,000 give a p of 0.05 to 0.0007, 500 to 0.01."""
PAIRS = 1e8
"""Differences that are drawn in between: of 31 rows 100,000 times, of 100 rows 10,000 times, in about a second."""
SURE = 1e-4
"""A row with a smaller p by Bonferroni's method needs no draws."""
FAR = 4.0
"""A row that is more standard errors ahead of another than this can't fall behind it by chance: the two are taken to
differ by what is more (as by Hansen 2005; else rows that are far behind would count as if they were not)."""


def worse_than_best(placed: Placements, times: float = 1.0, reference: int | None = None) -> np.ndarray:
    """(k,) float64: p of each row's 1 - AUC being more than `times` (>= 1) that of another row, corrected for all rows.

    It is tested whether 1 - AUC_i - `times` (1 - AUC_j) is above 0, which is linear in the AUCs. With a `reference` the
    rows are compared with this one alone, which may have been picked after looking at the images, by whatever rule.
    nan where a class has one image or group only, but 1 for rows that rank as the best (or the reference) does.
    """
    to = int(placed.aucs.argmax()) if reference is None else reference
    if 1 in placed.counts:
        alike = [(each == each[to]).all(axis=1) for each in (placed.real, placed.fake)]
        return np.where(alike[0] & alike[1], 1.0, np.nan)
    wrong, count = 1 - placed.aucs, len(placed.aucs)
    if count < 2:
        return np.ones(count)
    covariance = placed.covariance
    own = np.diag(covariance)
    gaps = wrong[:, None] - times * wrong
    variances = own[:, None] + times**2 * own - 2 * times * covariance
    known = variances > NOISE + 1e-12 * (own[:, None] + times**2 * own)  # else it is rounding
    np.fill_diagonal(known, val=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = 1 / np.sqrt(np.where(known, variances, 1))
        by_sign = placed.quantile(np.minimum(0.5, 0.5 ** (np.maximum(gaps, 0) * placed.pairs)))  # as in `minus`
    ahead = np.where(known, gaps * errors, np.where(gaps > 0, by_sign, -np.inf))
    np.fill_diagonal(ahead, -np.inf)
    seen = ahead.max(axis=1) if reference is None else ahead[:, reference]
    p_values = np.minimum(1, count * (count - 1) * placed.tail(seen))
    p_values[seen <= 0] = 1
    drawn_for = seen > 0  # of a pair without variance nothing is drawn
    drawn_for &= known[np.arange(count), ahead.argmax(axis=1)] if reference is None else known[:, reference]
    left = np.flatnonzero(p_values >= SURE)
    if len(left) > 1:
        inside = np.ix_(left, left)
        offsets = np.where(known[inside], np.minimum(0, ahead[inside] + FAR), -np.inf)
        drawn = _most_by_chance(placed, covariance[inside], errors[inside], offsets, times)
        found = np.minimum(_stepped_down(drawn, seen[left]), len(left) * (len(left) - 1) * placed.tail(seen[left]))
        p_values[left] = np.where(drawn_for[left], found, p_values[left])
    return np.asarray(p_values)


def clearly_worse(
    labels: np.ndarray, scores: np.ndarray, times: float, groups: np.ndarray | None = None
) -> dict[int, float]:
    """Row -> p of each row of `scores` (k, n) that is clearly worse than the first one, the best by any measure.

    That is where 1 - AUC is proven at LEVEL to be more than `times` as large, by `worse_than_best`: with many images
    even a tiny difference is proven, so that it has to be a large one. `groups` (n,) int: see `placements`. Empty where
    a class is missing.
    """
    if not 0 < labels.sum() < len(labels):
        return {}
    p_values = worse_than_best(placements(labels, scores, groups=groups), times, reference=0)
    return {row: float(p) for row, p in enumerate(p_values) if row and p < LEVEL}


def _most_by_chance(
    placed: Placements, covariance: np.ndarray, errors: np.ndarray, offsets: np.ndarray, times: float
) -> np.ndarray:
    """(b, s) float32: in each of b draws, how many standard errors each of s rows seems behind any other.

    `errors` (s, s) is 1 / the standard error of each difference, `offsets` (s, s) is added to it.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    random, count = np.random.default_rng(0), len(covariance)
    draws = random.normal(size=(int(np.clip(PAIRS / count**2, FEWEST_DRAWS, DRAWS)), count)) @ root
    if placed.groups is not None:
        freedom = max(placed.pairs - 1, 1)
        draws *= np.sqrt(freedom / random.chisquare(freedom, (len(draws), 1)))
    single = draws.astype(np.float32)

    def most(row: int) -> np.ndarray:
        behind = times * single
        behind -= single[:, row, None]
        behind *= errors[row].astype(np.float32)
        behind += offsets[row].astype(np.float32)
        return np.asarray(behind.max(axis=1))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(most, range(count))), axis=1)


def _stepped_down(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(s,) float64: p of each of `seen` (s,): how often the greatest `drawn` (b, s) of it and the lower is more.

    What was seen counts as one more draw, so that p is never 0 (Phipson and Smyth 2010).
    """
    order = np.argsort(seen)
    greatest = np.maximum.accumulate(drawn[:, order], axis=1)
    p_values = np.empty(len(seen))
    beyond = (greatest >= seen[order]).sum(axis=0)
    p_values[order] = np.maximum.accumulate(((beyond + 1) / (len(drawn) + 1))[::-1])[::-1]
    return p_values

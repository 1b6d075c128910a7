"""counts, AUCs, resampled images -> 95 % confidence intervals of shares, AUCs, metrics and curves.

The bootstrap: Efron and Tibshirani (1993), chapter 13. Real and fake images are drawn separately, each as many as there
are. Where images belong together (near duplicates, one identity), whole groups are drawn (Davison and Hinkley 1997,
section 3.8), among groups of the same kind: only real, only fake, or both. So copies do not count as independent
evidence. All rows are measured on the same resamples, so that their differences can be measured on them, too.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # scipy.stats has the same under other names, and takes a second to import

from rfray.stats.predictions import Predictions

TAIL = (1 - 0.95) / 2
"""Probability on either side of a 95 % interval."""
Z = float(special.ndtri(1 - TAIL))
"""So many standard errors are half of a 95 % interval."""
NOISE = 1e-28
"""A variance of an AUC of this or less is rounding: one image of ten million with another placement gives more."""
RESAMPLES = 1000
"""As many as Efron and Tibshirani (1993, section 13.3) ask for at least."""
BANDED = 100_000
"""Images up to which curves have bands (our choice): 1,000 resamples of as many take 100 MB and some seconds."""
CHUNK = 25
"""Resamples that are computed at once: 25 x 20,000 images as float32 are 2 MB, which stays in a core's cache."""
POINTS = 101
"""Evenly spaced points at which the band of a curve is computed: one every percent."""


def wilson(hits: ArrayLike, n: ArrayLike, errors: ArrayLike = Z) -> np.ndarray:
    """Score interval of the share `hits` / `n` of independent images (Wilson 1927): (..., 2) float64 in [0, 1].

    `hits` (...) and `n` (...) are numbers of images; nan where `n` is 0. `errors` (...): so many standard errors reach
    from the middle to an end. Written out, as scipy's `binomtest` takes one share at a time and far longer.
    """
    hits, n, z = np.asarray(hits), np.asarray(n), np.asarray(errors)
    with np.errstate(invalid="ignore"):  # 0 / 0: no image
        centre = (hits + z**2 / 2) / (n + z**2)
        reach = z / (n + z**2) * np.sqrt(np.maximum(hits * (n - hits) / n, 0) + z**2 / 4)  # 0: rounded below
    return np.asarray(np.clip(np.stack([centre - reach, centre + reach], axis=-1), 0, 1))


def auc_interval(auc: float, variance: float, pairs: int, errors: float = Z) -> tuple[float, float]:
    """Interval of an AUC in [0, 1] from its variance (>= 0), on the logit scale: low and high, in [0, 1].

    The logit scale stays within [0, 1] and covers better near 1 than the plain one (Pepe 2003, section 5.2). So many
    standard `errors` reach from the middle to an end. Where the variance is 0 but for NOISE (at an AUC of 1, for
    example) that gives no interval. Then it is the exact binomial one (Clopper and Pearson 1934) of as many independent
    pairs as the smaller class has images, or groups of them, which is wider than it has to be.
    """
    if variance <= NOISE or not 0 < auc < 1:
        right, wrong = pairs * auc, pairs * (1 - auc)
        low = float(special.betaincinv(right, wrong + 1, TAIL)) if right > 0 else 0.0
        return low, float(special.betaincinv(right + 1, wrong, 1 - TAIL)) if wrong > 0 else 1.0
    centre = np.log(auc / (1 - auc))
    reach = errors * np.sqrt(variance) / (auc * (1 - auc))
    return float(1 / (1 + np.exp(reach - centre))), float(1 / (1 + np.exp(-centre - reach)))


@dataclass(frozen=True)
class Band:
    """A confidence interval of a curve at each of POINTS points, each by itself; (POINTS,) float64 in [0, 1]."""

    at: np.ndarray
    """False-positive rates, or recalls, rising."""
    low: np.ndarray
    high: np.ndarray


def resample(labels: np.ndarray, groups: np.ndarray | None = None, count: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(count, n) uint8: how often each image is in each resample.

    `labels` (n,) are 0 real, 1 fake; images with the same number in `groups` (n,) are drawn together. A group that is
    the only one of its kind (real, fake, both) is divided into its images, as it does not show how groups vary.
    """
    group = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    kinds = _kinds(labels, group)
    divided = (np.bincount(kinds, minlength=4) == 1)[kinds[group]]
    group = np.unique(np.where(divided, len(labels) + np.arange(len(labels)), group), return_inverse=True)[1]
    kinds = _kinds(labels, group)
    strata = [np.flatnonzero(kinds == one) for one in np.unique(kinds)]
    generator = np.random.default_rng(seed)
    weights = np.empty((count, len(labels)), np.uint8)  # nobody is drawn 256 times
    drawn = np.empty(len(kinds), np.uint8)
    for weight in weights:
        for stratum in strata:
            size = len(stratum)
            drawn[stratum] = np.bincount(generator.integers(size, size=size), minlength=size)
        weight[:] = drawn[group]
    return weights


def bootstrap(
    labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Name of a metric -> (k, b) float64: its value for each row of `scores` (k, n) in each resample.

    `thresholds` (k,): an image is called fake where its score >= this; `weights` (b, n) are those of `resample`.
    A metric that is undefined in a resample (precision without a positive call, AUC without both classes) is nan.
    """
    is_fake = labels == 1
    called = scores >= thresholds[:, None]
    real, fake = (np.ascontiguousarray(weights[:, chosen]) for chosen in (~is_fake, is_fake))
    reals, fakes = real.sum(axis=1, dtype=np.float64), fake.sum(axis=1, dtype=np.float64)
    true_positives, false_positives = _counts(called[:, is_fake], fake), _counts(called[:, ~is_fake], real)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wins = list(pool.map(lambda row: _wins(row[~is_fake], row[is_fake], real, fake), scores))
    with np.errstate(invalid="ignore"):  # 0 / 0: undefined
        return {
            "accuracy": (true_positives + reals - false_positives) / (reals + fakes),
            "precision": true_positives / (true_positives + false_positives),
            "recall": true_positives / fakes,
            "auc": np.array(wins).reshape(len(scores), len(weights)) / (reals * fakes),
        }


def percentile_intervals(values: np.ndarray) -> np.ndarray:
    """(k, 2) float64: the 95 % interval of each row of `values` (k, b), without its nan; nan where all are nan."""
    ends = np.full((len(values), 2), np.nan)
    for end, row in zip(ends, values, strict=True):
        if len(known := row[~np.isnan(row)]):
            end[:] = np.quantile(known, [TAIL, 1 - TAIL])
    return ends


def curve_bands(predictions: Predictions, groups: np.ndarray | None = None) -> tuple[Band, Band] | None:
    """Bands of the recall at each false-positive rate from 0 to 1 (ROC), and of the precision at each recall above 0.

    That is the precision at the highest threshold that reaches the recall. A band holds the middle 95 % of the curves
    of all resamples at each point, and is nowhere narrower than Wilson's interval: where no image is on the wrong side
    all resamples agree, but a few images prove no perfect curve. Whole `groups` (n,) int are drawn, and Wilson's
    interval is of the effective number of images. None where a class is missing, or of more than BANDED images.
    """
    ranking = np.argsort(-predictions.p_fake, kind="stable")
    labels, scores = predictions.labels[ranking], predictions.p_fake[ranking]
    if len(labels) > BANDED or not 0 < labels.sum() < len(labels):
        return None
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last image of each different score
    together = None if groups is None else groups[ranking]
    rates, recalls = np.linspace(0, 1, POINTS), np.linspace(0, 1, POINTS + 1)[1:]

    def curves(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recall at each of `rates`, precision at each of `recalls`, and of how many positive calls; (POINTS,) each.

        Each image, by falling scores, counts as often as `weights` says. Where the ROC curve rises, its highest point
        counts; between two points it is straight.
        """
        true = np.append(0.0, np.cumsum(weights * labels)[ends])
        false = np.append(0.0, np.cumsum(weights)[ends]) - true
        recall = np.interp(rates, false / false[-1], true / true[-1])
        first = np.searchsorted(true, recalls * true[-1] - 1e-9)  # counts: a recall of 3/7 shall be reached by 3 of 7
        calls = true[first] + false[first]
        return recall, true[first] / calls, calls

    found = np.array([curves(weights)[:2] for weights in resample(labels, together)])
    lows, highs = np.quantile(found, [TAIL, 1 - TAIL], axis=0)
    recall, precision, calls = curves(np.ones(len(labels)))
    sizes = np.full(POINTS, labels.sum()), calls
    if together is not None:  # so many images count as one: by the curves' variance, at most a whole group
        alone = sum(float((p * (1 - p) / n).sum()) for p, n in zip((recall, precision), sizes, strict=True))
        most = len(labels) / len(np.unique(together))
        effect = min(max(float(found.var(axis=0).sum()) / alone, 1.0), most) if alone else most
        sizes = sizes[0] / effect, sizes[1] / effect
    least = (wilson(share * size, size) for share, size in zip((recall, precision), sizes, strict=True))
    roc, precision_recall = (
        Band(at, np.minimum(low, span[:, 0]).clip(0, 1), np.maximum(high, span[:, 1]).clip(0, 1))
        for at, low, high, span in zip((rates, recalls), lows, highs, least, strict=True)
    )
    return roc, precision_recall


def _kinds(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Of each group: 1 only real, 2 only fake, 3 both; groups are numbered from 0."""
    return (np.bincount(group, labels == 0) > 0) + 2 * (np.bincount(group, labels == 1) > 0)


def _counts(called: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(k, b) float64: of the images `called` (k, m) bool, how many are in each resample; `weights` (b, m) uint8."""
    exact = called.astype(np.float32)  # sums of whole numbers, as long as they are below 2^24
    chunks = (weights[start : start + CHUNK].astype(np.float32) for start in range(0, len(weights), CHUNK))
    return np.concatenate([exact @ chunk.T for chunk in chunks], axis=1, dtype=np.float64)


def _wins(real_scores: np.ndarray, fake_scores: np.ndarray, real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """(b,) float64: pairs of a real and a fake image in each resample in which the fake scores higher, ties half.

    `real` (b, r) and `fake` (b, f) uint8 say how often each image is there. The real images below each fake one are
    cumulative sums in the order of the scores (Mann and Whitney 1947). Whole numbers are exact and the fastest.
    """
    order = np.argsort(real_scores)
    below = np.searchsorted(real_scores[order], fake_scores, "left")
    not_above = np.searchsorted(real_scores[order], fake_scores, "right")
    ties = bool((below < not_above).any())
    doubled = []
    for start in range(0, len(real), CHUNK):
        chunk = slice(start, start + CHUNK)
        sums = np.zeros((len(real[chunk]), len(order) + 1), np.int32)
        np.cumsum(real[chunk].take(order, axis=1), axis=1, out=sums[:, 1:])
        beaten = sums.take(below, axis=1)
        beaten += sums.take(not_above, axis=1) if ties else beaten
        doubled.append(np.einsum("bf,bf->b", beaten, fake[chunk], dtype=np.int64))
    return np.concatenate(doubled) / 2

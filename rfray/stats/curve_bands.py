"""`Predictions` -> pointwise confidence bands of its ROC and precision-recall curves, by stratified bootstrap."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rfray.stats.predictions import Predictions

RESAMPLES = 1000
POINTS = 101
"""Places, evenly spaced, at which a band is worked out."""


@dataclass(frozen=True)
class Band:
    """A confidence interval of a curve at each of POINTS places, each by itself; (POINTS,) float64 in [0, 1]."""

    at: np.ndarray
    """False-positive rates, or recalls, rising."""
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class CurveBands:
    """The bands of both curves."""

    roc: Band
    """Of the recall at each false-positive rate from 0 to 1."""
    precision_recall: Band
    """Of the precision at each recall above 0, at the highest threshold that reaches it."""


def curve_bands(predictions: Predictions, confidence: float = 0.95, seed: int = 0) -> CurveBands | None:
    """Both bands; None where a class is missing, since there are no curves then.

    Real and fake images are drawn anew RESAMPLES times, each class by itself, and a band holds the middle `confidence`
    of the curves at each place. It is nowhere narrower than Wilson's interval of the observed recall (or precision):
    where every image is on its right side all resamples agree, but a handful of images proves no perfect curve.
    """
    ranking = np.argsort(-predictions.p_fake, kind="stable")
    labels, scores = predictions.labels[ranking], predictions.p_fake[ranking]
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    if not all(map(len, classes)):
        return None
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last image of each different score
    random = np.random.default_rng(seed)
    rates, recalls = np.linspace(0, 1, POINTS), np.linspace(0, 1, POINTS + 1)[1:]
    found, precise = np.empty((RESAMPLES, POINTS)), np.empty((RESAMPLES, POINTS))
    for number in range(RESAMPLES):
        drawn = np.concatenate([random.choice(images, len(images)) for images in classes])
        true, false = _steps(labels, ends, np.bincount(drawn, minlength=len(labels)))
        found[number] = _recall_at(rates, true, false)
        precise[number] = _precision_at(recalls, true, false)[0]
    true, false = _steps(labels, ends, np.ones(len(labels)))
    of_recall = _wilson(_recall_at(rates, true, false), true[-1], confidence)
    of_precision = _wilson(*_precision_at(recalls, true, false), confidence)
    return CurveBands(
        _band(rates, found, of_recall, confidence),
        _band(recalls, precise, of_precision, confidence),
    )


def _steps(labels: np.ndarray, ends: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each score from the highest down, from 0, where image i is there `times[i]` times."""
    true = np.cumsum(times * labels)[ends]
    return np.append(0.0, true), np.append(0.0, np.cumsum(times)[ends] - true)


def _recall_at(rates: np.ndarray, true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Recall at each false-positive rate, the greatest one where the curve rises; straight between its points."""
    return np.asarray(np.interp(rates, false / false[-1], true / true[-1]))


def _precision_at(recalls: np.ndarray, true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the highest score that reaches each recall, and of how many calls it is."""
    first = np.searchsorted(true, recalls * true[-1] - 1e-9)  # counts: a recall of 3/7 shall be reached by 3 of 7
    calls = true[first] + false[first]
    return true[first] / calls, calls


def _wilson(shares: np.ndarray, n: float | np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's intervals (1927) of many shares of `n`; `intervals.wilson` takes them one by one."""
    z = stats.norm.ppf((1 + confidence) / 2)
    centre = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
    return centre - reach, centre + reach


def _band(at: np.ndarray, drawn: np.ndarray, least: tuple[np.ndarray, np.ndarray], confidence: float) -> Band:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Band(at, np.clip(np.minimum(low, least[0]), 0, 1), np.clip(np.maximum(high, least[1]), 0, 1))

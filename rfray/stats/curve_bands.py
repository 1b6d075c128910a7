"""`Predictions` -> pointwise 95 % confidence bands of its ROC and precision-recall curves, by stratified bootstrap."""

from dataclasses import dataclass

import numpy as np

from rfray.stats.bootstrap import resample
from rfray.stats.intervals import TAIL, wilson
from rfray.stats.predictions import Predictions

POINTS = 101
"""Evenly spaced points at which a band is computed: one every percent."""


@dataclass(frozen=True)
class Band:
    """A confidence interval of a curve at each of POINTS points, each by itself; (POINTS,) float64 in [0, 1]."""

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


def curve_bands(predictions: Predictions) -> CurveBands | None:
    """Both bands; None where a class is missing, since there are no curves then.

    The resamples are those of `resample` (Efron and Tibshirani 1993, chapter 13), and a band holds the middle
    95 % of their curves at each point. It is nowhere narrower than Wilson's interval of the observed recall (or
    precision): where no image is on the wrong side all resamples agree, but a few images prove no perfect curve.
    """
    ranking = np.argsort(-predictions.p_fake, kind="stable")
    labels, scores = predictions.labels[ranking], predictions.p_fake[ranking]
    if not 0 < labels.sum() < len(labels):
        return None
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last image of each different score
    rates, recalls = np.linspace(0, 1, POINTS), np.linspace(0, 1, POINTS + 1)[1:]
    drawn = [_curves(labels, ends, weights, rates, recalls) for weights in resample(labels)]
    recall, precision, calls = _curves(labels, ends, np.ones(len(labels)), rates, recalls)
    of_recall = wilson(recall * labels.sum(), labels.sum())
    of_precision = wilson(precision * calls, calls)
    return CurveBands(
        _band(rates, np.array([one[0] for one in drawn]), of_recall),
        _band(recalls, np.array([one[1] for one in drawn]), of_precision),
    )


def _curves(
    labels: np.ndarray, ends: np.ndarray, weights: np.ndarray, rates: np.ndarray, recalls: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall at each of `rates`, precision at each of `recalls`, and of how many positive calls; (POINTS,) each.

    Image i, in the order of falling scores, counts `weights[i]` times. Between two points the ROC curve is straight;
    where it rises, its highest point counts.
    """
    true = np.append(0.0, np.cumsum(weights * labels)[ends])
    false = np.append(0.0, np.cumsum(weights)[ends]) - true
    recall = np.interp(rates, false / false[-1], true / true[-1])
    first = np.searchsorted(true, recalls * true[-1] - 1e-9)  # counts: a recall of 3/7 shall be reached by 3 of 7
    calls = true[first] + false[first]
    return recall, true[first] / calls, calls


def _band(at: np.ndarray, drawn: np.ndarray, narrowest: np.ndarray) -> Band:
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL], axis=0)
    return Band(at, np.minimum(low, narrowest[:, 0]).clip(0, 1), np.maximum(high, narrowest[:, 1]).clip(0, 1))

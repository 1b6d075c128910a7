"""`Predictions` -> numbers: METRICS (each in [0, 1], higher is better), the confusion matrix, how true p_fake is.

Written out in numpy: scikit-learn gives the same, but checks twenty times as long, and takes a second to import.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rfray.stats.predictions import Predictions

THRESHOLD = 0.5
"""An image is called fake where p_fake >= this."""
BINS = 15
"""Of p_fake, equally wide, over [0, 1], as Guo et al. (2017) have them."""


@dataclass(frozen=True)
class Confusion:
    """Counts at one threshold: true and false negatives (real) and positives (fake)."""

    tn: int
    fp: int
    fn: int
    tp: int


class Outcome:
    """Predictions at one threshold, and what several metrics need of them, worked out once."""

    def __init__(self, predictions: Predictions, threshold: float = THRESHOLD) -> None:
        self.n = len(predictions)
        self.counts = confusion(predictions, threshold)
        self._predictions = predictions

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives, (k + 1,) float64 each, at the k different scores from the highest down, from 0."""
        order = np.argsort(-self._predictions.p_fake)
        labels, scores = self._predictions.labels[order], self._predictions.p_fake[order]
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        true = np.concatenate([[0.0], np.cumsum(labels, dtype=np.float64)[ends]])
        return true, np.concatenate([[0.0], ends + 1.0]) - true


def auc(outcome: Outcome) -> float:
    """Area under the ROC curve: the trapezoids between its points."""
    true, false = outcome.curve
    return _ratio(np.trapezoid(true, false), true[-1] * false[-1])


def average_precision(outcome: Outcome) -> float:
    """The precision at every score, weighted by the recall that is gained there."""
    true, false = outcome.curve
    precision = true[1:] / (true[1:] + false[1:])
    return _ratio(np.sum(np.diff(true) * precision), true[-1] if false[-1] else 0)


def balanced_accuracy(outcome: Outcome) -> float:
    """Mean of the recall of each class."""
    at = outcome.counts
    return (_ratio(at.tn, at.tn + at.fp) + _ratio(at.tp, at.tp + at.fn)) / 2


METRICS: dict[str, Callable[[Outcome], float]] = {
    "accuracy": lambda outcome: _ratio(outcome.counts.tn + outcome.counts.tp, outcome.n),
    "precision": lambda outcome: _ratio(outcome.counts.tp, outcome.counts.tp + outcome.counts.fp),
    "recall": lambda outcome: _ratio(outcome.counts.tp, outcome.counts.tp + outcome.counts.fn),
    "f1": lambda outcome: _ratio(2 * outcome.counts.tp, 2 * outcome.counts.tp + outcome.counts.fp + outcome.counts.fn),
    "auc": auc,
    "average_precision": average_precision,
    "balanced_accuracy": balanced_accuracy,
}
"""Name -> metric; nan where it is undefined. The positive class is fake."""


def metric(name: str, predictions: Predictions) -> float | None:
    """The metric called `name` at THRESHOLD, or None where it is undefined (precision without a positive call, say)."""
    return measured(predictions, THRESHOLD, (name,))[name]


def measured(predictions: Predictions, threshold: float, names: Iterable[str] = METRICS) -> dict[str, float | None]:
    """Every metric by its name, or those called `names`; None where one is undefined."""
    outcome = Outcome(predictions, threshold)
    values = {name: METRICS[name](outcome) if outcome.n else np.nan for name in names}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def confusion(predictions: Predictions, threshold: float = THRESHOLD) -> Confusion:
    """Counts of right and wrong calls at `threshold`."""
    calls = predictions.p_fake >= threshold
    return Confusion(*np.bincount(2 * predictions.labels + calls, minlength=4).tolist())


def reliability(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many images are in each of BINS, how many of them are fake, and their mean p_fake, nan in an empty bin.

    (BINS,) int, int and float64 (Murphy and Winkler 1977).
    """
    bins, given = bins_of(predictions), (None, predictions.labels, predictions.p_fake)
    counts, fakes, total = (np.bincount(bins, weights, BINS) for weights in given)
    return counts, fakes.astype(int), np.divide(total, counts, out=np.full(BINS, np.nan), where=counts > 0)


def calibration_error(predictions: Predictions) -> float | None:
    """Expected calibration error in [0, 1] (Naeini et al. 2015; Guo et al. 2017); None where there is no image.

    The mean over all images of the difference, in the image's bin, between the mean p_fake and the share of fakes.
    """
    gaps = np.bincount(bins_of(predictions), weights=predictions.p_fake - predictions.labels)
    return float(np.abs(gaps).sum() / len(predictions)) if len(predictions) else None


def brier(predictions: Predictions) -> float | None:
    """Mean squared difference between p_fake and the label (Brier 1950), in [0, 1]. None where there is no image."""
    return float(np.mean((predictions.p_fake - predictions.labels) ** 2)) if len(predictions) else None


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan


def bins_of(predictions: Predictions) -> np.ndarray:
    """(n,) int in [0, BINS): the number of each image's bin of p_fake, [a, b); 1 belongs to the last one."""
    return np.asarray(np.minimum((predictions.p_fake * BINS).astype(int), BINS - 1))

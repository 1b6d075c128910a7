"""`Predictions` -> numbers: METRICS (each in [0, 1], higher is better) and the confusion matrix.

Written out in numpy: scikit-learn, which gives the same, takes twenty times as long for its checks, and importing it
would cost the process of every trial more than a second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rfray.stats.predictions import Predictions

THRESHOLD = 0.5
"""An image is called fake where p_fake >= this."""


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
    return _value(name, Outcome(predictions))


def measured(predictions: Predictions, threshold: float) -> dict[str, float | None]:
    """Every metric by its name; None where one is undefined."""
    outcome = Outcome(predictions, threshold)
    return {name: _value(name, outcome) for name in METRICS}


def confusion(predictions: Predictions, threshold: float = THRESHOLD) -> Confusion:
    """Counts of right and wrong calls at `threshold`."""
    calls = predictions.p_fake >= threshold
    tn, fp, fn, tp = np.bincount(2 * predictions.labels + calls, minlength=4).tolist()
    return Confusion(tn, fp, fn, tp)


def _value(name: str, outcome: Outcome) -> float | None:
    value = METRICS[name](outcome) if outcome.n else np.nan
    return value if np.isfinite(value) else None


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan

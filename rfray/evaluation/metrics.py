"""`Predictions` -> numbers: METRICS (each in [0, 1], higher is better) and the confusion matrix."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

from rfray.evaluation.predictions import Predictions

THRESHOLD = 0.5
"""An image is called fake where p_fake >= this."""

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""(labels (n,), calls (n,) 0/1, p_fake (n,)) -> number; nan where it is undefined."""

METRICS: dict[str, Metric] = {
    "accuracy": lambda labels, calls, _: sk.accuracy_score(labels, calls),
    "precision": lambda labels, calls, _: sk.precision_score(labels, calls, zero_division=np.nan),
    "recall": lambda labels, calls, _: sk.recall_score(labels, calls, zero_division=np.nan),
    "f1": lambda labels, calls, _: sk.f1_score(labels, calls, zero_division=np.nan),
    "auc": lambda labels, _, p_fake: sk.roc_auc_score(labels, p_fake) if _both(labels) else np.nan,
    "average_precision": lambda labels, _, p_fake: (
        sk.average_precision_score(labels, p_fake) if _both(labels) else np.nan
    ),
    "balanced_accuracy": lambda labels, calls, _: (
        sk.balanced_accuracy_score(labels, calls) if _both(labels) else np.nan
    ),
}
"""Name -> metric. The positive class is fake."""


@dataclass(frozen=True)
class Confusion:
    """Counts at one threshold: true and false negatives (real) and positives (fake)."""

    tn: int
    fp: int
    fn: int
    tp: int


def metric(name: str, predictions: Predictions, threshold: float = THRESHOLD) -> float | None:
    """The metric called `name`, or None where it is undefined (precision without a positive call, say)."""
    if not len(predictions):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # undefined is an answer here: None
        value = float(METRICS[name](predictions.labels, predictions.p_fake >= threshold, predictions.p_fake))
    return value if np.isfinite(value) else None


def confusion(predictions: Predictions, threshold: float = THRESHOLD) -> Confusion:
    """Counts of right and wrong calls at `threshold`."""
    calls = predictions.p_fake >= threshold
    tn, fp, fn, tp = np.bincount(2 * predictions.labels + calls, minlength=4).tolist()
    return Confusion(tn, fp, fn, tp)


def _both(labels: np.ndarray) -> bool:
    return bool(labels.min(initial=1) == 0 and labels.max(initial=0) == 1)

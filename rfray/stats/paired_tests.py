"""labels and the scores of many rows -> which rows are better or worse than one of them, as paired tests say.

The tests take images for independent of each other.
"""

import numpy as np
from scipy import special

from rfray.stats.delong import placements

LEVEL = 0.05
"""The usual level of significance (Fisher 1925): rows differ where p is less."""


def mcnemar(right: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(k,) float64: two-sided p of McNemar's test (1947) in its exact form, for each of k rows against one.

    It is scipy's `binomtest` of a half, for all rows at once.

    Args:
        right: (k, n) bool: whether each row classifies the image correctly.
        reference: (n,) bool: the same of the row that they are compared with.
    """
    alone, other_alone = ((right & ~reference).sum(axis=1), (~right & reference).sum(axis=1))
    p_values = 2 * special.bdtr(np.minimum(alone, other_alone), alone + other_alone, 0.5)
    return np.asarray(np.minimum(1, p_values))


def holm(p_values: np.ndarray) -> np.ndarray:
    """(k,) float64: p values corrected for their number (Holm 1979); nan stays nan, and is not counted.

    The smallest is multiplied by their number, the next by one less, and so on; none is less than the one before it.
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # nan goes last
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    return corrected


def improves_auc(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the AUC of `after` (n,) is higher than that of `before` (n,) by DeLong's one-sided test at LEVEL.

    No where `labels` (n,) lack a class, or a score is not finite.
    """
    if not 0 < labels.sum() < len(labels) or not np.isfinite([before, after]).all():
        return False
    gained = placements(labels, np.stack([before, after])).minus(0)
    return bool(gained.values[1] > 0 and gained.p_values[1] / 2 < LEVEL)


def clearly_worse(labels: np.ndarray, scores: np.ndarray, times: float) -> dict[int, float]:
    """Row -> p of each row of `scores` (k, n) whose AUC is clearly lower than that of the first one.

    That is where 1 - AUC is more than `times` as large (with many images even a tiny difference is significant), and
    DeLong's paired test, corrected by Holm's method, says so at LEVEL. Empty where a class is missing.
    """
    if not 0 < labels.sum() < len(labels):
        return {}
    placed = placements(labels, scores)
    corrected = holm(placed.minus(0).p_values[1:])
    wrong = 1 - placed.aucs
    return {row: float(p) for row, p in enumerate(corrected, start=1) if p < LEVEL and wrong[row] > times * wrong[0]}

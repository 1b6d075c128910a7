"""labels, p_fake -> how well probabilities fit what happens: temperature, reliability, calibration error, Brier score.

`labels` (n,) are 0 real, 1 fake; `p_fake` (n,) float64 in [0, 1] is the probability of fake.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

BINS = 15
"""Of equal width, over [0, 1], as Guo et al. (2017) have them."""
TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest that is tried; Guo et al. (2017) found 0.5 to 4 in practice."""
LARGEST_LOGIT = float(special.logit(1 - np.finfo(np.float64).epsneg))
"""That of the probability next to 1; a probability of exactly 0 or 1 is taken for one of this size."""


@dataclass(frozen=True)
class Reliability:
    """The images in BINS equally wide bins of p_fake."""

    counts: np.ndarray
    """(BINS,) int: images in each."""
    fakes: np.ndarray
    """(BINS,) int: how many of them are fake."""
    mean_p: np.ndarray
    """(BINS,) float64: their mean p_fake; nan in an empty bin."""


def fit_temperature(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """The temperature (Guo et al. 2017) by which the logits of `p_fake` are divided to be most likely.

    Above 1 the probabilities were too extreme, below 1 not extreme enough. 1 where no image is on the wrong side of
    0.5, as the likelihood would sharpen them without end; None where a class is missing.
    """
    if len(np.unique(labels)) < 2:
        return None
    margins = np.where(labels == 1, 1, -1) * logits(p_fake)
    if margins.min() >= 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        given = margins / np.exp(log_temperature)
        return float(np.mean(np.maximum(-given, 0) + np.log1p(np.exp(-np.abs(given)))))  # without a large exp

    lowest, highest = TEMPERATURES
    found = optimize.minimize_scalar(loss, bounds=(np.log(lowest), np.log(highest)), method="bounded")
    return float(np.exp(found.x))


def tempered(p_fake: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities whose logits are those of `p_fake` divided by `temperature` (> 0); order and 0.5 stay."""
    if temperature == 1:
        return p_fake  # as it is, to the last digit
    return np.asarray(special.expit(logits(p_fake) / temperature))


def logits(p_fake: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), at most LARGEST_LOGIT away from 0."""
    return np.clip(special.logit(p_fake), -LARGEST_LOGIT, LARGEST_LOGIT)


def reliability(labels: np.ndarray, p_fake: np.ndarray) -> Reliability:
    """Counts the images by bin (Murphy and Winkler 1977)."""
    bins = _bins(p_fake)
    counts, fakes, total = (np.bincount(bins, weights, BINS) for weights in (None, labels, p_fake))
    mean_p = np.divide(total, counts, out=np.full(BINS, np.nan), where=counts > 0)
    return Reliability(counts, fakes.astype(int), mean_p)


def calibration_error(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """Expected calibration error in [0, 1] (Naeini et al. 2015; Guo et al. 2017), for the probability of fake.

    The mean over all images of the difference, in the image's bin, between the mean p_fake and the share of fakes.
    None where there is no image.
    """
    if not len(labels):
        return None
    return float(np.abs(np.bincount(_bins(p_fake), weights=p_fake - labels)).sum() / len(labels))


def brier(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """Mean squared difference between p_fake and the label (Brier 1950), in [0, 1]. None where there is no image."""
    return float(np.mean((p_fake - labels) ** 2)) if len(labels) else None


def _bins(p_fake: np.ndarray) -> np.ndarray:
    """(n,) int: the number of each image's bin [a, b); 1 belongs to the last one."""
    return np.asarray(np.minimum((p_fake * BINS).astype(int), BINS - 1))

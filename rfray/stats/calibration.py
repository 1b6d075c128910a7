"""labels, p_fake -> how far probabilities can be taken at their word: temperature, calibration error, Brier score."""

import numpy as np
from scipy import optimize, special

BINS = 15
"""Of equal width, over [0, 1]."""
TEMPERATURES = (0.05, 20.0)
"""The least and the greatest that is tried."""
LARGEST_LOGIT = float(special.logit(1 - np.finfo(np.float64).epsneg))
"""That of the probability next to 1; a probability of exactly 0 or 1 is taken for one of this size."""


def fit_temperature(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """What the logits of `p_fake` (n,) have to be divided by to be most likely, given `labels` (n,): 0 real, 1 fake.

    Temperature scaling (Guo et al. 2017): above 1 the probabilities were too sure, below 1 not sure enough. 1 where no
    image is on the wrong side of 0.5, as the likelihood would sharpen them without end; None where a class is missing.
    """
    if len(np.unique(labels)) < 2:
        return None
    rightness = np.where(labels == 1, 1, -1) * logits(p_fake)
    if rightness.min() >= 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        given = rightness / np.exp(log_temperature)
        return float(np.mean(np.maximum(-given, 0) + np.log1p(np.exp(-np.abs(given)))))  # of no large exp

    least, greatest = TEMPERATURES
    found = optimize.minimize_scalar(loss, bounds=(np.log(least), np.log(greatest)), method="bounded")
    return float(np.exp(found.x))


def tempered(p_fake: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities whose logits are those of `p_fake` divided by `temperature` (> 0); order and 0.5 stay."""
    if temperature == 1:
        return p_fake  # as it is, to the last digit
    return np.asarray(special.expit(logits(p_fake) / temperature))


def logits(p_fake: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), within LARGEST_LOGIT of 0."""
    return np.clip(special.logit(p_fake), -LARGEST_LOGIT, LARGEST_LOGIT)


def calibration_error(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """Expected calibration error in [0, 1]: how far p_fake is from the share of fakes, over BINS bins of p_fake.

    Guo et al. (2017), for the probability of fake instead of the one of the called class: the mean over all images of
    the gap, in the image's bin [a, b), between the mean p_fake and the share of fakes. None where there is no image.
    """
    if not len(labels):
        return None
    bins = np.minimum((p_fake * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=p_fake - labels)).sum() / len(labels))


def brier(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """Mean squared distance of p_fake from the label (Brier 1950), in [0, 1]. None where there is no image."""
    return float(np.mean((p_fake - labels) ** 2)) if len(labels) else None

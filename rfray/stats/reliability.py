"""`Predictions` -> `Reliability`: how often an image is fake that a voter calls fake with a given probability."""

from dataclasses import dataclass

import numpy as np

from rfray.stats.predictions import Predictions

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The images in BINS equally wide bins of p_fake."""

    edges: np.ndarray
    """(BINS + 1,) float64, from 0 to 1."""
    counts: np.ndarray
    """(BINS,) int: images in each."""
    fakes: np.ndarray
    """(BINS,) int: how many of them are fake."""
    mean_p: np.ndarray
    """(BINS,) float64: their mean p_fake; nan in an empty bin."""

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini et al. 2015), in [0, 1]; None where there is no image.

        The mean over all images of the distance between their bin's share of fakes and its mean p_fake.
        """
        there = self.counts > 0
        distances = np.abs(self.fakes[there] - self.counts[there] * self.mean_p[there])
        return float(distances.sum() / self.counts.sum()) if there.any() else None


def reliability(predictions: Predictions) -> Reliability:
    """Sorts the images into bins; a p_fake on an edge belongs to the bin above it, and 1 to the last one."""
    bins = np.minimum((predictions.p_fake * BINS).astype(int), BINS - 1)
    counts, fakes = (np.bincount(bins, weights, BINS) for weights in (None, predictions.labels))
    total = np.bincount(bins, predictions.p_fake, BINS)
    mean_p = np.divide(total, counts, out=np.full(BINS, np.nan), where=counts > 0)
    return Reliability(np.linspace(0, 1, BINS + 1), counts, fakes.astype(int), mean_p)

"""labels, out-of-sample probabilities -> which labels are least believed, and how many are expected to be wrong.

Confident learning (Northcutt, Jiang and Chuang 2021, J. Artificial Intelligence Research 70, sections 3.1 and 3.2), for
two classes. The probabilities must come from models that have not learned from the image that they judge.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelDoubts:
    """What confident learning says of n labels."""

    self_confidence: np.ndarray
    """(n,) float64 in [0, 1]: the probability of the label that the image has."""
    margin: np.ndarray
    """(n,) float64 in [-1, 1]: the probability of the other label minus that; above 0 where the model contradicts."""
    joint: np.ndarray
    """(2, 2) float64: how many images with label i (row) are expected to be of class j; its sum is n."""
    doubted: np.ndarray
    """(k,) int: positions of the labels that look wrong, the least believed first."""

    @property
    def expected_wrong(self) -> np.ndarray:
        """(2,) float64: how many of the labels real, and of the labels fake, are expected to be wrong."""
        return np.array([self.joint[0, 1], self.joint[1, 0]])


def doubt_labels(labels: np.ndarray, p_fake: np.ndarray) -> LabelDoubts:
    """Doubts the labels (n,), 0 real and 1 fake, by `p_fake` (n,) in [0, 1]. Raises ValueError for one class alone.

    Doubted is what the model contradicts, and of each class the largest margins, as many as are expected to be wrong
    ("prune by noise rate"): the latter alone are fewer, and so are the wrong ones among them.
    """
    labels = np.asarray(labels).astype(int)
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError("labels must be 0 and 1, some of each")
    probabilities = np.stack([1 - p_fake, p_fake], axis=1).astype(np.float64)
    own = probabilities[np.arange(len(labels)), labels]
    margin = 1 - 2 * own
    joint = confident_joint(labels, probabilities)
    chosen = []
    for label in (0, 1):
        its = np.flatnonzero(labels == label)
        worst = its[np.argsort(-margin[its], kind="stable")]
        chosen.append(worst[: max(round(joint[label, 1 - label]), (margin[its] > 0).sum())])
    doubted = np.concatenate(chosen)
    return LabelDoubts(own, margin, joint, doubted[np.argsort(-margin[doubted], kind="stable")])


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(2, 2) float64: how many images with label i are expected to be of class j, calibrated to the labels' counts.

    An image counts for a class where its probability (n, 2) is at least the mean of those that have its label
    (equation 2), and for the likelier one where that holds for both. Each row is then scaled to as many images as
    have the label (equation 3). A label of which no image counts is taken as right throughout.
    """
    thresholds = np.array([probabilities[labels == label, label].mean() for label in (0, 1)])
    above = probabilities >= thresholds
    guess = np.where(above.all(axis=1), probabilities.argmax(axis=1), above.argmax(axis=1))
    counts = np.zeros((2, 2))
    sure = above.any(axis=1)
    np.add.at(counts, (labels[sure], guess[sure]), 1)
    for label in (0, 1):
        if counts[label].sum() == 0:
            counts[label, label] = 1
    there = np.bincount(labels, minlength=2)[:, None]
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * there)

"""rfray.stats.confident_learning: the confident joint and the doubted labels by hand."""

import numpy as np
import pytest

from rfray.stats.confident_learning import confident_joint, doubt_labels

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
P_FAKE = np.array([0.1, 0.2, 0.2, 0.6, 0.9, 0.9, 0.8, 0.7, 0.2])
# thresholds: real, mean of 0.9 0.8 0.8 0.4 0.1 = 0.6; fake, mean of 0.9 0.8 0.7 0.2 = 0.65
# label real: 0.1 0.2 0.2 count for real, 0.9 for fake, 0.6 for neither (real 0.4 < 0.6, fake 0.6 < 0.65)
# label fake: 0.9 0.8 0.7 count for fake, 0.2 for real (0.8 >= 0.6)


def test_the_confident_joint_by_hand() -> None:
    joint = confident_joint(LABELS, np.stack([1 - P_FAKE, P_FAKE], axis=1))
    # counts [[3, 1], [1, 3]]; rows scaled to 5 and 4 images
    assert joint == pytest.approx(np.array([[3 / 4 * 5, 1 / 4 * 5], [1 / 4 * 4, 3 / 4 * 4]]))


def test_what_is_least_believed_comes_first() -> None:
    found = doubt_labels(LABELS, P_FAKE)
    assert found.self_confidence.tolist() == pytest.approx([0.9, 0.8, 0.8, 0.4, 0.1, 0.9, 0.8, 0.7, 0.2])
    assert found.margin == pytest.approx(1 - 2 * found.self_confidence)
    assert found.expected_wrong.tolist() == pytest.approx([1.25, 1.0])
    assert found.doubted.tolist() == [
        4,
        8,
        3,
    ]  # 0.9 under real is less believed than 0.2 under fake, then 0.6 under real


def test_what_the_model_contradicts_is_doubted_and_what_is_expected_to_be_wrong() -> None:
    labels, p_fake = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.45, 0.3, 0.15])
    # thresholds: 0.75 and 0.3; real: 0.1 is real, 0.4 fake; fake: 0.45 and 0.3 are fake, 0.15 is real (0.85 >= 0.75)
    found = doubt_labels(labels, p_fake)
    assert found.joint == pytest.approx(np.array([[1, 1], [1, 2]]))
    # of the fakes all three are contradicted, of the real ones none, but one is expected to be wrong
    assert found.doubted.tolist() == [4, 3, 2, 1]


def test_an_image_above_both_thresholds_counts_for_the_likelier_class() -> None:
    labels, p_fake = np.array([0, 0, 1, 1]), np.array([0.9, 0.45, 0.1, 0.48])
    # thresholds: real (0.1 + 0.55) / 2 = 0.325, fake (0.1 + 0.48) / 2 = 0.29
    # 0.45 and 0.48 are above both and likelier real
    assert confident_joint(labels, np.stack([1 - p_fake, p_fake], axis=1)) == pytest.approx(np.array([[1, 1], [2, 0]]))


def test_right_labels_are_left_alone() -> None:
    found = doubt_labels(np.repeat([0, 1], 50), np.repeat([0.02, 0.97], 50))
    assert found.expected_wrong.tolist() == [0, 0]
    assert len(found.doubted) == 0


def test_flipped_labels_are_found_and_counted() -> None:
    """Classes that overlap little: what is expected is near what was flipped, and nearly all of it is listed."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 2000)
    p_fake = 1 / (1 + np.exp(-draw.normal(np.where(truth == 1, 4, -4), 1.5)))
    flipped = draw.random(2000) < np.where(truth == 1, 0.1, 0.05)
    labels = np.where(flipped, 1 - truth, truth)
    found = doubt_labels(labels, p_fake)
    given_real, given_fake = ((flipped & (labels == label)).sum() for label in (0, 1))
    assert found.expected_wrong == pytest.approx([given_real, given_fake], rel=0.15)
    assert flipped[found.doubted].sum() >= 0.9 * flipped.sum()
    assert flipped[found.doubted].mean() >= 0.85


def test_a_class_alone_can_not_be_judged() -> None:
    with pytest.raises(ValueError, match="some of each"):
        doubt_labels(np.zeros(3, int), np.array([0.1, 0.2, 0.3]))

"""rfray.stats.metrics: six images reckoned by hand, and what has no value."""

import numpy as np
import pytest
from sklearn import metrics as sk

from rfray.stats.metrics import (
    BINS,
    METRICS,
    Confusion,
    brier,
    calibration_error,
    confusion,
    measured,
    metric,
    reliability,
)
from tests.synthetic import FIRST, SECOND, predictions

EXPECTED = {
    "accuracy": 4 / 6,
    "precision": 2 / 3,
    "recall": 2 / 3,
    "f1": 2 / 3,
    "auc": 7 / 9,
    # the fake images are 1st, 2nd and 5th from the top: (1/1 + 2/2 + 3/5) / 3
    "average_precision": 13 / 15,
    "balanced_accuracy": 2 / 3,
}


@pytest.mark.parametrize("name", METRICS)
def test_six_images_by_hand(name):
    assert metric(name, predictions(FIRST)) == pytest.approx(EXPECTED[name], abs=1e-15)


def test_confusion_by_hand():
    assert confusion(predictions(FIRST)) == Confusion(tn=2, fp=1, fn=1, tp=2)
    assert confusion(predictions(FIRST), threshold=0.85) == Confusion(tn=3, fp=0, fn=2, tp=1)


def test_the_threshold_itself_is_fake():
    assert confusion(predictions([0.5] * 6)) == Confusion(tn=0, fp=3, fn=0, tp=3)


def test_ties_count_half():
    assert metric("auc", predictions([0.5] * 6)) == 0.5


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("p_fake", [FIRST, SECOND, [0.0] * 6, [1.0] * 6, [1, 1, 1, 0, 0, 0]])
def test_between_0_and_1_or_undefined(name, p_fake):
    value = metric(name, predictions(p_fake))
    assert value is None or 0 <= value <= 1
    assert value is not None or (name == "precision" and max(p_fake) == 0)


@pytest.mark.parametrize(
    ("labels", "p_fake", "undefined"),
    [
        ([0, 0], [0.1, 0.2], {"precision", "recall", "f1"}),  # no fake image, none called so
        ([0, 0], [0.1, 0.9], {"recall"}),
        ([1, 1], [0.1, 0.2], {"precision"}),
        ([1, 1], [0.8, 0.9], set()),
        ([], [], set(METRICS)),
    ],
)
def test_one_class_leaves_metrics_undefined(labels, p_fake, undefined):
    found = {name for name in METRICS if metric(name, predictions(p_fake, labels)) is None}
    assert found == undefined | {"auc", "average_precision", "balanced_accuracy"}


def test_confusion_of_one_class_keeps_its_shape():
    assert confusion(predictions([0.1, 0.9], [0, 0])) == Confusion(tn=1, fp=1, fn=0, tp=0)
    assert confusion(predictions([], [])) == Confusion(0, 0, 0, 0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_scikit_learn(seed, ties):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 500)
    p_fake = np.clip(0.4 * labels + 0.6 * generator.random(500), 0, 1)
    p_fake = p_fake.round(1) if ties else p_fake
    calls = p_fake >= 0.5
    assert measured(predictions(p_fake, labels), 0.5) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, calls),
            "precision": sk.precision_score(labels, calls),
            "recall": sk.recall_score(labels, calls),
            "f1": sk.f1_score(labels, calls),
            "auc": sk.roc_auc_score(labels, p_fake),
            "average_precision": sk.average_precision_score(labels, p_fake),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, calls),
        },
        abs=1e-12,
    )


# how true p_fake is


def test_calibration_error_by_hand():
    # bins of 1/15: 0.1 -> 1, 0.4 -> 6 (0.4 is its lower end), 0.6 -> 9, 0.3 -> 4, 0.8 -> 12, 0.9 -> 13; one image each
    gaps = [0.1, 0.4, 0.6, 0.7, 0.2, 0.1]
    assert calibration_error(predictions(FIRST)) == pytest.approx(sum(gaps) / 6)
    # two images in one bin: mean 0.62, share 0.5; and one alone in the last, which 1 belongs to
    assert calibration_error(predictions([0.61, 0.63, 1.0], [0, 1, 1])) == pytest.approx((2 * 0.12 + 0) / 3)
    assert calibration_error(predictions([0.8] * 5 + [0.2] * 5, [1, 1, 1, 1, 0, 1, 0, 0, 0, 0])) == pytest.approx(
        0, abs=1e-15
    )


def test_calibration_error_is_the_one_of_guo_bin_by_bin():
    random = np.random.default_rng(0)
    p_fake = random.random(400)
    labels = (random.random(400) < p_fake**2).astype(int)
    expected = 0.0
    for lower in np.arange(BINS) / BINS:
        inside = (p_fake >= lower) & (p_fake < lower + 1 / BINS)
        if inside.any():
            expected += inside.mean() * abs(p_fake[inside].mean() - labels[inside].mean())
    assert calibration_error(predictions(p_fake, labels)) == pytest.approx(expected)
    assert expected > 0.1


def test_brier_by_hand():
    assert brier(predictions([0.1, 0.7], [0, 1])) == pytest.approx((0.01 + 0.09) / 2)


def test_of_no_image_nothing_is_known():
    none = predictions([], [])
    assert calibration_error(none) is brier(none) is None


def test_reliability_by_hand():
    # bins of 1/15: 0.01 and 0.05 in the first, 0.2 in the fourth (an edge is of the bin above), 0.95, 1 in the last
    counts, fakes, mean_p = reliability(predictions([0.01, 0.05, 0.2, 0.95, 1.0], [0, 1, 0, 1, 1]))
    assert counts.tolist() == [2, 0, 0, 1, *[0] * 10, 2]
    assert fakes.tolist() == [1, 0, 0, 0, *[0] * 10, 2]
    assert mean_p[[0, 3, 14]] == pytest.approx([0.03, 0.2, 0.975])
    assert np.isnan(mean_p[1])

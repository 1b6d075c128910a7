"""rfray.stats.metrics: six images reckoned by hand, and what has no value."""

import numpy as np
import pytest
from sklearn import metrics as sk

from rfray.stats.metrics import METRICS, Confusion, confusion, measured, metric
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

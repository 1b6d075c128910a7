"""rfray.stats.bootstrap: what is drawn, exactness against a loop, and that intervals hold what they promise."""

import numpy as np
import pytest
from scipy.stats import norm

from rfray.stats.bootstrap import CHUNK, bootstrap, percentile_intervals, resample
from rfray.stats.metrics import measured
from rfray.stats.predictions import Predictions

HALF = 0.5


def intervals(labels, scores, threshold=HALF, groups=None, count=1000):
    """Metric -> (k, 2)."""
    thresholds = np.full(len(scores), threshold)
    values = bootstrap(labels, scores, thresholds, resample(labels, groups, count))
    return {name: percentile_intervals(value) for name, value in values.items()}


def test_as_many_of_each_class_as_there_are():
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    weights = resample(labels, count=4000)
    assert weights.dtype == np.uint8
    assert (weights[:, labels == 0].sum(axis=1) == 5).all()
    assert (weights[:, labels == 1].sum(axis=1) == 2).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)  # each is drawn once on average
    assert weights[:, 1].var() == pytest.approx(2 * 0.5 * 0.5, abs=0.03)  # binomial: 2 draws, each with 1/2


def test_the_same_seed_draws_the_same():
    labels = np.repeat([0, 1], 20)
    assert np.array_equal(resample(labels), resample(labels))
    assert not np.array_equal(resample(labels), resample(labels, seed=1))


def test_whole_groups_of_like_composition():
    #                  real only   fake only   both          both
    groups = np.array([7, 7, 3, 3, 5, 5, 5, 1, 90, 90, 90, 4, 4])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1])
    weights = resample(labels, groups, count=200).astype(int)
    for group in np.unique(groups):
        own = weights[:, groups == group]
        assert (own == own[:, :1]).all()
    drawn = {group: weights[:, groups == group][:, 0] for group in np.unique(groups)}
    for stratum in ((7, 3), (5, 1), (90, 4)):  # as many groups as there are, whatever their sizes
        assert (sum(drawn[group] for group in stratum) == 2).all()
        assert set(np.unique(drawn[stratum[0]])) == {0, 1, 2}


def test_the_only_group_of_its_composition_is_taken_apart():
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 6])  # one picture and a manipulation of it, among others
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    weights = resample(labels, groups, count=200)
    assert (weights[:, labels == 0].sum(axis=1) == 4).all()
    assert (weights[:, 6] != weights[:, 7]).any()
    assert (resample(labels, np.zeros(8, int), 50) == resample(labels, None, 50)).all()  # all in one group


def test_values_are_those_of_a_loop():
    random = np.random.default_rng(0)
    labels = (random.random(60) < 0.4).astype(np.int8)
    scores = np.round(random.random((4, 60)), 1)  # with ties
    scores[3] = random.random(60)  # without
    thresholds = np.array([0.5, 0.9, 1.0, 0.3])
    weights = resample(labels, random.integers(30, size=60), count=2 * CHUNK + 3)
    found = bootstrap(labels, scores, thresholds, weights)
    for row in range(len(scores)):
        for number, weight in enumerate(weights):
            drawn = np.repeat(np.arange(60), weight)
            expected = measured(Predictions(drawn, labels[drawn], scores[row][drawn]), thresholds[row])
            for name, values in found.items():
                assert values[row, number] == pytest.approx(
                    np.nan if expected[name] is None else expected[name], abs=1e-15, nan_ok=True
                )


def test_undefined_in_a_resample_is_left_out():
    labels, scores = np.repeat([0, 1], 3), np.array([[0.1, 0.1, 0.1, 0.2, 0.3, 0.9]])
    values = bootstrap(labels, scores, np.array([HALF]), resample(labels))["precision"]
    assert np.isnan(values).mean() == pytest.approx((2 / 3) ** 3, abs=0.05)  # the only call is not drawn
    assert percentile_intervals(values).tolist() == [[1.0, 1.0]]


def test_what_is_undefined_has_no_interval():
    labels = np.repeat([0, 1], 5)
    scores = np.array([np.linspace(0, 0.4, 10)])
    found = intervals(labels, scores)
    assert np.isnan(found["precision"]).all()
    assert found["recall"].tolist() == [[0.0, 0.0]]
    only_real = intervals(np.zeros(5, int), scores[:, :5])
    assert only_real["accuracy"].tolist() == [[1.0, 1.0]]
    assert all(np.isnan(only_real[name]).all() for name in ("precision", "recall", "auc"))


def test_percentiles_by_hand():
    values = np.array([np.arange(201.0), [*np.arange(101.0), *[np.nan] * 100], [np.nan] * 201])
    found = percentile_intervals(values)
    assert found[:2] == pytest.approx(np.array([[5.0, 195.0], [2.5, 97.5]]))
    assert np.isnan(found[2]).all()


def test_copies_are_no_evidence():
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1], 50)
    scores = random.normal(labels, size=(3, 100))
    twice, picture = np.concatenate([scores, scores], axis=1), np.tile(np.arange(100), 2)
    once = intervals(labels, scores)
    grouped = intervals(np.tile(labels, 2), twice, groups=picture)
    fooled = intervals(np.tile(labels, 2), twice)
    for name, ends in once.items():
        assert grouped[name] == pytest.approx(ends, abs=1e-12)
        shrunk = np.diff(fooled[name], axis=1) / np.diff(ends, axis=1)
        assert shrunk.mean() == pytest.approx(np.sqrt(1 / 2), abs=0.06)


def test_shuffled_labels_leave_an_interval_around_a_half():
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1], 100)
    scores = random.normal(labels)
    assert intervals(labels, scores[None])["auc"][0, 0] > HALF
    low, high = intervals(random.permutation(labels), scores[None])["auc"][0]
    assert low < HALF < high


@pytest.mark.slow
def test_covers_the_truth_about_as_often_as_it_says():
    # each row is an experiment of its own; fakes lie 1.2 above the real images, and are called from the middle on
    labels = np.repeat([0, 1], 150)
    scores = np.random.default_rng(6).normal(1.2 * labels, size=(1000, 300))
    found = intervals(labels, scores, threshold=0.6)
    hit = norm.cdf(0.6)
    truth = {"accuracy": hit, "precision": hit, "recall": hit, "auc": norm.cdf(1.2 / np.sqrt(2))}
    for name, ends in found.items():
        covered = np.mean((ends[:, 0] <= truth[name]) & (truth[name] <= ends[:, 1]))
        assert 0.93 <= covered <= 0.97, name


@pytest.mark.slow
def test_covers_the_truth_where_images_come_in_groups():
    # 80 + 80 identities of 3 images each, which have most of what they score in common
    labels, groups = np.repeat([0, 1], 240), np.repeat(np.arange(160), 3)
    random = np.random.default_rng(7)
    scores = 1.2 * labels + 0.8 * random.normal(size=(500, 160))[:, groups] + 0.6 * random.normal(size=(500, 480))
    truth = norm.cdf(1.2 / np.sqrt(2))

    def covered(ends):
        return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))

    assert 0.93 <= covered(intervals(labels, scores, 0.6, groups)["auc"]) <= 0.97
    assert covered(intervals(labels, scores, 0.6)["auc"]) < 0.85

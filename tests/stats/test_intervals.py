"""rfray.stats.intervals: Wilson by hand, what is drawn, exactness against a loop, and that intervals hold."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from rfray.stats import intervals as module
from rfray.stats.intervals import (
    CHUNK,
    auc_interval,
    bootstrap,
    curve_bands,
    percentile_intervals,
    resample,
    wilson,
)
from rfray.stats.metrics import measured
from rfray.stats.predictions import Predictions
from tests.synthetic import FIRST, predictions

HALF = 0.5


def intervals(labels, scores, threshold=HALF, groups=None, count=1000):
    """Metric -> (k, 2)."""
    thresholds = np.full(len(scores), threshold)
    values = bootstrap(labels, scores, thresholds, resample(labels, groups, count))
    return {name: percentile_intervals(value) for name, value in values.items()}


def test_wilson_by_hand():
    # z 1.959964, z squared 3.841459: (8 + 1.920729) / 13.841459, and 1.959964 / 13.841459 * sqrt(8 * 2 / 10 + 0.960365)
    assert wilson(8, 10) == pytest.approx([0.716740 - 0.226578, 0.716740 + 0.226578], abs=2e-6)


def test_wilson_is_scipys():
    hits, n = np.array([(0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (4999, 10000)]).T
    found = wilson(hits, n)
    for row, (one, of) in enumerate(zip(hits.tolist(), n.tolist(), strict=True)):
        expected = binomtest(one, of).proportion_ci(0.95, method="wilson")
        assert found[row] == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_no_image_no_interval():
    assert np.isnan(wilson(0, 0)).all()


@pytest.mark.parametrize("truth", [0.6, 0.9])
def test_wilson_covers_the_truth_about_as_often_as_it_says(truth):
    low, high = wilson(np.random.default_rng(3).binomial(200, truth, size=4000), 200).T
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_the_interval_of_an_auc_is_narrower_with_more_images():
    assert auc_interval(0.8, 0.01, 9)[0] < auc_interval(0.8, 0.001, 90)[0] < 0.8


# by bootstrap


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


# curves


def test_a_perfect_curve_has_wilsons_interval():
    roc, precision_recall = curve_bands(predictions([0.1] * 7 + [0.9] * 5, [0] * 7 + [1] * 5))
    assert roc.high.tolist() == [1] * len(roc.at)
    assert roc.low == pytest.approx(wilson(5, 5)[0])
    # all fakes have one score, so the first threshold already makes all five calls
    assert precision_recall.low == pytest.approx(wilson(5, 5)[0])


def test_precision_is_of_the_calls_that_reach_the_recall():
    given = predictions([0.9, 0.8, 0.7, 0.6, 0.2, 0.1], [1, 0, 1, 1, 0, 0])
    band = curve_bands(given)[1]
    third, two_thirds = np.searchsorted(band.at, 0.3), np.searchsorted(band.at, 0.6)
    assert band.low[third] <= wilson(1, 1)[0] + 1e-12  # one call, right
    assert band.high[third] == 1
    assert band.low[two_thirds] <= wilson(2, 3)[0] + 1e-12  # three calls, two right
    assert band.high[two_thirds] >= wilson(2, 3)[1] - 1e-12


def test_ties_are_one_step():
    # all scores alike: the curve is the diagonal, whatever is drawn
    band = curve_bands(predictions([0.5] * 40, [0, 1] * 20))[0]
    middle = len(band.at) // 2
    assert (band.low[middle], band.high[middle]) == pytest.approx((wilson(10, 20)[0], wilson(10, 20)[1]))


def test_the_same_bands_again():
    one, two = (curve_bands(predictions(FIRST)) for _ in range(2))
    assert np.array_equal(one[0].low, two[0].low)
    assert np.array_equal(one[1].high, two[1].high)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_has_no_band(labels):
    assert curve_bands(predictions([0.2, 0.7], labels)) is None


@pytest.mark.slow
def test_covers_the_true_curves_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(module, "resample", partial(resample, count=200))
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    places = np.array([10, 30, 60, 90])
    covered = np.zeros((2, len(places)))
    for _ in range(150):
        bands = curve_bands(predictions(norm.cdf(random.normal(1.5 * labels - 0.75)), labels.tolist()))
        for row, band in enumerate(bands):
            at = band.at[places]
            # binormal: fakes 1.5 standard deviations above
            precision = at / (at + norm.sf(norm.isf(at) + 1.5))
            truth = precision if row else norm.sf(norm.isf(at) - 1.5)
            covered[row] += (band.low[places] <= truth) & (truth <= band.high[places])
    assert covered.min() / 150 >= 0.9
    assert covered.mean() / 150 <= 0.99


def test_bands_are_of_groups():
    labels = np.tile([0, 1], 50)
    p_fake = norm.cdf(np.random.default_rng(3).normal(1.5 * labels - 0.75))
    copies = np.repeat(np.arange(100), 4)
    once = curve_bands(predictions(p_fake, labels.tolist()))
    often = predictions(p_fake[copies], labels[copies].tolist())
    width = [
        np.mean(band.high - band.low)
        for bands in (once, curve_bands(often, copies), curve_bands(often))
        for band in bands
    ]
    assert width[2:4] == pytest.approx(width[:2], rel=0.1), "copies in groups add nothing"
    assert all(narrow < 0.6 * wide for narrow, wide in zip(width[4:], width[:2], strict=True))
    perfect = predictions([0.1] * 28 + [0.9] * 20, [0] * 28 + [1] * 20)
    low = curve_bands(perfect, np.repeat(np.arange(12), 4))[0].low
    assert low[50] == pytest.approx(wilson(5, 5)[0]), "a perfect curve of five groups of fakes"

"""Differences between figures on two different sets of images, against scipy."""

import numpy as np
import pytest
from scipy import stats

from rfray.stats.clusters import share_intervals
from rfray.stats.intervals import auc_interval, wilson
from rfray.stats.paired_tests import placements
from rfray.stats.unpaired_tests import auc_difference, auc_variance, independent_images, share_difference


def test_the_variance_of_an_auc_is_that_of_its_interval() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    placed = placements(labels, generator.normal(labels, 1)[None])
    auc, variance = float(placed.aucs[0]), float(placed.variances[0])
    low, high = auc_interval(auc, variance, placed.pairs)
    assert auc_variance(auc, low, high) == pytest.approx(variance)


def test_an_auc_of_one_has_a_variance_as_wide_as_its_interval() -> None:
    low, high = auc_interval(1, 0, 100)
    assert auc_variance(1, low, high) == pytest.approx(((1 - low) / stats.norm.ppf(0.975)) ** 2)


def test_aucs_on_two_sets_differ_by_the_normal_distribution() -> None:
    found = auc_difference(0.8, 0.0016, 0.9, 0.0009)
    assert found.value == pytest.approx(-0.1)
    assert found.p == pytest.approx(2 * stats.norm.cdf(-0.1 / 0.05))  # the standard error is the root of 0.0025
    assert (found.low, found.high) == pytest.approx((-0.1 - 1.959964 * 0.05, -0.1 + 1.959964 * 0.05))


def test_shares_of_two_sets_differ_as_by_the_chi_square_test() -> None:
    found = share_difference(0.4, 100, 0.75, 200)
    expected = stats.chi2_contingency([[40, 60], [150, 50]], correction=False)
    assert found.p == pytest.approx(expected.pvalue)
    reach = 1.959964 * np.sqrt(0.4 * 0.6 / 100 + 0.75 * 0.25 / 200)
    assert (found.low, found.high) == pytest.approx((-0.35 - reach, -0.35 + reach))


def test_shares_that_are_all_or_nothing_are_the_same_or_not() -> None:
    assert share_difference(1, 10, 1, 20).p == 1
    assert share_difference(0, 10, 1, 20).p < 0.0001


def test_the_false_alarms_of_both_are_as_many_as_they_say() -> None:
    generator = np.random.default_rng(1)
    alarms = np.zeros(2)
    for _ in range(400):
        variances, aucs = [], []
        for n in (60, 90):
            labels = np.repeat([0, 1], n)
            placed = placements(labels, generator.normal(labels, 1)[None])
            aucs.append(float(placed.aucs[0]))
            variances.append(float(placed.variances[0]))
        shares = generator.binomial([100, 150], 0.8)
        alarms += [
            auc_difference(aucs[0], variances[0], aucs[1], variances[1]).p < 0.05,
            share_difference(shares[0] / 100, 100, shares[1] / 150, 150).p < 0.05,
        ]
    assert (stats.binom.ppf(0.001, 400, 0.05) <= alarms).all()
    assert (alarms <= stats.binom.ppf(0.999, 400, 0.05)).all()


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (1, 3), (40, 100), (1, 500_000), (250_000, 500_000)])
def test_as_many_images_are_independent_as_wilsons_interval_is_of(hits: int, n: int) -> None:
    assert independent_images(hits / n, *wilson(hits, n)) == pytest.approx(n)


def test_shares_of_images_that_belong_together_are_told_apart_no_more_often_than_in_5_percent() -> None:
    generator = np.random.default_rng(2)
    alarms = np.zeros(2)
    groups = np.repeat(np.arange(60), 5)  # each image five times, as frames of a video may be
    for _ in range(400):
        hits, other = np.repeat(generator.random(60) < 0.8, 5), generator.binomial(300, 0.8) / 300
        interval = share_intervals(hits[None], np.ones((1, 300), bool), groups)[0]
        worth = independent_images(float(hits.mean()), *interval)
        for place, n in enumerate((worth, 300)):
            alarms[place] += share_difference(float(hits.mean()), n, other, 300).p < 0.05
    assert stats.binom.ppf(0.001, 400, 0.05) <= alarms[0] <= stats.binom.ppf(0.999, 400, 0.05)
    assert alarms[1] > 80  # each image for itself: a fifth of the time and more

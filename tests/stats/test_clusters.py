"""rfray.stats.clusters: by hand, by going through all signs, and how often intervals cover a known truth."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest, t

from rfray.stats.clusters import flip_signs, groups_of_images, share_intervals, standard_errors, sums_by_group
from rfray.stats.intervals import wilson


def test_groups_of_images():
    ids = np.array(["a", "b", "c", "d"])
    found = groups_of_images(ids, pd.Series([7, 7, 3], index=["d", "a", "x"]))
    assert found is not None
    assert found[0] == found[3]
    assert len(set(found.tolist())) == 3
    assert sorted(set(found.tolist())) == [0, 1, 2]
    assert groups_of_images(ids, None) is None
    assert groups_of_images(ids, pd.Series([1, 2, 3, 4], index=ids)) is None, "no two share one"
    assert groups_of_images(ids[:0], pd.Series([1], index=["a"])) is None


def test_sums_by_group():
    values = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]])
    assert sums_by_group(values, np.array([0, 2, 0, 1]), 4).tolist() == [[4, 4, 2, 0], [0, 1, 1, 0]]


def test_standard_errors_are_students():
    assert standard_errors(np.array([1, 2, 10, 10**6])) == pytest.approx(
        [t.ppf(0.975, 1), t.ppf(0.975, 1), t.ppf(0.975, 9), 1.959964], rel=1e-5
    )


def test_shares_of_images_that_stand_alone_are_wilsons():
    hits, counted = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool), np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    assert share_intervals(hits, counted, None)[0].tolist() == wilson(2, 3).tolist()
    assert np.isnan(share_intervals(hits, counted, None)[1]).all()
    assert np.isnan(share_intervals(hits, counted, np.array([0, 0, 1, 2]))[1]).all()


def test_a_share_of_groups_by_hand():
    # four groups of two: both right, both right, both wrong, one of two; and an image that is not counted
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    counted = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 0]], bool)
    hits = np.array([[1, 1, 1, 1, 0, 0, 1, 0, 0]], bool)
    # and a tenth of a group of two hits, and of two misses: 5.2 of 8.4 are 13/21, a group of two differs from 26/21 by
    # 16, 16, -26, -5 21sts, the tenths by 16 and -26: squares (256 + 256 + 676 + 25 + 25.6 + 67.6) / 441
    effect = 1306.2 / 441 / 8.4 * 4.2 / 3.2 / (13 / 21 * 8 / 21)
    expected = wilson(5 / effect, 8 / effect, t.ppf(0.975, 3))
    assert share_intervals(hits, counted, groups)[0] == pytest.approx(expected)


def test_copies_add_nothing():
    random = np.random.default_rng(0)
    hits = random.random((1, 60)) < 0.7
    (once,), (often,) = (
        share_intervals(np.repeat(hits, each, axis=1), np.ones((1, 60 * each), bool), np.repeat(np.arange(60), each))
        for each in (2, 20)
    )
    assert once == pytest.approx(often, abs=1e-12)
    wide, plain = np.ptp(often), np.ptp(wilson(hits.sum(), 60))
    assert plain < wide < 1.1 * plain


def test_one_group_tells_next_to_nothing():
    low, high = share_intervals(np.ones((1, 50), bool), np.ones((1, 50), bool), np.zeros(50, int))[0]
    assert low < 0.01
    assert high == pytest.approx(1)


def test_signs_are_flipped_in_all_ways():
    random = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        differences = random.integers(-4, 5, (8, count))
        for row, p in zip(differences, flip_signs(differences), strict=True):
            sums = [abs(row @ signs) for signs in product((-1, 1), repeat=count)]
            assert p == pytest.approx(np.mean(np.array(sums) >= abs(row.sum())))


def test_of_single_images_it_is_the_binomial_test():
    rows = [[1] * 12 + [-1] * 7 + [0] * 5, [1] * 24, [0] * 24, [1] * 12 + [-1] * 12]
    expected = [binomtest(7, 19).pvalue, 2 / 2**24, 1, 1]
    assert flip_signs(np.array(rows)) == pytest.approx(expected, rel=1e-6)


def test_many_differences_are_normal():
    row = np.repeat([1.0, -1.0], [1300, 1200])
    exact = binomtest(1200, 2500).pvalue
    assert flip_signs(row[None])[0] == pytest.approx(exact, abs=0.003)  # without a correction for continuity


@pytest.mark.parametrize(("icc", "share"), [(0.2, 0.7), (0.6, 0.7), (0.95, 0.7), (0.2, 0.95), (0.6, 0.95)])
def test_covers_the_truth_about_as_often_as_it_says(icc, share):
    """Groups of 1 to 19 images whose scores are correlated; Wilson's interval of single images is far too narrow."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), random.integers(1, 20, 60))
    scores = np.sqrt(icc) * random.normal(size=(1000, 60))[:, groups]
    scores += np.sqrt(1 - icc) * random.normal(size=scores.shape)
    hits = scores < ndtri(share)
    covered = []
    for known in (groups, None):
        low, high = share_intervals(hits, np.ones_like(hits), known).T
        covered.append(np.mean((low <= share) & (share <= high)))
    assert 0.93 <= covered[0] <= 0.99
    assert covered[1] < 0.93

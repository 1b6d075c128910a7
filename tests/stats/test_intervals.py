"""rfray.stats.intervals: Wilson by hand and as scipy has it, and that intervals hold what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rfray.stats.intervals import auc_interval, wilson


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

"""rfray.stats.curve_bands: by hand where the curve is perfect, and that bands hold what they promise."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from rfray.stats import curve_bands as module
from rfray.stats.bootstrap import resample
from rfray.stats.curve_bands import curve_bands
from rfray.stats.intervals import wilson
from tests.synthetic import FIRST, predictions


def test_a_perfect_curve_has_wilsons_interval():
    perfect = curve_bands(predictions([0.1] * 7 + [0.9] * 5, [0] * 7 + [1] * 5))
    assert perfect.roc.high.tolist() == [1] * len(perfect.roc.at)
    assert perfect.roc.low == pytest.approx(wilson(5, 5)[0])
    # all fakes have one score, so the first threshold already makes all five calls
    assert perfect.precision_recall.low == pytest.approx(wilson(5, 5)[0])


def test_precision_is_of_the_calls_that_reach_the_recall():
    given = predictions([0.9, 0.8, 0.7, 0.6, 0.2, 0.1], [1, 0, 1, 1, 0, 0])
    band = curve_bands(given).precision_recall
    third, two_thirds = np.searchsorted(band.at, 0.3), np.searchsorted(band.at, 0.6)
    assert band.low[third] <= wilson(1, 1)[0] + 1e-12  # one call, right
    assert band.high[third] == 1
    assert band.low[two_thirds] <= wilson(2, 3)[0] + 1e-12  # three calls, two right
    assert band.high[two_thirds] >= wilson(2, 3)[1] - 1e-12


def test_ties_are_one_step():
    # all scores alike: the curve is the diagonal, whatever is drawn
    band = curve_bands(predictions([0.5] * 40, [0, 1] * 20)).roc
    middle = len(band.at) // 2
    assert (band.low[middle], band.high[middle]) == pytest.approx((wilson(10, 20)[0], wilson(10, 20)[1]))


def test_the_same_again():
    one, two = (curve_bands(predictions(FIRST)) for _ in range(2))
    assert np.array_equal(one.roc.low, two.roc.low)
    assert np.array_equal(one.precision_recall.high, two.precision_recall.high)


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
        bands = curve_bands(predictions(stats.norm.cdf(random.normal(1.5 * labels - 0.75)), labels.tolist()))
        for row, band in enumerate((bands.roc, bands.precision_recall)):
            at = band.at[places]
            if row == 0:  # binormal: fakes 1.5 standard deviations above
                truth = stats.norm.sf(stats.norm.isf(at) - 1.5)
            else:
                truth = at / (at + stats.norm.sf(stats.norm.isf(at) + 1.5))
            covered[row] += (band.low[places] <= truth) & (truth <= band.high[places])
    assert covered.min() / 150 >= 0.9
    assert covered.mean() / 150 <= 0.99

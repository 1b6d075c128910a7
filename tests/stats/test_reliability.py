"""rfray.stats.reliability: bins and calibration error by hand."""

import numpy as np
import pytest

from rfray.stats.reliability import BINS, reliability
from tests.synthetic import predictions


def test_by_hand():
    # bins of 1/15: 0.01 and 0.05 in the first, 0.5 in the eighth, 0.95 and 1 in the last
    found = reliability(predictions([0.01, 0.05, 0.5, 0.95, 1.0], [0, 1, 0, 1, 1]))
    assert found.counts.tolist() == [2, *[0] * 6, 1, *[0] * 6, 2]
    assert found.fakes.tolist() == [1, *[0] * 6, 0, *[0] * 6, 2]
    assert found.mean_p[[0, 7, 14]] == pytest.approx([0.03, 0.5, 0.975])
    assert np.isnan(found.mean_p[1])
    # distances 0.47, 0.5 and 0.025, weighted 2, 1 and 2 of 5
    assert found.error == pytest.approx((2 * 0.47 + 0.5 + 2 * 0.025) / 5)


def test_an_edge_belongs_to_the_bin_above():
    found = reliability(predictions([0.0, 0.2, 0.4], [0, 0, 0]))
    assert np.flatnonzero(found.counts).tolist() == [0, 3, 6]
    assert found.edges == pytest.approx(np.arange(BINS + 1) / BINS)


def test_scores_that_mean_what_they_say_have_a_small_error():
    random = np.random.default_rng(0)
    p_fake = random.uniform(size=20_000)
    honest = reliability(predictions(p_fake, (random.uniform(size=20_000) < p_fake).astype(int)))
    assert honest.error < 0.02


def test_without_images_there_is_no_error():
    assert reliability(predictions([], [])).error is None

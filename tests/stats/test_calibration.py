"""rfray.stats.calibration: temperatures that are known, errors reckoned by hand."""

import numpy as np
import pytest
from scipy.special import expit, logit

from rfray.stats.calibration import BINS, TEMPERATURES, brier, calibration_error, fit_temperature, reliability, tempered
from tests.synthetic import FIRST, LABELS

# of five images at 0.8 four are fake, of five at 0.2 one: as sure as it should be
CALIBRATED = np.repeat([0.8, 0.2], 5)
OF_THESE = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.0, 7.0])
def test_a_known_temperature_is_found(truth):
    # with logits `truth` times as large as they should be, the likeliest temperature is `truth`
    too_sure = expit(truth * logit(CALIBRATED))
    assert fit_temperature(OF_THESE, too_sure) == pytest.approx(truth, rel=1e-4)
    assert tempered(too_sure, truth) == pytest.approx(CALIBRATED)


def test_what_no_temperature_mends_stays_within_bounds():
    least, greatest = TEMPERATURES
    assert fit_temperature(1 - OF_THESE, CALIBRATED) == pytest.approx(greatest, rel=1e-3)  # the wrong way round
    nearly_none = np.array([0.5 - 1e-9, *np.repeat(0.51, 1000)])
    assert fit_temperature(np.ones(1001), nearly_none) is None
    labels = np.array([0, *np.ones(1000)])
    assert fit_temperature(labels, np.array([0.5 + 1e-9, *np.repeat(0.51, 1000)])) == pytest.approx(least, rel=1e-3)


def test_all_right_leaves_probabilities_as_they_are():
    assert fit_temperature(np.array([0, 1, 1]), np.array([0.4, 0.5, 0.9])) == 1.0


def test_certainty_that_is_wrong_is_finite():
    labels, p_fake = np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 1.0, 1.0])
    found = fit_temperature(labels, p_fake)
    assert found is not None
    assert 1 < found <= TEMPERATURES[1]


def test_order_and_half_stay_and_temperature_1_changes_nothing():
    p_fake = np.array([0.0, 1e-300, 0.3, 0.5, 0.7, 1.0])
    for temperature in (0.3, 3.0):
        found = tempered(p_fake, temperature)
        assert np.all(np.diff(found) >= 0)
        assert found[3] == 0.5
        assert np.all((found >= 0) & (found <= 1))
    assert tempered(p_fake, 1.0).tolist() == p_fake.tolist()


def test_calibration_error_by_hand():
    # bins of 1/15: 0.1 -> 1, 0.4 -> 6 (0.4 is its lower end), 0.6 -> 9, 0.3 -> 4, 0.8 -> 12, 0.9 -> 13; one image each
    gaps = [0.1, 0.4, 0.6, 0.7, 0.2, 0.1]
    assert calibration_error(np.array(LABELS), np.array(FIRST)) == pytest.approx(sum(gaps) / 6)
    # two images in one bin: mean 0.62, share 0.5; and one alone in the last, which 1 belongs to
    labels, p_fake = np.array([0, 1, 1]), np.array([0.61, 0.63, 1.0])
    assert calibration_error(labels, p_fake) == pytest.approx((2 * 0.12 + 0) / 3)
    assert calibration_error(OF_THESE, CALIBRATED) == pytest.approx(0, abs=1e-15)


def test_calibration_error_is_the_one_of_guo_bin_by_bin():
    random = np.random.default_rng(0)
    p_fake = random.random(400)
    labels = (random.random(400) < p_fake**2).astype(int)
    expected = 0.0
    for lower in np.arange(BINS) / BINS:
        inside = (p_fake >= lower) & (p_fake < lower + 1 / BINS)
        if inside.any():
            expected += inside.mean() * abs(p_fake[inside].mean() - labels[inside].mean())
    assert calibration_error(labels, p_fake) == pytest.approx(expected)
    assert expected > 0.1


def test_brier_by_hand():
    assert brier(np.array([0, 1]), np.array([0.1, 0.7])) == pytest.approx((0.01 + 0.09) / 2)


def test_of_no_image_nothing_is_known():
    none = np.array([])
    assert calibration_error(none, none) is brier(none, none) is fit_temperature(none, none) is None


def test_reliability_by_hand():
    # bins of 1/15: 0.01 and 0.05 in the first, 0.2 in the fourth (an edge is of the bin above), 0.95, 1 in the last
    found = reliability(np.array([0, 1, 0, 1, 1]), np.array([0.01, 0.05, 0.2, 0.95, 1.0]))
    assert found.counts.tolist() == [2, 0, 0, 1, *[0] * 10, 2]
    assert found.fakes.tolist() == [1, 0, 0, 0, *[0] * 10, 2]
    assert found.mean_p[[0, 3, 14]] == pytest.approx([0.03, 0.2, 0.975])
    assert np.isnan(found.mean_p[1])

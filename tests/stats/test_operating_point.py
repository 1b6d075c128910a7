"""rfray.stats.operating_point: thresholds, bands and what they come to, on a few images by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from rfray.errors import DataError
from rfray.spec.sweep import EnsembleSettings, MaxFpr
from rfray.stats.operating_point import (
    POINT,
    OperatingPoint,
    choose_point,
    choose_threshold,
    point_on_test,
    unsure_band,
)
from tests.synthetic import FIRST, SECOND, predictions

# FIRST from the lowest: 0.1 real, 0.3 fake, 0.4 real, 0.6 real, 0.8 fake, 0.9 fake
NONE = np.nextafter(0.9, 2)


def outside(given, band, threshold):
    """Images outside the band, and the wrong calls among them, one by one."""
    low, high = band
    assert low <= threshold <= high
    calls = [(p, label) for p, label in zip(given.p_fake, given.labels, strict=True) if p < low or p >= high]
    return len(calls), sum((p >= threshold) != label for p, label in calls)


def test_a_number_is_itself():
    assert choose_threshold(predictions(FIRST), 0.7) == 0.7
    assert choose_threshold(predictions([], []), 0.5) == 0.5
    assert choose_point(predictions(FIRST), EnsembleSettings()) == OperatingPoint(0.5, None)


@pytest.mark.parametrize(
    ("rule", "p_fake", "threshold"),
    [
        # tp, fp: 0.9 1, 0; 0.8 2, 0; 0.6 2, 1; 0.4 2, 2; 0.3 3, 2; 0.1 3, 3. F1: 2/4, 4/5, 4/6, 4/7, 6/8, 6/9
        ("max_f1", FIRST, 0.8),
        ("youden", FIRST, 0.8),  # 2/3 - 0
        (MaxFpr(max_fpr=0.01), FIRST, 0.8),
        (MaxFpr(max_fpr=0.4), FIRST, 0.6),
        (MaxFpr(max_fpr=1 / 3), FIRST, 0.6),
        (MaxFpr(max_fpr=0.33), FIRST, 0.8),
        (MaxFpr(max_fpr=0.7), FIRST, 0.3),  # not 0.4, where there are as many
        (MaxFpr(max_fpr=0.99), FIRST, 0.3),
        # SECOND: a real and a fake image share 0.3, so both are called fake or none
        ("max_f1", SECOND, 0.3),  # 3, 1: 6/7; from 0.6 on 2, 0: 4/5
        ("youden", SECOND, 0.6),  # 2/3 both: the higher one
        (MaxFpr(max_fpr=0.2), SECOND, 0.6),
        (MaxFpr(max_fpr=0.34), SECOND, 0.3),
    ],
)
def test_thresholds_by_hand(rule, p_fake, threshold):
    assert choose_threshold(predictions(p_fake), rule) == threshold


def test_where_nothing_can_be_called_fake_the_threshold_is_above_all():
    real_on_top = predictions([0.9, 0.1, 0.1, 0.9, 0.8, 0.2])
    assert choose_threshold(real_on_top, MaxFpr(max_fpr=0.1)) == NONE
    certain = predictions([1.0, 0.1, 0.1, 1.0, 0.8, 0.2])
    threshold = choose_threshold(certain, MaxFpr(max_fpr=0.1))
    assert threshold > 1
    assert not np.any(certain.p_fake >= threshold)
    wrong_way = predictions([0.8, 0.9, 0.7, 0.1, 0.2, 0.3])
    assert choose_threshold(wrong_way, "youden") == NONE  # no threshold is better than none


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_those_of_scikit_learns_curves(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 200)
    given = predictions(np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(2), labels)
    fpr, tpr, thresholds = sk.roc_curve(labels, given.p_fake, drop_intermediate=False)
    youden = choose_threshold(given, "youden")
    assert (tpr - fpr)[thresholds == youden] == pytest.approx((tpr - fpr).max())
    f1 = [sk.f1_score(labels, given.p_fake >= level) for level in thresholds[1:]]
    assert sk.f1_score(labels, given.p_fake >= choose_threshold(given, "max_f1")) == max(f1)
    asked = choose_threshold(given, MaxFpr(max_fpr=0.1))
    assert asked == thresholds[fpr <= 0.1].min()


@pytest.mark.parametrize(
    ("rule", "label", "lacking"),
    [("max_f1", 0, "no fake image"), ("youden", 1, "no real image"), (MaxFpr(max_fpr=0.1), 1, "max_fpr.*no real")],
)
def test_a_rule_needs_the_images_that_it_counts(rule, label, lacking):
    with pytest.raises(DataError, match=f"{lacking}.* allowed then: a number"):
        choose_threshold(predictions([0.1, 0.7], [label, label]), rule)
    if rule == "max_f1":
        assert choose_threshold(predictions([0.1, 0.7], [1, 1]), rule) == 0.1


def test_band_by_hand():
    # at 0.5 wrong: 0.3 (fake) and 0.6 (real); right: 0.1, 0.4, 0.8, 0.9
    given = predictions(FIRST)
    assert unsure_band(given, 0.5, 0.34) == (0.5, 0.5)  # 2 of 6 is few enough
    # one error may stay where five images do: without 0.6
    assert unsure_band(given, 0.5, 0.2) == (0.5, 0.8)
    # one of four is too many, so both go, and 0.4 between them
    assert unsure_band(given, 0.5, 0.1) == (0.3, 0.8)
    assert unsure_band(given, 0.5, 0.01) == (0.3, 0.8)


def test_no_band_where_the_error_rate_can_not_be_reached():
    assert unsure_band(predictions([0.9, 0.8, 0.7, 0.1, 0.2, 0.3]), 0.5, 0.1) is None  # all wrong
    assert unsure_band(predictions([], []), 0.5, 0.1) is None


def test_a_side_without_a_verdict_is_a_band_too():
    # all that is called fake is real, and all that is called real is right
    assert unsure_band(predictions([0.1, 0.2, 0.9], [0, 0, 0]), 0.5, 0.1) == (0.5, NONE)
    assert unsure_band(predictions([0.1, 0.8, 0.9], [1, 1, 1]), 0.5, 0.1) == (0.1, 0.5)


def test_of_two_bands_with_as_many_images_the_narrower():
    # one error on each side, one may stay of eight: 0.42 to 0.5 or 0.5 to 0.52
    given = predictions([0.1, 0.2, 0.3, 0.51, 0.42, 0.7, 0.8, 0.9, 0.95], [0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert unsure_band(given, 0.5, 1 / 8) == (0.42, 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_no_band_with_fewer_images_would_do(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 30)
    given = predictions(np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(1 + seed % 2), labels)
    threshold, wanted = 0.5, 0.1
    ends = [*np.unique(given.p_fake), threshold, np.nextafter(1, 2)]
    bands = [(low, high) for low in ends if low <= threshold for high in ends if high >= threshold]
    left = [outside(given, band, threshold) for band in bands]
    most = max((images for images, wrong in left if images and wrong / images <= wanted), default=0)
    band = unsure_band(given, threshold, wanted)
    if not most:
        assert band is None
    else:
        images, wrong = outside(given, band, threshold)
        assert images == most
        assert wrong / images <= wanted


def test_what_comes_of_it_by_hand():
    point = OperatingPoint(0.5, (0.35, 0.7))
    found = point_on_test(predictions(SECOND), predictions(FIRST), point)
    assert tuple(found) == POINT
    assert found["fpr"] == pytest.approx(1 / 3)
    # Wilson: centre (1/3 + z²/6) / (1 + z²/3), reach z sqrt(1/3 * 2/3 / 3 + z²/36) / (1 + z²/3), z = 1.96
    assert (found["fpr_low"], found["fpr_high"]) == pytest.approx((0.06149, 0.79234), abs=1e-5)
    assert found["fpr_val"] == 0
    assert found["unsure_share"] == pytest.approx(2 / 6)  # 0.4 and 0.6
    assert found["unsure_error"] == pytest.approx(1 / 4)  # 0.3 is fake
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.36 + 0.49 + 0.04 + 0.01) / 6)


def test_what_is_undefined_or_was_not_asked_is_none():
    found = point_on_test(predictions([0.2, 0.6], [1, 1]), predictions([0.2, 0.6], [1, 1]), OperatingPoint(0.5))
    assert {name for name, value in found.items() if value is None} == {
        *("fpr", "fpr_low", "fpr_high", "fpr_val", "unsure_share", "unsure_error", "temperature")
    }
    all_unsure = point_on_test(predictions(FIRST), predictions(FIRST), OperatingPoint(0.5, (0.0, 1.0)))
    assert (all_unsure["unsure_share"], all_unsure["unsure_error"]) == (1.0, None)
    nothing = predictions([], [])
    assert set(point_on_test(nothing, nothing, OperatingPoint(0.5, (0.4, 0.6))).values()) == {None}

"""rfray.stats.intervals: DeLong by hand and by brute force, and that intervals hold what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from rfray.stats.intervals import auc_interval, delong, logit_interval, placements, wilson

# fakes score 1, 3, 4; reals 0, 2, 3
LABELS = np.array([1, 1, 1, 0, 0, 0])
SCORES = np.array([1.0, 3.0, 4.0, 0.0, 2.0, 3.0])


def brute_force(labels, scores):
    """AUCs and covariance by comparing every pair, as DeLong et al. (1988) write it."""
    fake, real = scores[labels == 1], scores[labels == 0]
    wins = (fake[:, None] > real[None]) + 0.5 * (fake[:, None] == real[None])  # fakes, reals, columns
    by_fake, by_real = wins.mean(axis=1), wins.mean(axis=0)
    aucs = wins.mean(axis=(0, 1))

    def spread(values):
        return (values - aucs).T @ (values - aucs) / (len(values) - 1) / len(values)

    return aucs, spread(by_fake) + spread(by_real)


def test_placements_by_hand():
    # fake 1 beats 0; fake 3 beats 0, 2 and ties with 3; fake 4 beats all three; and the same seen from the reals
    assert placements(LABELS, SCORES) == pytest.approx([1 / 3, 2.5 / 3, 1, 1, 2 / 3, 1.5 / 3])


def test_variance_by_hand():
    found = delong(LABELS, SCORES[:, None])
    assert found.aucs == pytest.approx([6.5 / 9])
    # squared deviations from 13/18 in 18ths: fakes 7, 2, 5 -> 78; reals 5, 1, 4 -> 42; / 324 / (3 - 1) / 3
    assert found.covariance == pytest.approx(np.array([[120 / 324 / 6]]))


def test_interval_by_hand():
    # logit(13/18) = ln(13/5) = 0.955511; se = sqrt(0.0617284) / (13/18 * 5/18) = 1.238437
    interval = auc_interval(LABELS, SCORES)
    ends = [1 / (1 + np.exp(-(0.955511 + sign * 1.959964 * 1.238437))) for sign in (-1, 1)]
    assert [interval.low, interval.high] == pytest.approx(ends, abs=2e-6)


def test_covariance_is_the_brute_force_one():
    random = np.random.default_rng(0)
    labels = (random.random(60) < 0.3).astype(int)
    scores = np.round(random.normal(size=(60, 3)) + labels[:, None], 1)  # rounded: with ties
    found = delong(labels, scores)
    aucs, covariance = brute_force(labels, scores)
    assert found.aucs == pytest.approx(aucs)
    assert found.aucs == pytest.approx([roc_auc_score(labels, column) for column in scores.T])
    assert found.covariance == pytest.approx(covariance)


def test_strata_compare_only_their_own():
    labels = np.array([1, 0, 1, 0, 0])
    scores = np.array([0.2, 0.1, 0.9, 0.8, 0.5])  # in order within both folds, not across them; one fold has no fake
    assert delong(labels, scores[:, None], np.array([0, 0, 1, 1, 2])).aucs == pytest.approx([1.0])
    assert delong(labels, scores[:, None]).aucs == pytest.approx([4 / 6])


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_order_has_an_honest_interval(sign):
    labels = np.repeat([0, 1], 10)
    interval = auc_interval(labels, sign * labels.astype(float))
    bound = 0.025 ** (1 / 10)  # the AUC at which ten pairs in a row come out right with 2.5 %
    assert (interval.low, interval.high) == pytest.approx((bound, 1.0) if sign == 1 else (0.0, 1 - bound))


def test_constant_scores_are_undecided():
    interval = auc_interval(np.repeat([0, 1], 20), np.zeros(40))
    assert interval.low < 0.5 < interval.high


def test_a_single_fake_has_the_widest_interval_its_auc_allows():
    found = delong(np.array([1, 0, 0, 0, 0]), np.array([[2.5], [1], [2], [3], [4]]))
    assert found.aucs == pytest.approx([0.5])
    # 0.5 * 0.5 of the fake; reals' placements 1, 1, 0, 0 have variance 1/3, over 4
    assert found.covariance == pytest.approx(np.array([[0.25 + 1 / 12]]))


def test_wider_with_more_confidence_and_with_fewer_images():
    assert logit_interval(0.8, 0.01, 9, 0.99).low < logit_interval(0.8, 0.01, 9).low < logit_interval(0.8, 0.001, 9).low


def test_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 40)
    truth = 0.9213504  # two normals 2 apart: Phi(2 / sqrt 2)
    covered = 0
    for _ in range(1000):
        interval = auc_interval(labels, random.normal(size=80) + 2 * labels)
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_shuffled_labels_leave_an_interval_around_a_half():
    random = np.random.default_rng(2)
    labels, scores = np.repeat([0, 1], 60), np.repeat([0.0, 1.0], 60) + random.normal(size=120)
    assert auc_interval(labels, scores).low > 0.5
    intervals = [auc_interval(random.permutation(labels), scores) for _ in range(400)]
    assert 0.93 <= np.mean([interval.low < 0.5 < interval.high for interval in intervals]) <= 0.97


def test_wilson_by_hand():
    # z 1.959964, z squared 3.841459: (8 + 1.920729) / 13.841459, and 1.959964 / 13.841459 * sqrt(8 * 2 / 10 + 0.960365)
    interval = wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.716740 - 0.226578, 0.716740 + 0.226578), abs=2e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (4999, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(hits, n, confidence):
    expected = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    interval = wilson(hits, n, confidence)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= interval.low < interval.high <= 1


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_no_share_no_interval(hits, n):
    with pytest.raises(ValueError, match="is not a share"):
        wilson(hits, n)


@pytest.mark.parametrize("truth", [0.6, 0.9])
def test_wilson_covers_the_truth_about_as_often_as_it_says(truth):
    hits = np.random.default_rng(3).binomial(200, truth, size=4000)
    intervals = [wilson(int(count), 200) for count in hits]
    assert 0.93 <= np.mean([interval.low <= truth <= interval.high for interval in intervals]) <= 0.97


@pytest.mark.parametrize(("labels", "scores"), [([1, 1], [0.1, 0.2]), ([0, 1], [np.nan, 1.0])])
def test_one_class_or_nan_is_refused(labels, scores):
    with pytest.raises(ValueError, match=r"both classes|nan"):
        auc_interval(np.array(labels), np.array(scores))

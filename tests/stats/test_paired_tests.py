"""rfray.stats.paired_tests: by hand, by brute force and on a published example, and how often they err."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t
from sklearn.metrics import roc_auc_score

from rfray.stats.paired_tests import accuracy_p_values, holm, improves_auc, mcnemar, placements
from tests.synthetic import FIRST, SECOND
from tests.synthetic import LABELS as SIX

# fakes score 1, 3, 4; reals 0, 2, 3
LABELS = np.array([1, 1, 1, 0, 0, 0])
SCORES = np.array([1.0, 3.0, 4.0, 0.0, 2.0, 3.0])

# albumin, total protein, Krebs-Goplerud score and outcome of 43 of the patients of DeLong et al. (1988), as printed in
# the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves"
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
"""


def interval(labels, scores):
    return placements(labels, scores[None]).intervals[0]


def brute_force(labels, scores):
    """AUCs and covariance by comparing every pair, as DeLong et al. (1988) write it."""
    real, fake = scores[:, labels == 0], scores[:, labels == 1]
    wins = (fake[:, :, None] > real[:, None]) + 0.5 * (fake[:, :, None] == real[:, None])  # rows, fakes, reals
    aucs = wins.mean(axis=(1, 2))
    return aucs, sum(np.cov(each) / each.shape[1] for each in (wins.mean(axis=2), wins.mean(axis=1)))


def test_placements_by_hand():
    # fake 1 beats 0; fake 3 beats 0, 2 and ties with 3; fake 4 beats all three; and the same seen from the reals
    found = placements(LABELS, SCORES[None])
    assert found.fake[0] == pytest.approx([1 / 3, 2.5 / 3, 1])
    assert found.real[0] == pytest.approx([1, 2 / 3, 1.5 / 3])
    assert found.aucs == pytest.approx([6.5 / 9])
    # squared deviations from 13/18 in 18ths: fakes 7, 2, 5 -> 78; reals 5, 1, 4 -> 42; / 324 / (3 - 1) / 3
    assert found.variances == pytest.approx([120 / 324 / 6])
    # logit(13/18) = ln(13/5) = 0.955511; se = sqrt(0.0617284) / (13/18 * 5/18) = 1.238437
    ends = [1 / (1 + np.exp(-(0.955511 + sign * 1.959964 * 1.238437))) for sign in (-1, 1)]
    assert found.intervals[0] == pytest.approx(ends, abs=2e-6)


def test_delong_on_a_published_example():
    albumin, protein, krebs_goplerud, outcome = np.array(PATIENTS.split(), float).reshape(-1, 4).T
    scores = np.array([albumin, 10 - krebs_goplerud, protein])
    placed = placements(outcome, scores)
    assert placed.aucs == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(placed.variances) == pytest.approx([0.0927, 0.1028, 0.1000], abs=5e-5)
    found = placed.minus(1)
    assert found.values[[0, 2]] == pytest.approx([0.0108, -0.0780], abs=5e-5)
    assert np.sqrt(found.variances[[0, 2]]) == pytest.approx([0.0953, 0.1046], abs=5e-5)
    assert found.intervals[0] == pytest.approx((-0.1761, 0.1976), abs=5e-5)
    assert found.intervals[2] == pytest.approx((-0.2830, 0.1271), abs=5e-5)
    assert found.p_values[[0, 2]] == pytest.approx([0.9102, 0.4561], abs=5e-5)


def test_variances_are_the_brute_force_ones():
    random = np.random.default_rng(0)
    labels = (random.random(80) < 0.3).astype(int)
    scores = np.round(random.normal(size=(5, 80)) + labels, 1)  # rounded: with ties
    placed, (aucs, covariance) = placements(labels, scores), brute_force(labels, scores)
    assert placed.aucs == pytest.approx(aucs)
    assert placed.aucs == pytest.approx([roc_auc_score(labels, row) for row in scores])
    assert placed.variances == pytest.approx(np.diag(covariance))
    assert placed.covariance == pytest.approx(covariance)
    for reference in (0, 3):
        expected = np.diag(covariance) + covariance[reference, reference] - 2 * covariance[:, reference]
        assert placed.minus(reference).variances == pytest.approx(expected, abs=1e-15)


def obuchowski(labels, scores, groups):
    """AUCs and covariance as Obuchowski (1997) writes them, cluster by cluster."""
    real, fake = scores[:, labels == 0], scores[:, labels == 1]
    of_real, of_fake = groups[labels == 0], groups[labels == 1]
    wins = (fake[:, :, None] > real[:, None]) + 0.5 * (fake[:, :, None] == real[:, None])
    aucs, fakes, reals = wins.mean(axis=(1, 2)), fake.shape[1], real.shape[1]
    clusters, with_fakes, with_reals = (len(np.unique(each)) for each in (groups, of_fake, of_real))
    by_fake, by_real, by_both = (np.zeros((len(scores), len(scores))) for _ in range(3))
    for one in np.unique(groups):
        of_fakes = wins.mean(axis=2)[:, of_fake == one].sum(axis=1) - (of_fake == one).sum() * aucs
        of_reals = wins.mean(axis=1)[:, of_real == one].sum(axis=1) - (of_real == one).sum() * aucs
        by_fake += np.outer(of_fakes, of_fakes) * with_fakes / (with_fakes - 1) / fakes
        by_real += np.outer(of_reals, of_reals) * with_reals / (with_reals - 1) / reals
        by_both += np.outer(of_fakes, of_reals) * clusters / (clusters - 1)
    return aucs, by_fake / fakes + by_real / reals + (by_both + by_both.T) / (fakes * reals)


def test_groups_by_hand():
    # the first fake and the first real image belong together, the two other fakes, and the two other reals
    found = placements(LABELS, SCORES[None], groups=np.array([4, 1, 1, 4, 9, 9]))
    # in 18ths from 13: fakes -7 and 2 + 5 in two groups, reals 5 and -1 - 4 in two, -7 x 5 in one of three
    assert found.variances == pytest.approx([(2 / 1 * 98 + 2 / 1 * 50 + 3 / 2 * 2 * -35) / 324 / 9])
    assert (found.counts, found.pairs) == ((2, 2), 2)
    # as above, with 12.7062 standard errors: Student's t with one degree of freedom
    reach = 12.7062 * np.sqrt(191 / 2916) / (13 / 18 * 5 / 18)
    ends = [1 / (1 + np.exp(-(0.955511 + sign * reach))) for sign in (-1, 1)]
    assert found.intervals[0] == pytest.approx(ends, abs=1e-5)


def test_variances_of_groups_are_obuchowskis():
    random = np.random.default_rng(4)
    labels, groups = (random.random(90) < 0.4).astype(int), random.integers(0, 25, 90) * 3
    scores = np.round(random.normal(size=(4, 90)) + labels + random.normal(size=100)[groups], 1)
    placed, (aucs, covariance) = placements(labels, scores, groups=groups), obuchowski(labels, scores, groups)
    assert placed.aucs == pytest.approx(aucs)
    assert placed.variances == pytest.approx(np.diag(covariance))
    found = placed.minus(2)
    assert placed.covariance == pytest.approx(covariance)
    expected = np.diag(covariance) + covariance[2, 2] - 2 * covariance[:, 2]
    assert found.variances == pytest.approx(expected, abs=1e-15)
    ratio = np.abs(found.values[0]) / np.sqrt(expected[0])
    assert found.p_values[0] == pytest.approx(2 * t.sf(ratio, placed.pairs - 1))


def test_groups_of_one_image_are_no_groups():
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1], [30, 20])
    scores = random.normal(size=(3, 50)) + labels
    plain, alone = placements(labels, scores), placements(labels, scores, groups=random.permutation(50))
    assert alone.intervals.tolist() == plain.intervals.tolist()
    assert alone.minus(1).p_values.tolist() == plain.minus(1).p_values.tolist()
    # and so says the formula as it is written
    assert obuchowski(labels, scores, np.arange(50))[1] == pytest.approx(brute_force(labels, scores)[1])


def test_copies_of_all_images_add_nothing():
    random = np.random.default_rng(6)
    labels = np.repeat([0, 1], [30, 20])
    scores = random.normal(size=(2, 50)) + labels
    once = placements(labels, scores)
    often = placements(np.tile(labels, 8), np.tile(scores, 8), groups=np.tile(np.arange(50), 8))
    assert often.variances == pytest.approx(once.variances)
    assert often.minus(0).variances == pytest.approx(once.minus(0).variances)


def test_one_group_of_a_class_tells_nothing():
    labels, groups = np.repeat([0, 1], [6, 4]), np.array([1, 1, 2, 2, 3, 3, 8, 8, 8, 8])
    scores = np.random.default_rng(7).normal(size=(2, 10))
    placed = placements(labels, np.vstack([scores, scores[:1]]), groups=groups)
    found = placed.minus(0)
    assert np.isnan(found.p_values).tolist() == [False, True, False]
    assert found.p_values[2] == 1
    assert (placed.variances >= placed.aucs * (1 - placed.aucs)).all()


@pytest.mark.parametrize("both", [False, True])
def test_with_groups_the_tests_err_and_intervals_cover_as_often_as_they_say(both):
    """Two models that are equally good, on 40 groups of each class, or 80 with images of both."""
    random = np.random.default_rng(8)
    groups = np.repeat(np.arange(80), random.integers(1, 8, 80))
    labels = random.integers(0, 2, len(groups)) if both else groups % 2
    truth = norm.cdf(1.5 / np.sqrt(2))

    def noise():
        of_group = np.sqrt(0.6) * random.normal(size=(1000, 80))[:, groups]
        return of_group + np.sqrt(0.4) * random.normal(size=of_group.shape)

    shared = 1.5 * labels + np.sqrt(0.6) * noise()
    scores = np.vstack([shared + np.sqrt(0.4) * noise() for _ in range(2)])  # a thousand times both
    right = (scores > 0.75) == (labels == 1)

    def rates(known):
        """How often intervals hold the truth, and AUC and accuracy are told apart."""
        placed = placements(labels, scores, groups=known)
        variances = placed.variances_of([part[:1000] - part[1000:] for part in placed.parts], [np.zeros(1000)] * 2)
        p_values = 2 * placed.tail(np.abs(placed.aucs[:1000] - placed.aucs[1000:]) / np.sqrt(variances))
        low, high = placed.intervals.T
        by_accuracy = [
            accuracy_p_values(*pair, known)[0] for pair in zip(right[:1000, None], right[1000:], strict=True)
        ]
        told_apart = [np.mean(np.array(each) < 0.05) for each in (p_values, by_accuracy)]
        return np.mean((low <= truth) & (truth <= high)), *told_apart

    covered, by_auc, by_accuracy = rates(groups)
    assert 0.93 <= covered <= 0.97
    assert 0.03 <= by_auc <= 0.065
    assert 0.03 <= by_accuracy <= 0.065
    covered, by_auc, by_accuracy = rates(None)
    assert covered < (0.92 if both else 0.8)
    assert both or min(by_auc, by_accuracy) > 0.1


def test_strata_compare_only_their_own():
    labels = np.array([1, 0, 1, 0, 0])
    scores = np.array([[0.2, 0.1, 0.9, 0.8, 0.5]])  # in order within both folds, not across; one fold has no fake
    assert placements(labels, scores, np.array([0, 0, 1, 1, 2])).aucs == pytest.approx([1.0])
    assert placements(labels, scores).aucs == pytest.approx([4 / 6])


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_order_has_an_honest_interval(sign):
    labels = np.repeat([0, 1], 10)
    bound = 0.025 ** (1 / 10)  # the AUC at which ten pairs in a row come out right with 2.5 %
    assert interval(labels, sign * labels.astype(float)) == pytest.approx((bound, 1) if sign == 1 else (0, 1 - bound))


def test_rounding_is_no_narrow_interval():
    """One fake of three in each group is above all reals: an AUC of a third in each, and groups that do not vary."""
    labels, groups = np.repeat([0, 1], 36), np.repeat(np.arange(24), 3)
    scores = np.concatenate([np.ones(36), np.tile([0.0, 0.0, 2.0], 12)])
    placed = placements(labels, scores[None], groups=groups)
    assert placed.aucs == pytest.approx(1 / 3)
    assert placed.variances < 1e-28  # 0, but for the rounding of a third
    # the exact interval of 4 of 12 (Clopper and Pearson): the groups are the independent pairs
    assert placed.intervals[0] == pytest.approx(list(binomtest(4, 12).proportion_ci()), abs=1e-9)


def test_a_difference_by_hand():
    vote = (np.array(FIRST) + SECOND) / 2  # all nine pairs in order: every placement is 1
    found = placements(np.array(SIX), np.array([vote, FIRST, SECOND])).minus(1)
    assert found.values == pytest.approx([2 / 9, 0, 1 / 6])
    # placements of FIRST, fakes 1/3 1 1, reals 1 2/3 2/3; of SECOND 1 1 5/6 and 5/6 1 1
    # vote minus FIRST: fakes 2/3 0 0, variance 4/27; reals 0 1/3 1/3, variance 1/27; each over 3
    # SECOND minus FIRST: fakes 2/3 0 -1/6, variance 7/36; reals -1/6 1/3 1/3, variance 3/36; each over 3
    assert found.variances == pytest.approx([5 / 81, 0, 10 / 108])
    # z 0.2222 / 0.2485 = 0.8944, and 0.1667 / 0.3043 = 0.5477
    assert found.p_values == pytest.approx([0.37109, 1, 0.58388], abs=1e-5)
    assert found.intervals[0] == pytest.approx((2 / 9 - 1.959964 * 0.248452, 2 / 9 + 1.959964 * 0.248452), abs=1e-6)
    assert found.intervals[1].tolist() == [0, 0]


def test_the_same_order_is_no_difference():
    random = np.random.default_rng(1)
    labels, scores = np.repeat([0, 1], 30), random.random(60)
    found = placements(labels, np.array([scores, scores, scores**3, 1 - scores])).minus(0)
    assert found.values[:3].tolist() == [0, 0, 0]
    assert found.p_values[:3].tolist() == [1, 1, 1]
    assert found.intervals[2].tolist() == [0, 0]
    assert found.p_values[3] < 1


def test_no_variance_but_another_auc():
    labels = np.repeat([0, 1], [10, 12])
    found = placements(labels, np.array([labels, 1 - labels, np.zeros(22)], float)).minus(0)
    assert found.values == pytest.approx([0, -1, -0.5])
    # ten independent pairs, all of them better ordered by one of the two; half of them
    assert found.p_values == pytest.approx([1, 2 / 2**10, 2 / 2**5])
    assert found.intervals[1] == pytest.approx((-1, -(0.025 ** (1 / 10))))
    low, high = found.intervals[2]
    assert -1 < low < -0.5 < high < 0


def test_one_image_of_a_class_tells_nothing():
    labels, scores = np.array([1, 0, 0, 0]), np.array([[3.0, 1, 2, 4], [2.5, 1, 2, 3], [1, 2, 3, 4]])
    placed = placements(labels, scores)
    found = placed.minus(0)
    assert found.p_values[1] == 1  # placed alike
    assert np.isnan(found.p_values[2])
    assert np.isnan(found.intervals[2]).all()
    assert placed.variances[0] == pytest.approx(2 / 9 + 1 / 9)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc(label):
    with pytest.raises(ValueError, match="both classes"):
        placements(np.full(3, label), np.zeros((1, 3)))


@pytest.mark.slow
def test_delongs_test_errs_and_its_interval_covers_as_often_as_they_say():
    # three models that see the images much alike: two are equally good, the third is better
    random = np.random.default_rng(2)
    labels = np.repeat([0, 1], 100)
    spread = np.sqrt(2 * (1 + 0.7**2))
    truth = norm.cdf((1.2 + 0.5) / spread) - norm.cdf(1.2 / spread)
    told_apart, covered = [], []
    for _ in range(1500):
        shift = np.array([[1.2], [1.2], [1.7]]) * labels
        found = placements(labels, shift + random.normal(size=200) + 0.7 * random.normal(size=(3, 200))).minus(0)
        told_apart.append(found.p_values[1] < 0.05)
        low, high = found.intervals[2]
        covered.append(low <= truth <= high)
    assert 0.03 <= np.mean(told_apart) <= 0.07
    assert 0.93 <= np.mean(covered) <= 0.97


def test_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 40)
    truth = 0.9213504  # two normals 2 apart: Phi(2 / sqrt 2)
    low, high = placements(labels, random.normal(size=(1000, 80)) + 2 * labels).intervals.T
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_shuffled_labels_leave_an_interval_around_a_half():
    random = np.random.default_rng(2)
    labels, scores = np.repeat([0, 1], 60), np.repeat([0.0, 1.0], 60) + random.normal(size=120)
    assert interval(labels, scores)[0] > 0.5
    ends = [interval(random.permutation(labels), scores) for _ in range(400)]
    assert 0.93 <= np.mean([low < 0.5 < high for low, high in ends]) <= 0.97


# which rows are better or worse


def test_what_is_better_by_chance_is_no_improvement():
    labels = np.tile([0, 1], 100)
    random = np.random.default_rng(0)
    before = np.clip(0.4 + 0.2 * labels + random.normal(0, 0.2, 200), 0, 1)
    helped = np.clip(before + 0.1 * (2 * labels - 1), 0, 1)
    assert improves_auc(labels, before, helped)
    assert not improves_auc(labels, helped, before)
    assert not improves_auc(labels, before, before)
    one_pair = before.copy()
    one_pair[np.argsort(before[labels == 1])[0] * 2 + 1] += 0.05
    assert not improves_auc(labels, before, one_pair)
    assert not improves_auc(np.zeros(200, int), before, helped)  # one class: nothing to tell apart
    assert not improves_auc(labels, before, np.full(200, np.nan))


def test_mcnemar_by_hand():
    right = np.zeros((4, 20), bool)
    reference = np.arange(20) < 8
    right[0, 8:10] = True  # 2 that the reference has wrong, and none of its 8: 2 (1 + 10 + 45) / 2^10
    right[1] = reference  # the very same
    right[2] = ~reference & (np.arange(20) < 16)  # 8 against 8
    right[3, 7:20] = True  # 12 against 7
    found = mcnemar(right, reference)
    assert found == pytest.approx([112 / 1024, 1, 1, binomtest(7, 19).pvalue])


def test_mcnemar_is_the_binomial_test():
    random = np.random.default_rng(3)
    right, reference = random.random((40, 500)) < 0.7, random.random(500) < 0.75
    expected = []
    for row in right:
        alone, other = int((row & ~reference).sum()), int((~row & reference).sum())
        expected.append(binomtest(alone, alone + other).pvalue)
    assert mcnemar(right, reference) == pytest.approx(expected)


def test_holm_by_hand():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which is less than the one before
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.4, 0.6, 0.5])).tolist() == [1, 1, 1]
    assert holm(np.array([0.02])).tolist() == [0.02]
    assert holm(np.array([])).tolist() == []


def test_what_was_not_tested_is_not_counted():
    corrected = holm(np.array([np.nan, 0.01, np.nan, 0.04]))
    assert corrected[[1, 3]] == pytest.approx([0.02, 0.04])
    assert np.isnan(corrected[[0, 2]]).all()

"""rfray.stats.paired_tests: McNemar and Holm by hand, and who is better or worse than by chance."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rfray.stats.delong import placements
from rfray.stats.paired_tests import clearly_worse, holm, improves_auc, mcnemar


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


def test_clearly_worse_is_by_so_much_and_not_by_chance():
    labels = np.tile([0, 1], 1000)
    random = np.random.default_rng(0)
    best = labels + random.normal(0, 1, 2000)  # AUC 0.76
    hardly = best + random.normal(0, 0.5, 2000)  # 0.74: proven, but 1 - AUC is larger by a tenth
    worse = best + random.normal(0, 2, 2000)  # 0.62
    assert placements(labels, np.stack([best, hardly])).minus(0).p_values[1] < 0.01
    assert list(clearly_worse(labels, np.stack([best, hardly, worse]), 1.0)) == [1, 2]
    found = clearly_worse(labels, np.stack([best, hardly, worse]), 1.25)
    assert list(found) == [2]
    assert found[2] < 1e-6
    few = slice(0, 12)
    assert clearly_worse(labels[few], np.stack([best, worse])[:, few], 1.0) == {}, "of twelve images all may be chance"
    assert clearly_worse(np.zeros(2000, int), np.stack([best, worse]), 1.0) == {}


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

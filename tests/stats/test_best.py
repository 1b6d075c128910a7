"""rfray.stats.best: against DeLong's own test, by hand, and how often it errs where many rows are equally good."""

import numpy as np
import pytest
from scipy.stats import norm, t

from rfray.stats import best
from rfray.stats.best import clearly_worse, worse_than_best
from rfray.stats.paired_tests import placements
from tests.stats.test_paired_tests import obuchowski


def seen(random, gaps, groups=None, n=300):
    """Labels and scores of rows that see the images much alike; fakes are higher by each row's gap."""
    labels = np.arange(n) % 2 if groups is None else groups % 2

    def noise(rows):
        if groups is None:
            return random.normal(size=(rows, n))
        of_group = random.normal(size=(rows, groups.max() + 1))[:, groups]
        return np.sqrt(0.6) * of_group + np.sqrt(0.4) * random.normal(size=(rows, len(groups)))

    return labels, np.array(gaps)[:, None] * labels + np.sqrt(0.5) * (noise(1) + noise(len(gaps)))


def test_of_two_rows_it_is_delongs_test():
    random = np.random.default_rng(0)
    for _ in range(10):
        labels, scores = seen(random, [1.0, 1.2])
        placed = placements(labels, scores)
        worse = int(placed.aucs.argmin())
        p_values = worse_than_best(placed)
        assert p_values[worse] == pytest.approx(placed.minus(0).p_values[1], abs=0.015)  # two-sided: either may be best
        assert p_values[1 - worse] > 0.5


def test_the_ratio_is_tested_against_its_bound():
    labels, scores = seen(np.random.default_rng(1), [1.3, 0.8], n=200)
    placed, times = placements(labels, scores), 1.5
    # 1 - AUC_1 - 1.5 (1 - AUC_0) = -0.5 - AUC_1 + 1.5 AUC_0, and its variance from that of the two AUCs
    _, covariance = obuchowski(labels, scores, np.arange(200))
    gap = -0.5 - placed.aucs[1] + 1.5 * placed.aucs[0]
    error = np.sqrt(covariance[1, 1] + 1.5**2 * covariance[0, 0] - 2 * 1.5 * covariance[0, 1])
    one_sided = norm.sf(gap / error)
    assert 0.001 < one_sided < 0.2
    found = worse_than_best(placed, times, reference=0)
    assert one_sided * 0.8 <= found[1] <= 2 * one_sided
    assert found[0] == 1


def test_with_groups_it_is_students_distribution():
    groups = np.repeat(np.arange(24), 5)
    labels, scores = seen(np.random.default_rng(2), [2.0, 1.2], groups)
    placed = placements(labels, scores, groups=groups)
    aucs, covariance = obuchowski(labels, scores, groups)
    ratio = (aucs[0] - aucs[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert worse_than_best(placed)[1] == pytest.approx(2 * t.sf(ratio, 11), rel=0.15)


def test_rows_that_rank_alike_are_tied():
    labels, scores = seen(np.random.default_rng(3), [2.0])
    placed = placements(labels, np.vstack([scores, scores**3, scores, -scores]))
    assert worse_than_best(placed).tolist()[:3] == pytest.approx([1, 1, 1])
    assert worse_than_best(placed)[3] < 1e-10
    assert worse_than_best(placements(labels, scores)).tolist() == [1]


def test_p_is_never_0():
    """Of many rows p comes from draws, none of which is as far off: what was seen is one more of them."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = labels + generator.normal(0, 1, (40, 200))
    scores[0] = labels + generator.normal(0, 0.1, 200)
    worse = worse_than_best(placements(labels, scores))
    assert 0 < np.nanmin(worse) < 0.01


def test_no_variance_but_another_auc():
    labels = np.repeat([0, 1], 10)
    placed = placements(labels, np.array([labels, 1 - labels, labels], float))
    # ten pairs in a row that are better ordered, in six comparisons
    assert worse_than_best(placed) == pytest.approx([1, 6 / 2**10, 1])


def test_one_image_of_a_class_tells_nothing():
    labels, scores = np.array([1, 0, 0, 0]), np.array([[3.0, 1, 2, 4], [2.5, 1, 2, 3], [1, 2, 3, 4]])
    assert worse_than_best(placements(labels, scores)).tolist() == pytest.approx([1, 1, np.nan], nan_ok=True)
    assert clearly_worse(labels, scores, 1.1) == {}


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


def test_copies_prove_nothing():
    labels, scores = seen(np.random.default_rng(5), [1.6, 1.0], n=120)
    assert clearly_worse(labels, scores, 1.1) == {}
    often = np.tile(labels, 30), np.tile(scores, 30)
    assert list(clearly_worse(*often, 1.1)) == [1], "of 3,600 images it would be sure"
    assert clearly_worse(*often, 1.1, np.tile(np.arange(120), 30)) == {}


def errs(random, gaps, groups=None, times=1.0, rounds=300):
    """How often any of the best rows is called worse, and how often each of the others is."""
    gaps = np.array(gaps)
    is_best = gaps == gaps.max()
    found = []
    for _ in range(rounds):
        labels, scores = seen(random, gaps, groups)
        found.append(worse_than_best(placements(labels, scores, groups=groups), times) < 0.05)
    found = np.array(found)
    return found[:, is_best].any(axis=1).mean(), found[:, ~is_best].mean(axis=0)


@pytest.fixture
def fewer_draws(monkeypatch):
    monkeypatch.setattr(best, "DRAWS", 1000)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(60), 5)], ids=["alone", "groups"])
def test_of_many_equally_good_rows_all_are_tied_in_95_percent(groups):
    wrong, _ = errs(np.random.default_rng(6), [1.5] * 6, groups)
    assert wrong <= 0.08


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(80), 5)], ids=["alone", "groups"])
def test_the_best_rows_are_tied_in_95_percent_whatever_the_others_are(groups):
    wrong, right = errs(np.random.default_rng(7), [1.6] * 3 + [1.3] * 3 + [0.2] * 4, groups, rounds=500)
    assert wrong <= 0.07
    assert right[-4:].min() > 0.95, "those that are far worse are told apart"


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_draws")
def test_at_the_bound_five_percent_are_called_clearly_worse():
    """1 - AUC is 1.25 times as large: called so in 5 % of cases, where the difference from 0 is sure in nearly all."""
    random, better = np.random.default_rng(8), 1.2
    wrong = norm.sf(better / np.sqrt(2))
    gap = -np.sqrt(2) * norm.ppf(1.25 * wrong)
    called, differ = [], []
    for _ in range(400):
        labels, scores = seen(random, [better, gap], n=4000)
        called.append(bool(clearly_worse(labels, scores, 1.25)))
        differ.append(placements(labels, scores).minus(0).p_values[1] < 0.05)
    assert 0.02 <= np.mean(called) <= 0.08
    assert np.mean(differ) > 0.9

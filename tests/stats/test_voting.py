"""rfray.stats.voting: tiny elections by hand, and sums that are sorted against scikit-learn."""

from typing import get_args

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics as sk

from rfray.errors import InputError
from rfray.spec.sweep import EnsembleSettings
from rfray.stats.metrics import METRICS as ALL_METRICS
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions
from rfray.stats.voting import (
    METHODS,
    ROUNDS,
    SMALLEST_BAG,
    TEMPERATURES,
    UNIT,
    Candidates,
    aucs,
    fit_temperature,
    methods_to_use,
    tempered,
    verdict_table,
    verdicts,
)
from rfray.store.bundle_record import Vote
from tests.synthetic import FIRST, LABELS, SECOND, predictions

# of five images at 0.8 four are fake, of five at 0.2 one: as sure as it should be
CALIBRATED = np.repeat([0.8, 0.2], 5)
OF_THESE = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])


def candidates(*p_fake, top=None, by="auc", labels=LABELS, seed=0):
    ids = predictions(p_fake[0], labels).ids
    labels = np.array(labels, dtype=np.int8)
    return Candidates(ids, labels, np.array(p_fake), top or len(p_fake), by, seed)


def crowd(count, images=60, seed=0):
    """Candidates that know a little, each its own."""
    random = np.random.default_rng(seed)
    labels = (np.arange(images) % 2).astype(np.int8)
    p_fake = 1 / (1 + np.exp(-random.normal(labels - 0.5, 1.5, (count, images))))
    return candidates(*p_fake, labels=labels)


def test_the_sweep_file_knows_every_method():
    assert list(get_args(get_args(EnsembleSettings.model_fields["methods"].annotation)[0])) == list(METHODS)


def test_soft_is_always_used_and_each_once():
    assert methods_to_use([]) == ["soft"]
    assert methods_to_use(["weighted", "weighted"]) == ["weighted", "soft"]
    assert methods_to_use(["soft", "calibrated"]) == ["soft", "calibrated"]
    with pytest.raises(InputError, match="--method weigthed: no such method; allowed: weighted, soft, calibrated"):
        methods_to_use(["weigthed"])


@pytest.mark.parametrize("name", METHODS)
def test_shares_sum_to_one_and_the_rest_has_none(name):
    weighting = METHODS[name](crowd(30))
    assert weighting.weights.shape == weighting.temperatures.shape == (30,)
    assert weighting.weights.sum() == pytest.approx(1)
    assert np.all(weighting.weights >= 0)


@pytest.mark.parametrize("name", ["soft", "calibrated"])
def test_the_top_vote_alike_and_nobody_else(name):
    weighting = METHODS[name](candidates(FIRST, SECOND, FIRST, top=2))
    assert weighting.weights.tolist() == [0.5, 0.5, 0]


def test_weighted_by_hand():
    # alone SECOND has the best AUC (8.5 / 9; FIRST 7 / 9); its mean with FIRST is all right, and then it is over
    weighting = METHODS["weighted"](candidates(SECOND, FIRST, [0.5] * 6))
    assert weighting.weights.tolist() == [0.5, 0.5, 0]
    assert weighting.temperatures.tolist() == [1, 1, 1]
    assert weighting.temperature == 1


def test_the_same_candidate_may_get_more_votes():
    # called right by each: 3 of 5 (the first is taken); by both: all but the first image, 4; by the first twice and
    # the second: (0.3 + 0.3 + 0.8) / 3 and so on, 5
    first, second = [0.3, 0.3, 0.7, 0.4, 0.4], [0.8, 0.65, 0.6, 0.8, 0.8]
    found = METHODS["weighted"](candidates(first, second, labels=[0, 0, 1, 1, 1], by="accuracy"))
    assert found.weights.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_ties_go_to_the_better_candidate_and_the_shorter_vote():
    right = [0.1, 0.2, 0.3, 0.6, 0.7, 0.8]
    assert METHODS["weighted"](candidates(FIRST, right, right)).weights.tolist() == [0, 1, 0]
    alike = METHODS["weighted"](candidates(FIRST, FIRST))  # no mixture is better than the first alone
    assert alike.weights.tolist() == [1, 0]


@pytest.mark.parametrize("by", ALL_METRICS)
def test_weighted_is_no_worse_on_val_than_the_best(by):
    few = crowd(SMALLEST_BAG)
    few = candidates(*few.p_fake, labels=few.labels, by=by)
    weights = METHODS["weighted"](few).weights
    joined = metric(by, Predictions(few.ids, few.labels, weights @ few.p_fake))
    assert joined >= max(metric(by, Predictions(few.ids, few.labels, row)) for row in few.p_fake)
    steps = weights[weights > 0] * ROUNDS
    assert steps.min() >= 1  # nobody has less than one of ROUNDS votes


def test_many_candidates_are_bagged_by_the_seed():
    many = crowd(3 * SMALLEST_BAG)
    weights = METHODS["weighted"](many).weights
    assert METHODS["weighted"](many).weights.tolist() == weights.tolist()
    other = candidates(*many.p_fake, labels=many.labels, seed=1)
    assert METHODS["weighted"](other).weights.tolist() != weights.tolist()
    # the best one is in about half of the bags only, so that no candidate has it all
    assert np.count_nonzero(weights) > SMALLEST_BAG


def test_a_metric_that_is_undefined_is_chosen_last():
    # precision of the first is undefined: nothing is called fake
    weighting = METHODS["weighted"](candidates([0.1] * 6, [0.1, 0.2, 0.3, 0.6, 0.7, 0.8], by="precision"))
    assert weighting.weights.tolist() == [0, 1]


def test_calibrated_members_have_their_own_temperature_and_so_has_the_vote():
    two = candidates(FIRST, SECOND, FIRST, top=2)
    weighting = METHODS["calibrated"](two)
    expected = [fit_temperature(two.labels, row) for row in two.p_fake[:2]]
    assert weighting.temperatures.tolist() == [*expected, 1.0]
    mean = np.mean([tempered(row, temperature) for row, temperature in zip(two.p_fake, expected, strict=False)], axis=0)
    assert weighting.temperature == fit_temperature(two.labels, mean)
    assert 1.0 not in expected


@pytest.mark.parametrize("coarse", [False, True])
def test_aucs_are_scikit_learns(coarse):
    random = np.random.default_rng(0)
    labels = (random.random(300) < 0.3).astype(np.int32)
    scores = random.random((5, 300)) + 0.3 * labels
    scores = np.rint(scores * (10 if coarse else UNIT)).astype(np.int32)  # coarse: with ties, of several on both sides
    assert aucs(labels, scores) == pytest.approx([sk.roc_auc_score(labels, row) for row in scores], abs=1e-12)
    assert aucs(np.zeros(300, int), scores).tolist() == [-np.inf] * 5


def test_sums_of_all_votes_fit_into_their_numbers():
    assert np.iinfo(np.int32).max >= ROUNDS * UNIT


# temperatures


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


def test_of_no_image_no_temperature_is_known():
    assert fit_temperature(np.array([]), np.array([])) is None


def vote(**changes):
    fields = {"name": "ensemble", "members": ["a", "b"], "weights": [0.75, 0.25], "temperatures": [1.0, 1.0]}
    return Vote(**{**fields, "threshold": 0.5, "val_score": None, **changes})


def test_from_the_threshold_on_it_is_fake():
    assert verdicts(vote(), np.array([0.0, 0.4999, 0.5, 1.0, np.nan])).tolist() == ["real", "real", "fake", "fake", ""]


def test_within_the_band_it_is_unsure():
    said = verdicts(vote(unsure=(0.4, 0.6)), np.array([0.39, 0.4, 0.5, 0.59, 0.6]))
    assert said.tolist() == ["real", "unsure", "unsure", "unsure", "fake"]
    assert verdicts(vote(unsure=(0.5, 0.5)), np.array([0.4, 0.5])).tolist() == ["real", "fake"]


def test_a_row_a_file_and_a_reason_instead_of_numbers():
    scores = np.array([[0.4, np.nan, 1.0], [0.8, np.nan, 0.2]])
    table = verdict_table(vote(), ["x.jpg", "y.jpg", "z.jpg"], scores, ["", "truncated", ""])
    assert list(table.columns) == ["path", "p_fake", "verdict", "a", "b", "reason"]
    np.testing.assert_allclose(table["p_fake"], [0.5, np.nan, 0.8], atol=1e-15)  # 0.3 + 0.2; 0.75 + 0.05
    assert table["verdict"].tolist() == ["fake", "", "fake"]
    np.testing.assert_array_equal(table["b"], [0.8, np.nan, 0.2])
    assert table["reason"].tolist() == ["", "truncated", ""]


def test_nothing_could_be_read():
    table = verdict_table(vote(), ["x.jpg"], np.full((2, 1), np.nan), ["gone"])
    assert table["p_fake"].isna().all()
    assert table["verdict"].tolist() == [""]

"""What the searchers draw from, walk over and may change, by hand."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search.sample import Float, Integer

from rfray.spec.trial import Range, Trial
from rfray.tuning import space

CHOICES = {"backbone": ["a", "b"], "pretrained": [False, {"a": "/w"}], "lr": [0.1, 0.2, 0.3]}
RANGES = {
    "lr": Range(log=(1e-5, 1e-3)),
    "weight_decay": Range(uniform=(0.0, 0.1)),
    "epochs": Range(int=(2, 9)),
    "backbone": ["a", "b"],
}


def test_a_choice_is_drawn_by_its_place_and_a_range_within_both_ends() -> None:
    assert space.distributions(RANGES) == {
        "lr": FloatDistribution(1e-5, 1e-3, log=True),
        "weight_decay": FloatDistribution(0.0, 0.1),
        "epochs": IntDistribution(2, 9),
        "backbone": CategoricalDistribution((0, 1)),
    }


def test_what_was_drawn_becomes_a_setting() -> None:
    drawn = {"lr": 1e-4, "weight_decay": 0.05, "epochs": 3, "backbone": 1}
    assert space.settings(drawn, RANGES) == {"lr": 1e-4, "weight_decay": 0.05, "epochs": 3, "backbone": "b"}
    assert space.settings({"backbone": 0, "pretrained": 1, "lr": 2}, CHOICES) == {
        "backbone": "a",
        "pretrained": {"a": "/w"},
        "lr": 0.3,
    }


def test_the_size_is_the_product_and_endless_with_a_range() -> None:
    assert space.size(CHOICES) == 2 * 2 * 3
    assert space.size({}) == 1
    assert space.size(RANGES) is None


def test_combinations_go_through_the_last_axis_fastest() -> None:
    assert list(space.combinations({"backbone": ["a", "b"], "lr": [0.1, 0.2]})) == [
        {"backbone": "a", "lr": 0.1},
        {"backbone": "a", "lr": 0.2},
        {"backbone": "b", "lr": 0.1},
        {"backbone": "b", "lr": 0.2},
    ]
    assert list(space.combinations({})) == [{}]


def test_only_what_may_change_in_the_middle_of_a_trial_is_mutated() -> None:
    axes = {**RANGES, "augmentation": ["none", "light"], "clip_grad": Range(int=(1, 3))}
    mutations = space.mutations(axes)
    assert list(mutations) == ["lr", "weight_decay", "augmentation", "clip_grad"]
    lr, weight_decay, clip_grad = mutations["lr"], mutations["weight_decay"], mutations["clip_grad"]
    assert isinstance(lr, Float)
    assert (lr.lower, lr.upper, type(lr.sampler).__name__) == (1e-5, 1e-3, "_LogUniform")
    assert isinstance(weight_decay, Float)
    assert (weight_decay.lower, weight_decay.upper, type(weight_decay.sampler).__name__) == (0.0, 0.1, "_Uniform")
    assert isinstance(clip_grad, Integer)
    assert {clip_grad.sample() for _ in range(60)} == {1, 2, 3}
    assert mutations["augmentation"] == ["none", "light"]


def test_what_may_be_mutated_is_a_key_of_a_trial() -> None:
    assert set(space.MUTABLE) <= set(Trial.model_fields)


@pytest.mark.parametrize(("multiplied", "kept"), [(1e-6, 1e-5), (1.0, 1e-3), (2e-4, 2e-4)])
def test_a_mutated_number_stays_within_its_range(multiplied: float, kept: float) -> None:
    config = {"id": "0000-aaaaaa", "lr": multiplied, "weight_decay": 0.05, "epochs": 3.6, "backbone": "a"}
    assert space.within(config, RANGES) == {**config, "lr": kept, "epochs": 4}
    assert config["epochs"] == 3.6

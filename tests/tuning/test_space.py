"""What the searchers draw from and walk through, by hand."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rfray.spec.trial import Range
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

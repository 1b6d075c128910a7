"""SEARCHERS propose each setting once, learn from what they are told, and the number of trials is known beforehand."""

from copy import deepcopy
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.checks import combinations, planned_trials, settings
from rfray.spec.names import REMOVED
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range, Trial
from rfray.tuning.asha import JudgedEpoch
from rfray.tuning.strategies import (
    SCHEDULERS,
    SEARCHERS,
    Median,
    distribution,
    params_of,
)

TWELVE = {"backbone": ["a", "b"], "augmentation": ["none", "light"], "lr": [0.1, 0.2, 0.3]}
ENDLESS = {"backbone": ["a", "b"], "lr": {"log": [1e-5, 1e-1]}, "epochs": {"int": [1, 5]}}
WEIGHTS = {"backbone": ["a", "b"], "pretrained": [False, {"b": "/weights"}]}
"""For backbone a both mean the same, so there are three settings."""


def sweep(trial: dict[str, Any], seed: int = 0, **search: Any) -> Sweep:
    raw = {"name": "s", "seed": seed, "data": {"source": "demo"}, "trial": {"backbone": "a", **trial}}
    return Sweep.model_validate({**raw, "search": search})


def ask_all(searcher: Any, limit: int) -> list[dict[str, Any]]:
    """What is proposed until the end, or `limit` proposals."""
    proposals: list[dict[str, Any]] = []
    while len(proposals) < limit and (values := searcher.ask()) is not None:
        proposals.append(values)
    return proposals


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_a_cut_trial_is_pruned_and_counts_again_when_it_got_further(name: str) -> None:
    searcher = SEARCHERS[name](sweep(ENDLESS))
    ask_all(searcher, 4)
    for told in [(0, 0.5, 1), (1, 0.6, 1), (0, 0.9, 3), (1, None, 2), (2, None), (3, 0.7)]:
        searcher.tell(*told)
    assert searcher.ask() is not None
    trials = searcher._study.get_trials()
    assert [trial.state.name for trial in trials] == ["PRUNED", "PRUNED", "FAIL", "COMPLETE", "RUNNING"]
    assert [trial.intermediate_values for trial in trials] == [{3: 0.9}, {1: 0.6}, {}, {}, {}]
    assert [trial.value for trial in trials] == [0.9, 0.6, None, 0.7, None]


def test_a_trial_that_went_on_to_its_end_is_complete() -> None:
    searcher = SEARCHERS["optuna"](sweep(ENDLESS))
    proposals = ask_all(searcher, 2)
    searcher.tell(0, 0.5, 1)
    proposals.append(searcher.ask())
    searcher.tell(0, 0.8)
    searcher.tell(2, 0.7, 2)
    proposals.append(searcher.ask())
    trials = searcher._study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "RUNNING", "PRUNED", "RUNNING"]
    assert [trial.value for trial in trials] == [0.8, None, 0.7, None]
    assert len({values["lr"] for values in proposals}) == 4


def test_optuna_prefers_what_came_further() -> None:
    searcher = SEARCHERS["optuna"](sweep(ENDLESS))
    for number in range(30):
        values = searcher.ask()
        searcher.tell(number, 0.5, 9 if values["backbone"] == "a" else 1)
    assert sum(values["backbone"] == "a" for values in ask_all(searcher, 20)) >= 15


def test_a_grid_is_walked_in_the_order_of_the_trial_keys() -> None:
    proposals = ask_all(SEARCHERS["grid"](sweep({"lr": [0.1, 0.2], "backbone": ["b", "a"]})), 99)
    assert [(values["backbone"], values["lr"]) for values in proposals] == [
        ("b", 0.1),
        ("b", 0.2),
        ("a", 0.1),
        ("a", 0.2),
    ]


@pytest.mark.parametrize(
    "fewer", [{"lr": [0.1, 0.3]}, {"lr": [0.1, 0.2]}, {"lr": 0.2, "backbone": "b"}, {"augmentation": "light"}]
)
def test_a_grid_that_has_more_values_now_proposes_those_that_are_new(fewer: dict[str, Any]) -> None:
    small, large = sweep({**TWELVE, **fewer}, algorithm="grid"), sweep(TWELVE, algorithm="grid")
    before = [small.trial.trial(values) for values in ask_all(SEARCHERS["grid"](small), 99)]
    searcher = SEARCHERS["grid"](large)
    again = [large.trial.trial(searcher.ask(trial)) for trial in before]
    new = [large.trial.trial(values) for values in ask_all(searcher, 99)]
    assert again == before
    assert len(new) == len({one.digest for one in new} - {one.digest for one in before}) == 12 - len(before)


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_what_was_proposed_with_other_axes_is_not_proposed_again_and_keeps_its_score(name: str) -> None:
    """A larger budget has time for more probes, by which the axes and the points to begin with are others."""
    few, more = sweep({**TWELVE, "backbone": ["a", "gone"]}), sweep({**TWELVE, "backbone": ["b", "a"]})
    before = [few.trial.trial(values) for values in ask_all(SEARCHERS[name](few), 8)]
    searcher = SEARCHERS[name](more, (), [{"backbone": 0}, {"backbone": 1}])
    for number, trial in enumerate(before):
        searcher.ask(trial)
        searcher.tell(number, number / 10)
    new = [more.trial.trial(values) for values in ask_all(searcher, 99)]
    kept = [trial for trial in before if trial.backbone == "a"]
    assert 0 < len(kept) < 8
    assert {trial.digest for trial in new}.isdisjoint(trial.digest for trial in before)
    assert len({trial.digest for trial in new}) == len(new) == 12 - len(kept)
    told = {trial.value: settings(trial.params, more.trial.axes()) for trial in searcher._study.get_trials()}
    for number, trial in enumerate(before):
        if trial in kept:
            assert more.trial.trial(told[number / 10]) == trial


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("told", [0.5, None])
def test_a_finite_space_is_proposed_whole_and_nothing_twice(name: str, told: float | None) -> None:
    searcher = SEARCHERS[name](sweep(TWELVE))
    proposals = []
    for number in range(12):
        values = searcher.ask()
        assert values is not None
        proposals.append((values["backbone"], values["augmentation"], values["lr"]))
        searcher.tell(number, told)
    assert sorted(proposals) == sorted(product(["a", "b"], ["none", "light"], [0.1, 0.2, 0.3]))
    assert searcher.ask() is None
    assert searcher.ask() is None


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_space_of_one_setting_is_proposed_once(name: str) -> None:
    assert ask_all(SEARCHERS[name](sweep({})), 9) == [{}]


@pytest.mark.parametrize("name", SEARCHERS)
def test_settings_that_come_to_the_same_trial_are_one(name: str) -> None:
    asked = sweep(WEIGHTS)
    trials = [asked.trial.trial(values) for values in ask_all(SEARCHERS[name](asked), 9)]
    assert len(trials) == 3
    assert {(trial.backbone, trial.pretrained) for trial in trials} == {("a", False), ("b", False), ("b", "/weights")}


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_proposals_stay_within_their_ranges(name: str) -> None:
    for values in ask_all(SEARCHERS[name](sweep(ENDLESS)), 30):
        assert 1e-5 <= values["lr"] <= 1e-1
        assert values["epochs"] in (1, 2, 3, 4, 5)
        assert values["backbone"] in ("a", "b")


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_the_same_seed_proposes_the_same_and_another_seed_other_settings(name: str) -> None:
    def twenty(seed: int) -> list[dict[str, Any]]:
        searcher = SEARCHERS[name](sweep(ENDLESS, seed))
        proposals = []
        for number in range(20):
            proposals.append(searcher.ask())
            searcher.tell(number, proposals[-1]["epochs"] / 10)
        return proposals

    assert twenty(0) == twenty(0)
    assert twenty(0) != twenty(1)


@pytest.mark.parametrize("better", ["a", "b"])
def test_optuna_proposes_more_of_what_was_better(better: str) -> None:
    searcher = SEARCHERS["optuna"](sweep(ENDLESS))
    for number in range(30):
        values = searcher.ask()
        searcher.tell(number, 0.9 if values["backbone"] == better else 0.5)
    proposals = ask_all(searcher, 20)
    assert sum(values["backbone"] == better for values in proposals) >= 15


def test_trials_may_be_told_in_any_order() -> None:
    searcher = SEARCHERS["optuna"](sweep(ENDLESS))
    proposals = ask_all(searcher, 4)
    for number in (2, 0, 3, 1):
        searcher.tell(number, 0.5)
    assert searcher.ask() not in proposals


@pytest.mark.parametrize(
    ("trial", "search", "planned"),
    [
        (TWELVE, {"algorithm": "grid"}, 12),
        (TWELVE, {"algorithm": "grid", "trials": 40}, 12),
        (TWELVE, {"algorithm": "random", "trials": 5}, 5),
        (TWELVE, {"algorithm": "optuna", "trials": 40}, 12),
        (ENDLESS, {"algorithm": "optuna", "trials": 40}, 40),
        ({}, {"algorithm": "random", "trials": 3}, 1),
        (ENDLESS, {"budget": "5m"}, None),
        (ENDLESS, {"budget": "5m", "trials": 7}, 7),
        (TWELVE, {"budget": "5m"}, 12),
        (WEIGHTS, {"algorithm": "grid"}, 3),
        (WEIGHTS, {"algorithm": "random", "trials": 4}, 3),
        # a million settings are not counted through
        ({key: [n / 10 for n in range(1, 10)] for key in ("lr", "mixup", "cutmix", "ema", "warmup")}, {"trials": 2}, 2),
    ],
)
def test_the_number_of_trials_is_known_beforehand(
    trial: dict[str, Any], search: dict[str, Any], planned: int | None
) -> None:
    assert planned_trials(sweep(trial, **search)) == planned


def test_a_grid_has_each_trial_once_and_ranges_have_no_end() -> None:
    assert len(list(combinations(sweep(TWELVE, algorithm="grid", trials=3)))) == 12
    assert len(list(combinations(sweep(WEIGHTS, algorithm="grid")))) == 3
    assert list(combinations(sweep({}))) == [{}]
    assert list(combinations(sweep(ENDLESS))) == []
    two = list(combinations(sweep({"backbone": ["a", "b"], "lr": [0.1, 0.2]})))
    assert [tuple(params.values()) for params in two] == [(0, 0), (0, 1), (1, 0), (1, 1)]  # the last axis fastest


def test_a_choice_is_drawn_by_its_place_and_a_range_within_both_ends() -> None:
    assert distribution(Range(log=(1e-5, 1e-3))) == FloatDistribution(1e-5, 1e-3, log=True)
    assert distribution(Range(uniform=(0.0, 0.1))) == FloatDistribution(0.0, 0.1)
    assert distribution(Range(int=(2, 9))) == IntDistribution(2, 9)
    assert distribution(["a", "b"]) == CategoricalDistribution((0, 1))


def test_what_was_drawn_becomes_a_setting() -> None:
    axes = {"lr": Range(log=(1e-5, 1e-3)), "pretrained": [False, {"a": "/w"}], "backbone": ["a", "b"]}
    drawn = {"lr": 1e-4, "pretrained": 1, "backbone": 0}
    assert settings(drawn, axes) == {"lr": 1e-4, "pretrained": {"a": "/w"}, "backbone": "a"}
    trial = Trial(backbone="a", lr=1e-4, pretrained="/w")
    assert params_of(trial, axes) == drawn
    assert params_of(trial.model_copy(update={"lr": 0.1}), axes) is None
    assert params_of(trial.model_copy(update={"backbone": "c"}), axes) is None


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_count_in_epochs(name: str) -> None:
    scheduler = SCHEDULERS[name](sweep({"lr": [0.1, 0.2]}, grace_epochs=2), 100)
    assert getattr(scheduler, "_time_attr", "epoch") == "epoch"
    assert scheduler.metric in ("score", None)


@pytest.mark.parametrize("epochs", [4, [2, 4], {"int": [2, 4]}])
def test_asha_goes_up_to_the_longest_trial(epochs: Any) -> None:
    assert SCHEDULERS["asha"](sweep({"epochs": epochs}, trials=1), 100).rungs == [1, 3]
    assert SCHEDULERS["asha"](sweep({"epochs": epochs}, trials=1, grace_epochs=4), 100).rungs == []


@pytest.mark.parametrize("size", [25, [25, 50], {"int": [25, 50]}])
def test_passes_that_are_divided_have_more_rungs(size: Any) -> None:
    """4 passes over 100 images are 16 epochs of 25."""
    divided = sweep({"epochs": 4, "epoch_images": size}, trials=1)
    assert SCHEDULERS["asha"](divided, 100).rungs == [1, 3, 9]


def test_what_was_removed_is_not_offered() -> None:
    assert not set(REMOVED) & set(SCHEDULERS)


def test_what_a_trial_says_again_is_decided_as_before_and_counted_once() -> None:
    scheduler, alone = Median(grace=1, least=1), SimpleNamespace(get_live_trials=list)

    def say(name: str, epoch: int, score: float) -> str:
        return scheduler.on_trial_result(alone, name, {EPOCH: epoch, SCORE: score})

    assert say("good", 1, 0.9) == "CONTINUE"
    assert say("good", 2, 0.9) == "CONTINUE"
    assert say("bad", 1, 0.1) == "STOP"
    known = deepcopy(scheduler._rules[0]._results)
    assert say("good", 2, 0.9) == "CONTINUE"
    assert say("bad", 1, 0.1) == "STOP"
    assert scheduler._rules[0]._results == known
    later = Median(grace=1, least=1)
    past = [("good", 1, 0.9), ("good", 2, 0.9), ("bad", 1, 0.1)]
    later.recall([JudgedEpoch(name, epoch, score, score) for name, epoch, score in past], ended={"good"})
    scheduler.on_trial_complete(alone, "good", {EPOCH: 2, SCORE: 0.9})
    assert later._rules[0]._results == scheduler._rules[0]._results
    assert later.on_trial_result(alone, "bad", {EPOCH: 1, SCORE: 0.1}) == "STOP"


def test_a_trial_that_failed_before_its_first_epoch_is_no_rival() -> None:
    scheduler, alone = Median(grace=1, least=1), SimpleNamespace(get_live_trials=list)
    scheduler.on_trial_complete(alone, "failed", {"done": True})
    assert scheduler.on_trial_result(alone, "first", {EPOCH: 1, SCORE: 0.1}) == "CONTINUE"

from typing import Any

import albumentations
import numpy as np
import pytest

from rfray.data.augment import POLICIES, Policy, build_policy, check_policy
from rfray.errors import SweepError

CHANGING = sorted(set(POLICIES) - {"none"})


def image(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def built(entries: list[Any], side: int = 32) -> Policy:
    policy = build_policy("mine", {"mine": entries}, side)
    assert policy is not None
    return policy


def applied(policy: Policy, given: np.ndarray, seed: int) -> np.ndarray:
    policy.reseed(seed)
    return policy(given)


# the built-in policies


def test_none_changes_nothing() -> None:
    assert build_policy("none", {}, 32) is None
    check_policy("none", {}, 32)


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("name", CHANGING)
def test_built_in_policies_work_and_change_images(name: str, side: int) -> None:
    check_policy(name, {}, side)
    policy = build_policy(name, {}, side)
    assert policy is not None
    given = image(side)
    before = given.copy()
    results = [applied(policy, given, seed) for seed in range(10)]
    for result in results:
        assert result.shape == (side, side, 3)
        assert result.dtype == np.uint8
    assert np.array_equal(given, before)  # the pixels that all trials share stay as they are
    assert sum(not np.array_equal(result, given) for result in results) >= 5
    assert len({result.tobytes() for result in results}) >= 5


@pytest.mark.parametrize("name", CHANGING)
def test_the_same_seed_gives_the_same_changes(name: str) -> None:
    one, other = build_policy(name, {}, 32), build_policy(name, {}, 32)
    assert one is not None
    assert other is not None
    one(image(32, 5))  # what came before does not matter
    for policy in (one, other):
        policy.reseed(7)
    first, second = ([policy(image(32, number)).tobytes() for number in range(20)] for policy in (one, other))
    assert first == second
    one.reseed(8)
    assert [one(image(32, number)).tobytes() for number in range(20)] != first


# own policies


def test_an_own_policy_by_hand() -> None:
    given = image(32)
    assert np.array_equal(built([{"HorizontalFlip": {"p": 1.0}}])(given), given[:, ::-1])
    both = built([{"HorizontalFlip": {"p": 1.0}}, {"VerticalFlip": {"p": 1.0}}])
    assert np.array_equal(both(given), given[::-1, ::-1])


def test_an_own_policy_wins_over_a_built_in_one_of_its_name() -> None:
    policy = build_policy("light", {"light": [{"InvertImg": {"p": 1.0}}]}, 32)
    assert policy is not None
    assert np.array_equal(policy(image(32)), 255 - image(32))


def test_transforms_inside_of_others() -> None:
    flips = [{"HorizontalFlip": {"p": 1.0}}, {"Sequential": {"p": 1.0, "transforms": [{"VerticalFlip": {"p": 1.0}}]}}]
    policy = built([{"OneOf": {"p": 1.0, "transforms": flips}}])
    given = image(32)
    results = {applied(policy, given, seed).tobytes() for seed in range(20)}
    assert results == {given[:, ::-1].tobytes(), given[::-1].tobytes()}
    check_policy("mine", {"mine": [{"SomeOf": {"n": 1, "transforms": flips}}]}, 32)


def test_the_word_image_size_stands_for_the_side() -> None:
    entries = [{"RandomCrop": {"height": "image_size", "width": "image_size", "pad_if_needed": True, "p": 1.0}}]
    for side in (24, 40):
        assert np.array_equal(built(entries, side)(image(side)), image(side))
    entries = [{"RandomResizedCrop": {"size": ["image_size", "image_size"], "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}}]
    assert np.array_equal(built(entries, 40)(image(40)), image(40))
    nested = [{"OneOf": {"p": 1.0, "transforms": [{"Resize": {"height": "image_size", "width": "image_size"}}]}}]
    assert built(nested, 24)(image(24)).shape == (24, 24, 3)


@pytest.mark.parametrize("size", [(16, 16), (50, 50), (20, 28)])
def test_what_changes_the_size_is_scaled_back(size: tuple[int, int]) -> None:
    entries = [{"Resize": {"height": size[0], "width": size[1], "p": 1.0}}]
    check_policy("mine", {"mine": entries}, 32)
    flat = np.full((32, 32, 3), 90, dtype=np.uint8)
    result = built(entries)(flat)
    assert result.shape == (32, 32, 3)
    assert (result == 90).all()


def test_arguments_may_be_left_out() -> None:
    check_policy("mine", {"mine": [{"HorizontalFlip": None}, {"VerticalFlip": {}}]}, 32)


# what is refused


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"HorizontalFlop": {}}], "no transform 'HorizontalFlop'.*nearest: HorizontalFlip"),
        ([{"Compose": {"transforms": []}}], "no transform 'Compose'"),
        ([{"os": {}}], "no transform 'os'"),
        ([{"HorizontalFlip": {"probability": 0.5}}], "HorizontalFlip has no argument 'probability'; allowed: p"),
        ([{"HorizontalFlip": {"p": 2}}], "HorizontalFlip: .*less than or equal to 1"),
        ([{"HorizontalFlip": {"p": "often"}}], "HorizontalFlip: .*p"),
        ([{"Resize": {"height": 16}}], "Resize: .*width"),
        ([{"ImageCompression": {"quality_range": [95, 40]}}], "ImageCompression: .*quality_range"),
        ([{"HorizontalFlip": {}, "VerticalFlip": {}}], "one transform"),
        ([{}], "one transform"),
        ([{"OneOf": {"transforms": ["HorizontalFlip"]}}], "one transform.*given: HorizontalFlip"),
        ([{"OneOf": {"transforms": {"HorizontalFlip": {}}}}], "OneOf takes a list"),
        ([{"OneOf": {"transforms": []}}], "OneOf takes a list"),
        ([{"OneOf": {}}], "OneOf: .*transforms"),
        ([{"OneOf": {"transforms": [{"HorizontalFlip": 3}]}}], "HorizontalFlip takes .*given: 3"),
        ([{"OneOf": {"transforms": [{"HorizontalFlop": {}}]}}], "no transform 'HorizontalFlop'"),
    ],
)
def test_what_can_not_be_built_is_an_error(entries: list[Any], expected: str) -> None:
    for function in (build_policy, check_policy):
        with pytest.raises(SweepError, match=expected):
            function("mine", {"mine": entries}, 32)


def test_an_unknown_policy_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(SweepError, match=r"no policy 'compresion'; allowed: compression, .*mine.*nearest: compression"):
        build_policy("compresion", {"mine": []}, 32)


@pytest.mark.parametrize("p", [1.0, 0.001])
@pytest.mark.parametrize("name", ["Normalize", "ToFloat", "ToTensorV2"])
def test_what_gives_something_else_than_images_is_refused(name: str, p: float) -> None:
    entries = [{"HorizontalFlip": {}}, {"OneOf": {"p": p, "transforms": [{name: {"p": p}}]}}]
    with pytest.raises(SweepError, match=r"mine: a uint8 image with 3 channels is turned into .*leave out Normalize"):
        check_policy("mine", {"mine": entries}, 32)


def test_what_would_be_cut_off_silently_is_refused_while_training_too() -> None:
    policy = Policy(albumentations.Compose([albumentations.ToFloat(p=1.0)]), 32)
    with pytest.raises(SweepError, match="float32"):
        policy(image(32))


@pytest.mark.parametrize(
    "entry",
    [
        {"RandomCrop": {"height": 64, "width": 64, "p": 0.001}},  # larger than the image, and rarely chosen
        {"MaskDropout": {}},  # needs more than an image
        {"RandomSizedBBoxSafeCrop": {"height": 16, "width": 16}},
        {"FDA": {}},
    ],
)
def test_what_fails_on_an_image_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(SweepError, match="mine fails on an image of 32 px: "):
        check_policy("mine", {"mine": [entry]}, 32)

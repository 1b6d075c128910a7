"""rfray.data.corruptions: each does what it says, to any picture, and the same every time."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest

from rfray.data.corruptions import CORRUPTION_NAMES, CORRUPTIONS, FAMILIES, FUNCTIONS
from rfray.data.images import in_threads
from rfray.evaluation.ensemble import TEST_COLUMNS

Corruption = Callable[[np.ndarray], np.ndarray]


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft shapes with a fine texture."""
    generator = np.random.default_rng(seed)
    soft = cv2.resize(generator.integers(40, 216, (6, 6, 3), dtype=np.uint8), (width, height))
    return (soft + generator.normal(0, 6, soft.shape)).clip(0, 255).astype(np.uint8)


def error(name: str, picture: np.ndarray) -> float:
    """Mean absolute difference that a corruption makes."""
    return float(np.abs(CORRUPTIONS[name](picture).astype(int) - picture).mean())


def test_the_names_that_people_ask_for() -> None:
    assert tuple(CORRUPTIONS) == CORRUPTION_NAMES
    assert " ".join(CORRUPTIONS) == (
        "jpeg_90 jpeg_70 jpeg_50 jpeg_30 scale_75 scale_50 scale_25 blur_1 blur_2 blur_4 noise_5 noise_10 noise_20"
    )
    assert list(FUNCTIONS) == list(FAMILIES)
    assert [TEST_COLUMNS[0], TEST_COLUMNS[-2:]] == ["auc_jpeg_90", ("auc_noise_20", "auc_worst_corruption")]


@pytest.mark.parametrize("size", [(120, 90), (37, 53), (2, 3), (1, 1)])
@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_shape_and_dtype_stay_and_so_does_the_picture(corruption: Corruption, size: tuple[int, int]) -> None:
    picture = photograph(*size)
    picture.flags.writeable = False
    before = picture.copy()
    corrupted = corruption(picture)
    assert (corrupted.shape, corrupted.dtype) == (picture.shape, np.uint8)
    assert np.array_equal(picture, before)
    assert np.array_equal(corruption(picture), corrupted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stronger_corruption_changes_more(family: str) -> None:
    errors = [error(f"{family}_{strength}", photograph(120, 90)) for strength in FAMILIES[family]]
    assert errors[0] > 0.3
    assert all(weaker * 1.05 < stronger for weaker, stronger in pairwise(errors))


def test_jpeg_leaves_the_colours_where_they_are() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[...] = (200, 40, 30)
    assert np.abs(CORRUPTIONS["jpeg_30"](red).astype(int) - red).max() <= 8  # blue and red are not swapped


def test_scaling_takes_away_what_is_finer_than_it_keeps() -> None:
    rows, columns = np.indices((64, 64))
    board = np.repeat(((rows + columns) % 2 * 200)[..., None], 3, axis=2).astype(np.uint8)
    assert np.ptp(CORRUPTIONS["scale_50"](board)) == 0  # each four pixels have a mean of 100
    assert CORRUPTIONS["scale_50"](board)[0, 0].tolist() == [100, 100, 100]
    stripes = np.repeat((columns // 8 % 2 * 200)[..., None], 3, axis=2).astype(np.uint8)
    assert np.array_equal(CORRUPTIONS["scale_25"](stripes)[:, 4::8] > 100, stripes[:, 4::8] > 100)


@pytest.mark.parametrize("sigma", FAMILIES["blur"])
def test_a_blurred_edge_is_as_wide_as_the_gaussian(sigma: int) -> None:
    edge = np.zeros((8, 80, 3), np.uint8)
    edge[:, 40:] = 255
    slope = np.diff(CORRUPTIONS[f"blur_{sigma}"](edge)[4, :, 0].astype(float)) / 255  # the Gaussian itself
    places = np.arange(79) - 39
    assert slope.sum() == pytest.approx(1, abs=0.01)
    assert (slope * places).sum() == pytest.approx(0, abs=0.05)
    assert np.sqrt((slope * places**2).sum()) == pytest.approx(sigma, rel=0.06)  # it is cut off at three sigma


@pytest.mark.parametrize("sigma", FAMILIES["noise"])
def test_noise_has_its_strength_and_no_direction(sigma: int) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = CORRUPTIONS[f"noise_{sigma}"](grey).astype(float) - 128
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=sigma / 50)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


def test_noise_is_cut_off_at_black_and_white() -> None:
    for level in (0, 255):
        corrupted = CORRUPTIONS["noise_20"](np.full((50, 50, 3), level, np.uint8)).astype(int)
        assert np.abs(corrupted - level).max() < 128
        assert (corrupted == level).mean() == pytest.approx(0.5, abs=0.05)


def test_noise_depends_on_the_picture_alone() -> None:
    """Not on the thread, nor on what was drawn there before."""
    corruption = CORRUPTIONS["noise_10"]
    pictures = [photograph(40, 40, seed) for seed in range(40)]
    alone = [corruption(picture) for picture in pictures]
    together = list(in_threads(corruption, pictures[::-1]))[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert np.array_equal(corruption(pictures[3][:, ::-1][:, ::-1]), alone[3])  # another memory layout
    grey = np.full((40, 40, 3), 128, np.uint8)
    other = grey.copy()
    other[0, 0, 0] = 129
    assert (corruption(grey) != corruption(other)).mean() > 0.9

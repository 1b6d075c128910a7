"""Small pictures, and colour where the heatmap is: by hand."""

import cv2
import numpy as np
import pytest

from rfray.models.heatmap_overlay import LONGEST, encode_jpeg, overlay_heatmap, place_heatmap, shrink


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 600), (80, 160)), ((601, 300), (160, 80)), ((90, 40), (90, 40)), ((2000, 3), (160, 1))],
)
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 7, np.uint8)
    small = shrink(picture)
    assert small.shape == (*expected, 3)
    assert max(small.shape) <= LONGEST
    assert (small == 7).all()


def corner() -> np.ndarray:
    """(4, 4): evidence at the top left."""
    evidence = np.zeros((4, 4), np.float32)
    evidence[0, 0] = 1
    return evidence


def test_a_window_is_placed_where_the_model_saw_it() -> None:
    out = place_heatmap(corner(), 4, 8, 10)  # rows 2 to 5 and columns 3 to 6
    assert out.dtype == np.float32
    assert np.argwhere(out).tolist() == [[2, 3]]
    assert out[2, 3] == 1


def test_the_middle_square_is_placed_over_the_picture() -> None:
    assert np.argwhere(place_heatmap(corner(), 8.2, 8, 12) > 0.5).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_what_reaches_beyond_the_picture_is_cut() -> None:
    evidence = np.zeros((6, 6), np.float32)
    evidence[1, 2] = 1
    assert np.argwhere(place_heatmap(evidence, 6, 4, 4)).tolist() == [[0, 1]]
    assert np.argwhere(place_heatmap(evidence, 6, 4, 8)).tolist() == [[0, 3]]
    assert not place_heatmap(corner(), 6, 1, 1).any()


def test_colour_is_where_the_heatmap_is() -> None:
    picture = np.full((1, 3, 3), (200, 100, 0), np.uint8)
    over = overlay_heatmap(picture, np.array([[0, 0.5, 1]], np.float32)).astype(int)
    assert over[0, 0].tolist() == [119, 119, 119]  # 0.299 * 200 + 0.587 * 100: grey where there is none
    bright = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert over[0, 2].tolist() == np.round(0.3 * 119 + 0.7 * bright).astype(int).tolist()
    assert (over[0, 1] != over[0, 0]).any()


def test_a_jpeg_is_read_back() -> None:
    picture = np.full((16, 24, 3), (200, 100, 0), np.uint8)
    read = cv2.imdecode(np.frombuffer(encode_jpeg(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert read.shape == (16, 24, 3)
    assert np.abs(read.astype(int) - picture).max() <= 4

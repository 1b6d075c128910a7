"""Pictures become squares: scaled, cut out as they are, encoded anew."""

import cv2
import numpy as np
import pytest

from rfray.data.geometry import Geometry
from rfray.spec.sweep import Reencode


def numbered(height: int, width: int) -> np.ndarray:
    """Each pixel says where it is: (row, column, 7)."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def test_a_window_in_the_middle_changes_no_pixel() -> None:
    geometry = Geometry("crop", 20, None)
    stored = geometry.stored(numbered(50, 31))
    assert stored.shape == (50, 31, 3)
    window = geometry.window(stored, None)
    assert window[0, 0].tolist() == [15, 5, 7]  # (50 - 20) / 2 and (31 - 20) // 2
    assert np.array_equal(window, numbered(50, 31)[15:35, 5:25])


def test_random_windows_are_inside_and_reach_every_edge() -> None:
    geometry, generator = Geometry("crop", 20, None), np.random.default_rng(0)
    corners = {tuple(geometry.window(numbered(23, 22), generator)[0, 0, :2].tolist()) for _ in range(200)}
    assert corners == {(row, column) for row in range(4) for column in range(3)}


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (3, 3), (1, 1)])
def test_a_picture_smaller_than_the_window_is_mirrored(height: int, width: int) -> None:
    window = Geometry("crop", 16, None).window(numbered(height, width), None)
    assert window.shape == (16, 16, 3)
    if height == 10:  # three rows above: the mirror image of the first three
        assert window[:5, 0, 0].tolist() == [2, 1, 0, 0, 1]


def test_windows_of_any_size_are_cut_from_the_same() -> None:
    assert Geometry("crop", 16, None).key == Geometry("crop", 224, None).key
    assert Geometry("scale", 16, None).key != Geometry("scale", 224, None).key
    assert Geometry("crop", 16, Reencode()).key != Geometry("crop", 16, None).key


@pytest.mark.parametrize("resize", ["scale", "crop"])
def test_encoding_anew_brings_every_picture_to_one_size_and_codec(resize: str) -> None:
    geometry = Geometry(resize, 32, Reencode(quality=60, size=64))
    noise = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    middle = cv2.resize(noise[10:90], (64, 64), interpolation=cv2.INTER_LINEAR)
    encoded = cv2.imencode(".jpg", middle[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    stored = geometry.stored(noise)
    assert (stored.shape[1], stored.shape[0]) == geometry.stored_size(80, 100)
    if resize == "crop":
        assert np.array_equal(stored, expected)
    else:
        assert np.array_equal(stored, cv2.resize(expected, (32, 32), interpolation=cv2.INTER_AREA))  # half the size


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (Geometry("scale", 20, None), 40),  # the shorter edge is all seen
        (Geometry("crop", 20, None), 20),
        (Geometry("crop", 64, None), 64),  # and its mirror image beyond the edge
        (Geometry("scale", 20, Reencode(size=32)), 40),
        (Geometry("crop", 24, Reencode(size=32)), 30),  # three quarters of the middle square
    ],
)
def test_the_square_that_is_seen_in_a_pictures_own_pixels(geometry: Geometry, expected: float) -> None:
    assert geometry.seen(60, 40) == geometry.seen(40, 60) == expected

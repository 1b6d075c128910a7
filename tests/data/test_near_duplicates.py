import hashlib
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from rfray.data.decoding import decode
from rfray.data.fingerprints import Fingerprint, fingerprint
from rfray.data.near_duplicates import PairKind, candidates, find_pairs, linked_groups, picture_features, verify

ORIGINALS = [
    np.ascontiguousarray(photograph[:, left : left + 320])
    for photograph in load_sample_images().images
    for left in (0, 320)
]
"""Four pictures, 427 high and 320 wide, that share no pixel."""


def scale(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    smaller = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def encode(picture: np.ndarray, file_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, file_format, **options)
    return buffer.getvalue()


def table_of(files: list[bytes]) -> pd.DataFrame:
    return pd.DataFrame([fingerprint(data, decode(data)) for data in files], columns=Fingerprint._fields)


def find(files: list[bytes]) -> list[Any]:
    pixels = [decode(data) for data in files]
    table = table_of(files)
    digests = [hashlib.sha256(data).hexdigest() for data in files]
    return list(find_pairs(digests, table, pixels.__getitem__, workers=2).itertuples(index=False))


def crop(picture: np.ndarray, left: float, top: float, width: float, height: float) -> np.ndarray:
    """All four are shares of the picture's width or height."""
    rows, columns = picture.shape[:2]
    part = picture[round(top * rows) : round((top + height) * rows), round(left * columns) :]
    return np.ascontiguousarray(part[:, : round(width * columns)])


PLANTED: dict[str, tuple[PairKind, Callable[[np.ndarray], bytes]]] = {
    "JPEG 50": ("re-encoded", lambda picture: encode(picture, quality=50)),
    "PNG": ("re-encoded", lambda picture: encode(picture, "PNG")),
    "WebP": ("re-encoded", lambda picture: encode(picture, "WEBP", quality=60)),
    "half": ("re-encoded", lambda picture: encode(scale(picture, 160, 214))),
    "double": ("re-encoded", lambda picture: encode(scale(picture, 640, 854))),
    "square": ("re-encoded", lambda picture: encode(scale(picture, 256, 256))),
    "brighter": ("re-encoded", lambda picture: encode((picture * 1.05).clip(0, 255).astype(np.uint8))),
    "mirrored": ("mirrored", lambda picture: encode(picture[:, ::-1])),
    "crop 85": ("crop", lambda picture: encode(crop(picture, 0.1, 0.05, 0.85, 0.85))),
    "crop 70": ("crop", lambda picture: encode(crop(picture, 0.2, 0.2, 0.7, 0.7))),
    "crop 70, JPEG 50": ("crop", lambda picture: encode(crop(picture, 0.2, 0.2, 0.7, 0.7), quality=50)),
    "crop 75, 160 px": ("crop", lambda picture: encode(scale(crop(picture, 0.1, 0.2, 0.75, 0.75), 160, 214))),
    "oblong crop": ("crop", lambda picture: encode(crop(picture, 0.0, 0.1, 1.0, 0.75))),
    "crop, square": ("crop", lambda picture: encode(scale(crop(picture, 0.1, 0.1, 0.9, 0.8), 200, 200))),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_copies_are_found_and_nothing_else(name: str) -> None:
    kind, change = PLANTED[name]
    originals = [encode(picture, quality=92) for picture in ORIGINALS]
    found = find(originals + [change(picture) for picture in ORIGINALS])
    copies = {(number, number + len(ORIGINALS)) for number in range(len(ORIGINALS))}
    pairs = {(pair.first, pair.second) for pair in found}
    assert pairs == copies
    assert {pair.kind for pair in found} == {kind}


def test_same_files_are_paired_with_the_first_of_them_alone() -> None:
    one, other = (encode(picture) for picture in ORIGINALS[:2])
    smaller = encode(scale(ORIGINALS[0], 160, 214))
    found = find([other, one, one, smaller, one])
    assert [(pair.first, pair.second, pair.kind) for pair in found] == [
        (1, 2, "exact"),
        (1, 3, "re-encoded"),
        (1, 4, "exact"),
    ]


def test_a_picture_changed_in_one_place_is_still_found() -> None:
    changed = ORIGINALS[0].copy()
    changed[150:270, 100:220] = ORIGINALS[1][150:270, 100:220]
    (pair,) = find([encode(picture) for picture in (*ORIGINALS, changed)])
    assert (pair.first, pair.second, pair.kind) == (0, len(ORIGINALS), "re-encoded")


def test_flat_and_tiny_pictures_are_no_duplicates_of_each_other() -> None:
    flat = [np.full((64, 64, 3), grey, np.uint8) for grey in (0, 90, 91, 255)]
    tiny = [np.random.default_rng(seed).integers(0, 256, (1 + seed, 1, 3), dtype=np.uint8) for seed in range(3)]
    assert find([encode(picture, "PNG") for picture in flat + tiny]) == []


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int) -> None:
    assert find([encode(picture) for picture in ORIGINALS[:count]]) == []


def test_more_copies_of_a_picture_than_a_crowd_are_one_group() -> None:
    small = [scale(picture, 120, 160) for picture in ORIGINALS]
    files = [encode(picture, quality=quality) for picture in small[:2] for quality in range(30, 85)]
    numbers = linked_groups(len(files), np.array([(pair.first, pair.second) for pair in find(files)]))
    assert numbers.tolist() == [0] * 55 + [1] * 55


def test_the_order_of_images_does_not_matter() -> None:
    files = [encode(picture) for picture in ORIGINALS]
    files += [encode(crop(picture, 0.1, 0.1, 0.8, 0.8)) for picture in ORIGINALS]
    forwards, backwards = find(files), find(files[::-1])
    last = len(files) - 1
    assert {(pair.first, pair.second) for pair in forwards} == {
        (last - pair.second, last - pair.first) for pair in backwards
    }


def test_candidates_are_few_ordered_and_not_doubled() -> None:
    files = [encode(picture, quality=quality) for quality in (90, 60) for picture in ORIGINALS]
    table = table_of(files)
    found = candidates(table)
    assert (found[:, 0] < found[:, 1]).all()
    assert len(np.unique(found, axis=0)) == len(found) <= 2 * len(ORIGINALS)


def test_verification_refuses_what_only_hashes_alike() -> None:
    pictures = ORIGINALS[:2]
    assert verify(*map(picture_features, pictures)) is None
    pictures = [ORIGINALS[0], np.rot90(ORIGINALS[0])]
    assert verify(*map(picture_features, pictures)) is None


def test_a_texture_that_both_have_makes_no_pair() -> None:
    rows, columns = np.indices((32, 32))
    board = 40 * (((rows + columns) % 2)[..., None] * 2 - 1)
    generator = np.random.default_rng(0)
    noise = [generator.integers(60, 190, (8, 8, 3)).repeat(4, 0).repeat(4, 1) for _ in range(2)]
    pictures = [(one + board).clip(0, 255).astype(np.uint8) for one in noise]
    assert verify(*map(picture_features, pictures)) is None


def test_two_crops_of_one_picture_that_share_most_of_it() -> None:
    (pair,) = find([encode(crop(ORIGINALS[0], *at, 0.8, 0.8)) for at in ((0, 0), (0.2, 0.15))])
    assert pair.kind == "crop"


def test_groups_are_what_pairs_connect() -> None:
    numbers = linked_groups(6, np.array([(0, 3), (3, 5), (1, 2)]))
    assert numbers[0] == numbers[3] == numbers[5]
    assert numbers[1] == numbers[2]
    assert len(set(numbers.tolist())) == 3  # 4 is alone
    assert linked_groups(3, np.empty((0, 2), int)).tolist() == [0, 1, 2]

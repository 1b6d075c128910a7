"""Fingerprints of what a detector has learned from: copies are found, other pictures are not."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rfray.data.fingerprints import fingerprint, long_hashes
from rfray.data.geometry import hashed_square
from rfray.data.hash_index import HASH_BYTES
from rfray.data.learned_images import (
    DIGEST_BYTES,
    LearnedImages,
    find_learned,
    read_learned_images,
    write_learned_images,
)
from rfray.errors import RunError


def smooth(seed: int) -> np.ndarray:
    """(96, 96, 3) uint8: detail at all scales, as photographs have it."""
    generator = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(generator.normal(size=(96, 96, 3)), (0, 0), sigma) * sigma for sigma in (1.5, 4, 10)]
    picture = sum(layers)
    return np.asarray(128 + 90 * picture / np.abs(picture).max(), np.uint8)


def jpeg(picture: np.ndarray, quality: int = 60) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def row(data: bytes, picture: np.ndarray) -> dict[str, object]:
    plain, mirrored = long_hashes(hashed_square(picture))
    return {"digest": hashlib.sha256(data).hexdigest(), "hash": plain, "hash_mirrored": mirrored}


def learned(path: Path, count: int = 40) -> Path:
    rows = [jpeg(smooth(seed), 95) for seed in range(count)]
    prints = [{"digest": hashlib.sha256(one).hexdigest(), **fingerprint(one, decoded(one))._asdict()} for one in rows]
    write_learned_images(path, pd.DataFrame(prints))
    return path


def test_copies_are_found_and_other_pictures_are_not(tmp_path: Path) -> None:
    known = read_learned_images(learned(tmp_path / "learned.safetensors"))
    again = jpeg(smooth(3), 95)
    smaller = np.asarray(Image.fromarray(smooth(5)).resize((70, 70)))
    asked = [
        row(again, decoded(again)),
        row(jpeg(smooth(4), 50), decoded(jpeg(smooth(4), 50))),
        row(jpeg(smaller), decoded(jpeg(smaller))),
        row(jpeg(smooth(6)[:, ::-1]), decoded(jpeg(smooth(6)[:, ::-1]))),
        *(row(jpeg(smooth(seed)), decoded(jpeg(smooth(seed)))) for seed in range(100, 140)),
        {"digest": "", "hash": b"", "hash_mirrored": b""},
    ]
    assert find_learned(pd.DataFrame(asked), known).tolist() == ["exact", "alike", "alike", "alike", *[""] * 41]
    assert find_learned(pd.DataFrame(asked[-1:]), known).tolist() == [""]


def test_many_are_found_as_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.data.hash_index.AT_ONCE", 7)
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 256, (500, HASH_BYTES), np.uint8)
    asked = hashes[generator.integers(0, 500, 60)].copy()
    for number, one in enumerate(asked):  # so many bits of the whole, and of the lowest 64, are others
        bits = np.unpackbits(one)
        bits[generator.choice(64, number % 5, replace=False)] ^= 1
        bits[64 + generator.choice(192, number % 23, replace=False)] ^= 1
        asked[number] = np.packbits(bits)
    table = pd.DataFrame({"digest": ["00" * 32] * 60, "hash": [one.tobytes() for one in asked]})
    table["hash_mirrored"] = [b"\xff" * HASH_BYTES] * 60
    known = LearnedImages(np.ones((500, DIGEST_BYTES), np.uint8), hashes)
    expected = [number % 5 <= 3 and number % 5 + number % 23 <= 20 for number in range(60)]
    assert [one == "alike" for one in find_learned(table, known)] == expected


def test_an_image_takes_48_bytes(tmp_path: Path) -> None:
    sizes = [learned(tmp_path / f"{count}.safetensors", count).stat().st_size for count in (10, 30)]
    assert sizes[1] - sizes[0] == pytest.approx(20 * 48, abs=16)  # names of the arrays are padded


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = learned(tmp_path / "learned.safetensors", 10)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        RunError, match=r"learned.safetensors: no fingerprints that can be read: .*copy the bundle anew"
    ):
        read_learned_images(path)

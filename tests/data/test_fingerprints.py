import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from rfray.data.decoding import decode
from rfray.data.fingerprints import Fingerprint, fingerprint, jpeg_quality, power_spectrum

PHOTOGRAPH = Image.fromarray(load_sample_image("china.jpg")[100:356, 150:470])


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def taken(data: bytes) -> Fingerprint:
    return fingerprint(data, decode(data))


def keypoints(one: Fingerprint) -> np.ndarray:
    """(k, 4) uint32."""
    return np.frombuffer(one.keypoints, np.uint32).reshape(-1, 4)


# how it was stored


def test_what_the_header_of_a_jpeg_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encode(PHOTOGRAPH, "JPEG", quality=83, subsampling="4:2:2", progressive=True, exif=exif, icc_profile=b"x")
    found = taken(data)
    assert (found.format, found.mode) == ("JPEG", "RGB")
    assert found.file_bytes == len(data)
    assert found.bytes_per_pixel == len(data) / (320 * 256)
    assert (found.quality, found.subsampling) == (83, "4:2:2")
    assert (found.progressive, found.exif, found.icc) == (True, True, True)


def test_a_plain_png_has_none_of_it() -> None:
    found = taken(encode(PHOTOGRAPH, "PNG"))
    assert (found.format, found.quantisation, found.subsampling) == ("PNG", "", "")
    assert np.isnan(found.quality)
    assert (found.progressive, found.exif, found.icc) == (False, False, False)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_subsampling(subsampling: str) -> None:
    assert taken(encode(PHOTOGRAPH, "JPEG", subsampling=subsampling)).subsampling == subsampling


def test_grey_and_cmyk_jpegs_have_no_subsampling_but_a_quality() -> None:
    for mode in ("L", "CMYK"):
        found = taken(encode(PHOTOGRAPH.convert(mode), "JPEG", quality=70))
        assert (found.mode, found.subsampling, found.quality) == (mode, "", 70)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 99, 100])
def test_quality_is_what_the_encoder_was_told(quality: int) -> None:
    assert taken(encode(PHOTOGRAPH, "JPEG", quality=quality)).quality == quality


def test_quality_of_another_table_is_the_nearest() -> None:
    assert jpeg_quality(np.full(64, 255)) == 1
    assert jpeg_quality(np.full(64, 1)) == 100


def test_quantisation_stands_for_the_tables() -> None:
    one, same, other = (
        taken(encode(image, "JPEG", quality=quality)).quantisation
        for image, quality in ((PHOTOGRAPH, 80), (PHOTOGRAPH.rotate(90), 80), (PHOTOGRAPH, 81))
    )
    assert len(one) == 8
    assert one == same
    assert one != other


# what it shows


def test_perceptual_hashes_last_through_encoding_and_tell_mirrored_pictures() -> None:
    original, encoded = taken(encode(PHOTOGRAPH, "PNG")), taken(encode(PHOTOGRAPH, "JPEG", quality=50))
    mirrored = taken(encode(PHOTOGRAPH.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"))
    assert np.bitwise_count(original.phash ^ encoded.phash) <= 4
    assert mirrored.phash == original.phash_mirrored
    assert mirrored.phash_mirrored == original.phash
    assert np.bitwise_count(original.phash ^ mirrored.phash) > 10


def test_keypoints_are_found_again_after_encoding() -> None:
    original, encoded = (keypoints(taken(encode(PHOTOGRAPH, file_format))) for file_format in ("PNG", "JPEG"))
    assert original.shape == (48, 4)
    distances = np.bitwise_count(original[:, None] ^ encoded).sum(axis=2).min(axis=1)
    assert (distances <= 10).mean() > 0.7


# the spectrum


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    for side in (100, 256, 401):
        noise = np.random.default_rng(0).normal(128, 20, (side, side + 30)).round().astype(np.uint8)
        spectrum = power_spectrum(noise)
        assert spectrum.shape == (32,)
        assert spectrum.dtype == np.float32
        assert spectrum[2:] == pytest.approx(np.full(30, np.log10(400)), abs=0.2)
        assert spectrum.mean() == pytest.approx(np.log10(400), abs=0.1)


@pytest.mark.parametrize(("period", "expected"), [(32, 2), (8, 8), (4, 16)])
def test_a_wave_is_in_the_bin_of_its_frequency(period: int, expected: int) -> None:
    # bins are 1/64 per pixel wide; the window spreads the wave over its neighbours
    wave = 128 + 100 * np.sin(2 * np.pi * (np.arange(256) + 0.3) / (period - 0.01))
    for picture in (np.tile(wave, (256, 1)), np.tile(wave, (256, 1)).T):
        assert power_spectrum(picture.astype(np.uint8)).argmax() == expected


def test_flat_and_tiny_pictures_have_a_spectrum_too() -> None:
    assert power_spectrum(np.full((80, 80), 7, np.uint8)).tolist() == [-6] * 32
    tiny = power_spectrum(np.random.default_rng(0).integers(0, 256, (9, 300), dtype=np.uint8))
    assert 4 <= np.isfinite(tiny).sum() < 32
    assert np.isnan(tiny).any()


# every kind of file


def sixteen_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


KINDS: list[tuple[str, Callable[[Image.Image], Image.Image], str]] = [
    ("JPEG", lambda image: image, "RGB"),
    ("JPEG", lambda image: image.convert("L"), "L"),
    ("JPEG", lambda image: image.convert("CMYK"), "CMYK"),
    ("PNG", lambda image: image.convert("P"), "P"),
    ("PNG", lambda image: image.convert("LA"), "LA"),
    ("PNG", lambda image: image.convert("1"), "1"),
    ("PNG", sixteen_bit, "I;16"),
    ("WEBP", lambda image: image, "RGB"),
    ("BMP", lambda image: image, "RGB"),
    ("TIFF", lambda image: image.convert("CMYK"), "CMYK"),
    ("TIFF", lambda image: image.convert("F").point(lambda value: value / 255), "F"),
]


@pytest.mark.parametrize(("file_format", "convert", "mode"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 300), (300, 7), (33, 40), (320, 256)])
def test_every_format_mode_and_size_has_a_fingerprint(
    file_format: str, convert: Callable[[Image.Image], Image.Image], mode: str, size: tuple[int, int]
) -> None:
    found = taken(encode(convert(PHOTOGRAPH.resize(size)), file_format))
    assert (found.format, found.mode) == (file_format, mode)
    assert len(keypoints(found)) <= 48
    assert found.spectrum.shape == (32,)


# a table of many


def test_a_table_goes_through_parquet(tmp_path: Path) -> None:
    pictures = [encode(PHOTOGRAPH, "JPEG"), encode(PHOTOGRAPH, "PNG"), encode(Image.new("RGB", (5, 5)), "BMP")]
    before = [taken(data) for data in pictures]
    pd.DataFrame(before).to_parquet(tmp_path / "fingerprints.parquet")
    after = pd.read_parquet(tmp_path / "fingerprints.parquet")
    assert list(after.columns) == list(Fingerprint._fields)
    for one, (_, row) in zip(before, after.iterrows(), strict=True):
        assert row["keypoints"] == one.keypoints
        assert np.array_equal(row["spectrum"], one.spectrum, equal_nan=True)
        assert (row["phash"], row["phash_mirrored"]) == (one.phash, one.phash_mirrored)
        assert np.array_equal(row["quality"], one.quality, equal_nan=True)
        assert (row["format"], row["file_bytes"], row["subsampling"]) == (one.format, one.file_bytes, one.subsampling)

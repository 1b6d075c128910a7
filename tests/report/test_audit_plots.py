"""rfray.report.audit_plots: which pictures there are; what they look like was looked at."""

import numpy as np
from PIL import Image

from rfray.report.audit_plots import AUDIT_PLOTS, SHEETS, write_audit_plots
from tests.audits import image_table


def pixels_of(images):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (len(images), 24, 24, 3), dtype=np.uint8)


def test_one_picture_of_each_kind_and_the_same_again(tmp_path):
    images = image_table(30)
    written = write_audit_plots(tmp_path, pixels_of(images), images)
    assert [file.name for file in written] == list(AUDIT_PLOTS)
    before = [file.read_bytes() for file in written]
    for file in written:
        with Image.open(file) as image:
            image.verify()
            assert image.format == ("JPEG" if file.suffix == ".jpg" else "PNG")
            assert min(image.size) > 400
    assert [file.read_bytes() for file in write_audit_plots(tmp_path, pixels_of(images), images)] == before


def test_a_contact_sheet_shows_the_pictures_of_its_class_only(tmp_path):
    images = image_table(3)
    pixels = np.zeros((6, 8, 8, 3), dtype=np.uint8)
    pixels[labels := images["label"].to_numpy() == 1] = (255, 0, 0)
    assert labels.sum() == 3
    write_audit_plots(tmp_path, pixels, images)
    with Image.open(tmp_path / SHEETS[1]) as sheet:
        tile = np.asarray(sheet.convert("RGB").crop((20, 68, 130, 172)))
    assert np.abs(tile - np.array([255.0, 0, 0])).max() <= 3  # red, but for the rounding of JPEG


def test_one_class_one_size_and_a_sheet_that_is_no_longer_true(tmp_path):
    images = image_table(5, width=64, height=64, file_bytes=1000, bytes_per_pixel=0.25)
    write_audit_plots(tmp_path, pixels_of(images), images)
    real = images[images["label"] == 0]
    written = write_audit_plots(tmp_path, pixels_of(real), real)
    assert (
        {file.name for file in tmp_path.iterdir()} == {file.name for file in written} == set(AUDIT_PLOTS) - {SHEETS[1]}
    )

"""rfray.report.gallery: what the page shows of each mistake, and how large it may become."""

import numpy as np
import pytest
from PIL import Image

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.mistakes import AT_MOST, find_mistakes, write_mistakes
from rfray.inference.mistake_pictures import LONGEST
from rfray.models.grad_cam import encode_jpeg
from rfray.report.gallery import gallery_of
from rfray.store.records import write_record
from tests.synthetic import FIRST, finish_trial, new_run, predictions


@pytest.fixture
def run(tmp_path):
    """One member; of three real and three fake images one of each is wrong: real/2.jpg 0.6, fake/3.jpg 0.3."""
    run = new_run(tmp_path / "run")
    finish_trial(run, "one", 0.9, predictions(FIRST), predictions(FIRST))
    return run


def shown(run, **changes):
    ensemble = write_ensemble(run, choose_members(run, 1)).model_copy(update=changes)
    write_record(run.ensemble_file, ensemble)
    write_mistakes(run, find_mistakes(run).model_copy(update={"problems": ["two could not be explained: <b>"]}))
    run.mistakes_folder.mkdir(exist_ok=True, parents=True)
    return gallery_of(run, ensemble)


def draw(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def test_captions_alt_texts_and_pictures(run):
    draw(run.mistake_picture(1), "red")
    draw(run.mistake_picture(1, evidence=True), "blue")
    draw(run.mistake_picture(2), "green")
    gallery = shown(run)
    expected = "Of ensemble, which calls an image fake where p_fake >= 0.5: the most confident mistakes first."
    assert gallery.summary == expected
    assert [heading for heading, _ in gallery.lists] == ["Fakes called real: 1", "Real images called fake: 1"]
    (missed,), (alarm,) = (figures for _, figures in gallery.lists)
    assert (missed.id, missed.verdict, missed.members) == ("fake/3.jpg", "fake, called real, p_fake 0.30", "one 0.30")
    assert [picture.alt for picture in missed.pictures] == [
        "fake/3.jpg: fake, called real",
        "fake/3.jpg with colour where the members saw evidence for real",
    ]
    assert all(picture.data.startswith("data:image/jpeg;base64,") for picture in missed.pictures)
    assert alarm.verdict == "real, called fake, p_fake 0.60"
    assert len(alarm.pictures) == 1  # its evidence could not be drawn
    assert gallery.problems == ["two could not be explained: <b>"]


def test_the_unsure_band_is_named(run):
    (missed,), (alarm,) = (figures for _, figures in shown(run, unsure=(0.4, 0.65)).lists)
    assert missed.verdict == "fake, called real, p_fake 0.30"
    assert alarm.verdict == "real, called fake, p_fake 0.60 (in the unsure band)"


def test_nothing_wrong_and_nothing_known(run):
    assert gallery_of(run, None) is None
    assert gallery_of(run, write_ensemble(run, choose_members(run, 1))) is None
    other = write_ensemble(run, choose_members(run, 1)).model_copy(update={"name": "ensemble-calibrated"})
    assert shown(run) is not None
    assert gallery_of(run, other) is None  # these are the mistakes of another vote


def test_a_vote_without_a_mistake_says_so(tmp_path):
    run = new_run(tmp_path / "run")
    finish_trial(run, "one", 1.0, predictions([0, 1], [0, 1]), predictions([0, 1], [0, 1]))
    gallery = shown(run)
    assert gallery.summary.endswith("no test image is called wrongly.")
    assert gallery.lists == []


def test_a_full_gallery_of_noise_leaves_room_on_the_page(tmp_path):
    """Noise is the largest JPEG; the page is to stay below 5 MB."""
    run = new_run(tmp_path / "run")
    labels = [0, 1] * 200
    given = predictions([0.9, 0.1] * 200, labels)
    for number in range(5):
        finish_trial(run, f"{number:05d}-abcdef", 0.9, given, given)
    noise = np.random.default_rng(0).integers(0, 256, (LONGEST, LONGEST, 3), dtype=np.uint8)
    run.mistakes_folder.mkdir(parents=True)
    for number in range(1, AT_MOST + 1):
        for evidence in (False, True):
            run.mistake_picture(number, evidence=evidence).write_bytes(encode_jpeg(noise))
    ensemble = write_ensemble(run, choose_members(run, 5))
    write_mistakes(run, find_mistakes(run))
    gallery = gallery_of(run, ensemble)
    assert [heading for heading, _ in gallery.lists] == [
        "Fakes called real: the 12 most confident of 200",
        "Real images called fake: the 12 most confident of 200",
    ]
    pictures = [picture for _, figures in gallery.lists for figure in figures for picture in figure.pictures]
    assert len(pictures) == 2 * AT_MOST
    assert sum(len(picture.data) for picture in pictures) < 1.5e6

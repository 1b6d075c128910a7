"""rfray.inference.mistake_pictures: real images and models; what can't be drawn is told."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rfray.data.catalog import decode_images
from rfray.data.geometry import geometry_of
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.mistakes import read_mistakes, undrawn_mistakes
from rfray.inference.mistake_pictures import draw_mistakes, draw_pictures
from rfray.models.grad_cam import encode_jpeg, heatmaps_from_file, overlay_heatmap
from rfray.spec.trial import Trial
from rfray.stats.predictions import read_predictions
from rfray.store.records import write_record
from rfray.store.run_dir import RunDir
from tests.two_models import SETTINGS, two_models


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Two models that know nothing, and what they say of 32 test images."""
    return two_models(tmp_path_factory.mktemp("explaining"), pictures)


@pytest.fixture
def run(prepared: RunDir, tmp_path: Path) -> RunDir:
    """A copy of it, called fake from the middle of its scores on: some of both kinds are wrong."""
    run = RunDir(tmp_path / "run")
    shutil.copytree(prepared.path, run.path)
    ensemble = write_ensemble(run, choose_members(run, 2))
    middle = float(np.median(read_predictions(run.ensemble_predictions_file(ensemble.name, "test")).p_fake))
    write_record(run.ensemble_file, ensemble.model_copy(update={"threshold": middle}))
    return run


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB"), dtype=int)


def test_each_image_and_its_evidence(run: RunDir) -> None:
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    assert {mistake.label for mistake in mistakes.shown} == {0, 1}
    assert draw_pictures(run, mistakes) == []
    assert len(list(run.mistakes_folder.iterdir())) == 2 * len(mistakes.shown)
    settings, catalog = run.sweep().data, run.catalog()
    ids, calls = [mistake.id for mistake in mistakes.shown], np.array([mistake.call for mistake in mistakes.shown])
    maps = []
    for trial_id, setting in SETTINGS.items():
        trial = Trial(pretrained=False, **setting)
        images = decode_images(catalog, settings, "test", geometry_of(trial, settings.reencode), ids)
        maps.append(heatmaps_from_file(run.trial(trial_id).weights_file, trial, images, calls))
    for mistake, first, second in zip(mistakes.shown, *maps, strict=True):
        with Image.open(Path(str(settings.folder("test"))) / mistake.id) as file:
            original = np.asarray(file)
        assert run.mistake_picture(mistake.number).read_bytes() == encode_jpeg(original)
        mean = (first + np.pad(second, 4)) / 2  # of a window of 24 in the middle of 32 pixels
        expected = encode_jpeg(overlay_heatmap(original, mean))
        assert run.mistake_picture(mistake.number, evidence=True).read_bytes() == expected


def test_a_member_without_a_share_has_no_say(run: RunDir) -> None:
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    draw_pictures(run, mistakes.model_copy(update={"members": {"a": 0.0, "b": 1.0}}))
    for mistake in mistakes.shown:  # the second model sees nothing of the edge: there is no colour
        assert np.ptp(opened(run.mistake_picture(mistake.number, evidence=True))[:3], axis=2).max() < 30


def test_a_member_that_can_not_be_explained_is_told_and_left_out(run: RunDir) -> None:
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    run.trial("b").weights_file.write_bytes(b"damaged")
    (problem,) = draw_pictures(run, mistakes)
    assert problem.startswith("b could not be explained: RunError: ")
    alone = [opened(run.mistake_picture(mistake.number, evidence=True)) for mistake in mistakes.shown]
    draw_pictures(run, mistakes.model_copy(update={"members": {"a": 1.0, "b": 0.0}}))
    for mistake, picture in zip(mistakes.shown, alone, strict=True):
        assert np.array_equal(opened(run.mistake_picture(mistake.number, evidence=True)), picture)
    shutil.rmtree(run.mistakes_folder)
    run.trial("a").weights_file.unlink()
    assert len(draw_pictures(run, mistakes)) == 2
    assert len(list(run.mistakes_folder.iterdir())) == len(mistakes.shown)  # the images alone


def test_an_image_that_has_changed_is_told_and_left_out(run: RunDir) -> None:
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    file = Path(str(run.sweep().data.folder("test"))) / mistakes.shown[0].id
    content = file.read_bytes()
    try:
        file.write_bytes(b"other")
        (problem,) = draw_pictures(run, mistakes)
    finally:
        file.write_bytes(content)
    assert problem.startswith(f"{file} has changed")
    assert not run.mistake_picture(1).exists()
    assert run.mistake_picture(2, evidence=True).exists()


def test_without_the_images_the_report_goes_on_and_says_so(run: RunDir) -> None:
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    said = io.StringIO()
    valid = Path(str(run.sweep().data.folder("test")))
    aside = valid.rename(valid.with_name("aside"))
    try:
        draw_mistakes(run, mistakes, Console(file=said, width=200))
    finally:
        aside.rename(valid)
    *_, last = said.getvalue().splitlines()
    assert last == f"Mistakes: … and {len(mistakes.shown) - 3} more like these"
    known = read_mistakes(run)
    assert known is not None
    assert known.shown == mistakes.shown
    assert len(known.problems) == len(mistakes.shown)
    assert undrawn_mistakes(run) is not None  # the next time it is tried again


@pytest.mark.slow
def test_the_command_draws_them_once_and_puts_them_on_the_page(run: RunDir) -> None:
    def ensemble() -> str:
        command = [sys.executable, "-m", "rfray.cli", "ensemble", str(run.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Explaining " in ensemble()
    mistakes = read_mistakes(run)
    assert mistakes is not None
    assert mistakes.problems == []
    assert 0 < len(mistakes.shown) <= len(list(run.mistakes_folder.glob("*-evidence.jpg")))
    page = run.report_html.read_text()
    assert page.count("<figure>") == len(mistakes.shown)
    assert page.count("with colour where the members saw evidence") == len(mistakes.shown)
    assert "Explaining " not in ensemble()  # nor is Ray started
    assert run.report_html.read_text().count("<figure>") == len(mistakes.shown)

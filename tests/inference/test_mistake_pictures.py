"""rfray.inference.mistake_pictures: real images and models; what can't be drawn is told."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from rfray.evaluation.mistakes import Mistakes, find_mistakes, read_mistakes, undrawn_mistakes
from rfray.inference import mistake_pictures
from rfray.inference.mistake_pictures import draw_mistakes
from rfray.models.bundle import load_bundle
from rfray.models.grad_cam import encode_jpeg, heatmaps, overlay_heatmap
from rfray.stats.predictions import read_predictions
from rfray.store.run_dir import RunDir
from tests.two_models import concluded, two_models


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Two models that know nothing, and what they say of 32 test images."""
    return concluded(two_models(tmp_path_factory.mktemp("explaining"), pictures))


@pytest.fixture
def run(prepared: RunDir, tmp_path: Path) -> RunDir:
    """A copy of it, called fake from the middle of its scores on: some of both kinds are wrong."""
    run = RunDir(tmp_path / "run")
    shutil.copytree(prepared.path, run.path)
    middle = float(np.median(read_predictions(run.ensemble_predictions_file("ensemble", "test")).p_fake))
    changed(run, threshold=middle)
    return run


def changed(run: RunDir, **fields: object) -> None:
    ensemble = run.ensemble()
    assert ensemble is not None
    run.write_vouched(run.ensemble_file, ensemble.model_copy(update=fields))


def draw(run: RunDir) -> tuple[Mistakes, str]:
    """What is recorded, and what is said."""
    said = io.StringIO()
    mistakes = undrawn_mistakes(run)
    assert mistakes is not None
    draw_mistakes(run, mistakes, Console(file=said, width=200))
    known = read_mistakes(run)
    assert known is not None
    assert known.shown == mistakes.shown
    return known, said.getvalue()


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB"), dtype=int)


def test_each_image_and_its_evidence(run: RunDir) -> None:
    mistakes, _ = draw(run)
    assert {mistake.label for mistake in mistakes.shown} == {0, 1}
    assert mistakes.problems == []
    assert len(list(run.mistakes_folder.iterdir())) == 2 * len(mistakes.shown)
    bundle, images = load_bundle(run.path), Path(str(run.sweep().data.folder("test")))
    for mistake in mistakes.shown:
        with Image.open(images / mistake.id) as file:
            original = np.asarray(file)
        assert run.mistake_picture(mistake.number).read_bytes() == encode_jpeg(original)
        maps = []
        for detector, geometry in zip(bundle.detectors, bundle.geometries, strict=True):
            pixels = torch.tensor(geometry.square(original)).permute(2, 0, 1)[None].to(detector.device)
            maps.append(heatmaps(detector.model, detector.normalise(pixels), torch.tensor([mistake.call]))[0].cpu())
        mean = (maps[0].numpy() + np.pad(maps[1].numpy(), 4)) / 2  # of a window of 24 in the middle of 32 pixels
        expected = encode_jpeg(overlay_heatmap(original, mean))
        assert run.mistake_picture(mistake.number, evidence=True).read_bytes() == expected
    assert undrawn_mistakes(run) is None


def test_a_member_with_hardly_a_share_has_no_say(run: RunDir) -> None:
    changed(run, weights=[1e-9, 1 - 1e-9])
    mistakes, _ = draw(run)
    for mistake in mistakes.shown:  # the second model sees nothing of the edge: there is no colour
        assert np.ptp(opened(run.mistake_picture(mistake.number, evidence=True))[:3], axis=2).max() < 30


def test_an_image_that_can_not_be_explained_is_told(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("out of memory\nin some kernel")

    monkeypatch.setattr(mistake_pictures, "heatmap_jpeg", fail)
    mistakes, _ = draw(run)
    assert mistakes.problems[0] == f"{mistakes.shown[0].id} could not be explained: RuntimeError: out of memory"
    assert len(list(run.mistakes_folder.iterdir())) == len(mistakes.shown) == len(mistakes.problems)  # the images alone


def test_an_image_that_has_changed_is_told_and_left_out(run: RunDir) -> None:
    found = find_mistakes(run)
    assert found is not None
    file = Path(str(run.sweep().data.folder("test"))) / found.shown[0].id
    content = file.read_bytes()
    try:
        file.write_bytes(b"other")
        mistakes, _ = draw(run)
    finally:
        file.write_bytes(content)
    assert len(mistakes.problems) == 1
    assert mistakes.problems[0].startswith(f"{file} has changed")
    assert not run.mistake_picture(1).exists()
    assert run.mistake_picture(2, evidence=True).exists()


def test_without_the_images_the_report_goes_on_and_says_so(run: RunDir) -> None:
    valid = Path(str(run.sweep().data.folder("test")))
    aside = valid.rename(valid.with_name("aside"))
    try:
        mistakes, said = draw(run)
    finally:
        aside.rename(valid)
    assert said.splitlines()[-1] == f"Mistakes: … and {len(mistakes.shown) - 3} more like these"
    assert len(mistakes.problems) == len(mistakes.shown)
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

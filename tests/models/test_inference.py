"""Weights written and read back; predictions that do not depend on the batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rfray.data.corruptions import CORRUPTIONS
from rfray.data.geometry import Geometry
from rfray.data.images import Images
from rfray.errors import RunError
from rfray.models.build import build_model
from rfray.models.inference import (
    Predictor,
    load_predictor,
    load_weights,
    predict_corrupted,
    predict_from_file,
    save_weights,
    views_of,
    weights_metadata,
)
from rfray.spec.trial import Trial
from tests.pictures import InMemory, images_in_memory

TRIAL = Trial(backbone="test_resnet", pretrained=False, image_size=32, batch_size=3)


@pytest.fixture
def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    rows = np.array([9, 1, 2, 3, 4, 5, 6])
    return images_in_memory(pixels, rows, np.array([0, 1, 0, 1, 0, 1, 0], dtype=np.int8), np.array(list("abcdefg")))


def test_written_weights_predict_the_same_in_any_batch(images: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, normalise = build_model(TRIAL)
    save_weights(tmp_path / "best.safetensors", model, {"epoch": "3"})
    assert weights_metadata(tmp_path / "best.safetensors") == {"epoch": "3"}
    (whole,) = views_of(Predictor(model, normalise, torch.device("cpu"), torch.float32), images, 100)
    again = predict_from_file(tmp_path / "best.safetensors", TRIAL, images)
    np.testing.assert_allclose(whole, again.p_fake, atol=1e-6)
    assert list(again.ids) == list("abcdefg")
    # by hand: softmax of the logits of the last image, which is row 6
    picture = torch.from_numpy(images.source.pixels[6:7].copy()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = model.eval()(normalise(picture))[0].double()
    assert whole[-1] == pytest.approx(float(1 / (1 + torch.exp(logits[0] - logits[1]))), abs=1e-6)


@pytest.mark.slow
def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """In any process: what safetensors keeps its metadata in has an order of chance."""
    code = (
        "import sys, torch; from pathlib import Path; from rfray.models.inference import save_weights\n"
        "model = torch.nn.Linear(2, 2); torch.nn.init.ones_(model.weight); torch.nn.init.zeros_(model.bias)\n"
        "for name in sys.argv[1:]: save_weights(Path(name), model, dict(zip('dbca', 'wxyz')))"
    )
    files = [str(tmp_path / f"{number}.safetensors") for number in range(8)]
    for some in (files[:4], files[4:]):
        subprocess.run([sys.executable, "-c", code, *some], check=True)
    assert len({Path(file).read_bytes() for file in files}) == 1


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    model, _ = build_model(TRIAL)
    path = tmp_path / "best.safetensors"
    save_weights(path, model, {})
    other, _ = build_model(Trial(backbone="test_vit", pretrained=False, image_size=32))
    with pytest.raises(RunError, match=r"best\.safetensors: not the weights of this model"):
        load_weights(path, other)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"best\.safetensors"):
        load_weights(path, model)
    assert weights_metadata(path) == {}


def test_outputs_that_are_not_finite_are_refused(images: Images, tmp_path: Path) -> None:
    model, _ = build_model(TRIAL)
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    save_weights(tmp_path / "best.safetensors", model, {})
    with pytest.raises(ValueError, match="probabilities"):
        predict_from_file(tmp_path / "best.safetensors", TRIAL, images)


def test_scores_under_corruption_are_those_of_corrupted_pictures(tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (6, 48, 48, 3), dtype=np.uint8)
    geometries = [Geometry("scale", 32, None), Geometry("crop", 40, None)]
    detectors = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, _ = build_model(TRIAL)
        torch.nn.init.normal_(model.fc.weight)
        save_weights(tmp_path / f"{seed}.safetensors", model, {})
        detectors.append(load_predictor(tmp_path / f"{seed}.safetensors", TRIAL))
    rows = np.array([5, 0, 3])
    found = predict_corrupted(detectors, geometries, InMemory(pictures), rows, threads=2)
    assert (found.shape, found.dtype) == ((2, len(CORRUPTIONS), 3), np.float64)
    for seed, geometry in enumerate(geometries):
        for way, corruption in enumerate(CORRUPTIONS.values()):
            corrupted = np.stack([geometry.window(geometry.stored(corruption(picture)), None) for picture in pictures])
            plain = images_in_memory(corrupted, rows, np.zeros(3, np.int8), np.array(list("abc")))
            of = detectors[seed]
            np.testing.assert_allclose(found[seed, way], views_of(of, plain, 100)[0], atol=1e-6)
    assert np.ptp(found, axis=1).min() > 1e-3  # no corruption is another


def test_with_its_mirror_image_an_image_has_the_mean_of_two() -> None:
    torch.manual_seed(0)
    model, normalise = build_model(Trial(backbone="test_resnet", pretrained=False, image_size=32))
    cpu = (torch.device("cpu"), torch.float32)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        plain = Predictor(model.eval(), normalise, *cpu)
        both = Predictor(model, normalise, *cpu, flip=True)
        assert both.views(pixels).tolist() == [plain(pixels).tolist(), plain(pixels.flip(3)).tolist()]
        assert both(pixels).tolist() == pytest.approx(((plain(pixels) + plain(pixels.flip(3))) / 2).tolist())
        assert plain.views(pixels).shape == (1, 3)

"""Weights written and read back; predictions that do not depend on the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rfray.config import Trial
from rfray.data.pixels import Images
from rfray.errors import RunError
from rfray.training.inference import load_weights, predict, predict_from_file, save_weights, weights_metadata
from rfray.training.model import build_model
from tests.pictures import images_of

TRIAL = Trial(backbone="test_resnet", pretrained=False, image_size=32, batch_size=3)


@pytest.fixture
def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    rows = np.array([9, 1, 2, 3, 4, 5, 6])
    return images_of(pixels, rows, np.array([0, 1, 0, 1, 0, 1, 0], dtype=np.int8), np.array(list("abcdefg")))


def test_written_weights_predict_the_same_in_any_batch(images: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, normalise = build_model(TRIAL)
    save_weights(tmp_path / "best.safetensors", model, {"epoch": "3"})
    assert weights_metadata(tmp_path / "best.safetensors") == {"epoch": "3"}
    whole = predict(model, normalise, images, 100, torch.device("cpu"), torch.float32)
    again = predict_from_file(tmp_path / "best.safetensors", TRIAL, images)
    np.testing.assert_allclose(whole.p_fake, again.p_fake, atol=1e-6)
    assert list(whole.ids) == list("abcdefg")
    # by hand: softmax of the logits of the last image, which is row 6
    picture = torch.from_numpy(images.source.pixels[6:7].copy()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = model.eval()(normalise(picture))[0].double()
    assert whole.p_fake[-1] == pytest.approx(float(1 / (1 + torch.exp(logits[0] - logits[1]))), abs=1e-6)


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


def test_outputs_that_are_not_finite_are_refused(images: Images) -> None:
    model, normalise = build_model(TRIAL)
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="probabilities"):
        predict(model, normalise, images, 4, torch.device("cpu"), torch.float32)

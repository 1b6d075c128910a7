"""A probe's head: against scikit-learn by hand, on images of other folds, and in the weights that are written."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from rfray.errors import TrialError
from rfray.models.build import build_model
from rfray.models.inference import load_weights
from rfray.spec.trial import Trial
from rfray.training.probe import PENALTIES, frozen_features, learn_head, save_probe
from tests.pictures import images_in_memory

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 30).astype(np.int8)
TELLING = (GENERATOR.normal(size=(60, 4)) + 2 * LABELS[:, None] * [1, 0, 0, 0]).astype(np.float32)
TELLING[:, 3] = 7  # constant
ALONE = np.arange(60)


def test_the_head_is_a_regression_on_standardised_features() -> None:
    head = learn_head(TELLING, LABELS, ALONE, "auc", seed=0)
    assert head.strength in PENALTIES
    assert head.centre == pytest.approx(TELLING.mean(axis=0))
    assert head.scale[3] == 1
    standard = (TELLING - head.centre) / head.scale
    expected = LogisticRegression(C=head.strength / 60, max_iter=500).fit(standard, LABELS)
    (weights,) = head.regression.coef_
    assert weights == pytest.approx(expected.coef_[0])
    assert head.regression.intercept_ == pytest.approx(expected.intercept_)
    assert abs(weights[0]) > 2 * abs(weights[1:]).max()


def test_no_image_is_predicted_by_a_head_that_learned_from_its_group() -> None:
    """Noise that can be learned by heart: pairs of equal features with equal labels, which tell nothing of others."""
    noise = np.repeat(np.random.default_rng(1).normal(size=(40, 200)), 2, axis=0).astype(np.float32)
    labels = np.repeat(np.tile([0, 1], 20), 2).astype(np.int8)
    apart = learn_head(noise, labels, np.arange(80), "auc", seed=0)
    together = learn_head(noise, labels, np.repeat(np.arange(40), 2), "auc", seed=0)
    right = [((head.out_of_fold > 0.5) == (labels == 1)).mean() for head in (apart, together)]
    assert right[0] > 0.75  # the twin gives it away
    assert right[1] < 0.65


def test_the_same_seed_gives_the_same_head() -> None:
    first, second = (learn_head(TELLING, LABELS, ALONE, "auc", seed=3) for _ in range(2))
    assert np.array_equal(first.regression.coef_, second.regression.coef_)
    assert np.array_equal(first.out_of_fold, second.out_of_fold)


def test_too_few_images_are_an_error_of_the_probe() -> None:
    with pytest.raises(TrialError, match="too few images to be probed"):
        learn_head(TELLING[:31], LABELS[:31], ALONE[:31], "auc", seed=0)


def test_the_written_weights_predict_as_the_head(tmp_path) -> None:
    probe = Trial(backbone="test_resnet", pretrained=False, image_size=32, head="probe", seed=5)
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = np.tile([0, 1], 6).astype(np.int8)
    images = images_in_memory(pictures, np.arange(12), labels, np.arange(12).astype(str))
    features = frozen_features(probe, images, threads=1)
    head = learn_head(features, labels, np.arange(12), "auc", seed=0)
    save_probe(tmp_path / "best.safetensors", probe, head)
    model, normalise = build_model(probe)
    load_weights(tmp_path / "best.safetensors", model)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with torch.inference_mode():
        p_fake = torch.softmax(model.eval()(normalise(pixels)), dim=1)[:, 1].numpy()
    expected = head.regression.predict_proba((features - head.centre) / head.scale)[:, 1]
    assert p_fake == pytest.approx(expected, abs=1e-4)

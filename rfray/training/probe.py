"""images -> features of a frozen backbone; features + labels -> a probe: its head, weights and predictions.

Every feature is standardised (mean 0, standard deviation 1). The head is an L2-regularised logistic regression, its
strength chosen by cross-validation in which images of one group stay in one fold.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from rfray.data.batches import plain_batches
from rfray.data.images import Images
from rfray.errors import TrialError
from rfray.models.build import MultiscaleModel, Normalisation, build_model
from rfray.models.inference import device_and_type, give_back, save_weights
from rfray.spec.trial import Trial
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions

FOLDS = 5
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The candidates: scikit-learn's C (the inverse of the penalty) times the number of images."""
ITERATIONS = 500


@dataclass(frozen=True)
class LearnedHead:
    """A probe's logistic regression on standardised features."""

    centre: np.ndarray
    """(F,) float32: mean of each feature."""
    scale: np.ndarray
    """(F,) float32: standard deviation of each feature, 1 where it is constant."""
    regression: LogisticRegression
    strength: float
    """One of PENALTIES."""
    out_of_fold: np.ndarray
    """(n,) float64: p_fake of each image by a head that was learned from the other folds."""


@torch.inference_mode()
def frozen_features(probe: Trial, images: Images, threads: int) -> np.ndarray:
    """(n, F) float32: the features of each image, by the backbone's pretrained (or random) weights.

    Raises TrialError where the model can't be built, or a feature is not finite.
    """
    torch.set_num_threads(threads)
    model, normalise = _backbone(probe)
    device, dtype = device_and_type(probe.precision)
    model.to(device).eval()
    batches = []
    for pixels, _ in plain_batches(images, probe.batch_size, pin=device.type == "cuda"):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            batches.append(model.features(normalise(pixels.to(device, non_blocking=True))).cpu())
    features = torch.cat(batches).numpy()
    del model
    give_back()
    if not np.isfinite(features).all():
        raise TrialError(f"the features of {probe.backbone} are not finite")
    return features


def learn_head(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, val_metric: str, seed: int) -> LearnedHead:
    """The head with the strength that is best by `val_metric` on images of other folds.

    `features` (n, F) float32, `labels` (n,) 0 real and 1 fake, `groups` (n,) int: images with the same number are in
    one fold. Among equal strengths the stronger penalty is taken.
    Raises TrialError where the images are too few for two folds with both classes.
    """
    smallest = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if smallest < 2:
        raise TrialError("too few images to be probed: a class has fewer than two groups of images")
    splitter = StratifiedGroupKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    folds, ids = list(splitter.split(labels, labels, groups)), np.arange(len(labels))
    if any(len(np.unique(labels[learned])) < 2 for learned, _ in folds):
        raise TrialError("too few images to be probed: without one fold, the others have one class only")
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1
    standard = (features - centre) / scale

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength / len(rows), max_iter=ITERATIONS).fit(standard[rows], labels[rows])

    tried = []
    for strength in PENALTIES:
        p_fake = np.empty(len(labels))
        for learned, judged in folds:
            p_fake[judged] = fitted(strength, learned).predict_proba(standard[judged])[:, 1]
        score = metric(val_metric, Predictions(ids, labels, p_fake))
        tried.append((-1.0 if score is None else score, strength, p_fake))
    _, strength, out_of_fold = max(tried, key=lambda one: one[0])  # the first of equals
    return LearnedHead(centre, scale, fitted(strength, ids), strength, out_of_fold)


def save_probe(path: Path, probe: Trial, head: LearnedHead) -> None:
    """Writes the backbone's unchanged weights together with the head. Raises TrialError where it can't be built."""
    model, _ = _backbone(probe)
    linear, weights = model.head.linear, head.regression.coef_[0].astype(np.float32)
    bias = float(head.regression.intercept_[0])
    with torch.no_grad():
        model.head.centre.copy_(torch.from_numpy(head.centre))
        model.head.scale.copy_(torch.from_numpy(head.scale))
        # the logit of fake is split into the two outputs, half of it each with opposite signs
        linear.weight.copy_(torch.from_numpy(np.stack([-weights, weights])) / 2)
        linear.bias.copy_(torch.tensor([-bias, bias]) / 2)
    save_weights(path, model, {"strength": f"{head.strength:g}"})


def _backbone(probe: Trial) -> tuple[MultiscaleModel, Normalisation]:
    torch.manual_seed(probe.seed)  # for random weights
    model, normalise = build_model(probe)
    assert isinstance(model, MultiscaleModel)
    return model, normalise

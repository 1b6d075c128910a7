"""the learner -> `Validated`: what the trial would predict now for the val images, and with which weights."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from rfray.errors import TrialError
from rfray.models.inference import Predictor, views_of
from rfray.stats.paired_tests import improves_auc
from rfray.stats.predictions import Predictions
from rfray.training.learner import Learner


@dataclass(frozen=True)
class Validated:
    """Predictions on val, and what made them."""

    predictions: Predictions
    flip: bool
    """Whether each prediction is the mean over the image and its mirror image."""
    model: nn.Module


def validate(learner: Learner, before_batch: Callable[[], None] = lambda: None) -> Validated:
    """Predicts val with the weights that the trial would keep now; decides `swa: auto` and `tta: auto`.

    `before_batch` is called before each batch, and may raise to end the validation.

    Raises:
        TrialError: the model's outputs are not finite.

    """
    if learner.swa is None:
        return _predict(learner, learner.current, before_batch)
    averaged = _predict(learner, learner.swa.module, before_batch)
    if learner.trial.swa == "epochs":
        return averaged
    plain = _predict(learner, learner.current, before_batch)
    better = improves_auc(learner.data.val.labels, plain.predictions.p_fake, averaged.predictions.p_fake)
    return averaged if better else plain


def _predict(learner: Learner, model: nn.Module, before_batch: Callable[[], None]) -> Validated:
    trial, val, group = learner.trial, learner.data.val, learner.group
    detector = Predictor(model, learner.normalise, learner.device, learner.dtype, flip=trial.tta != "none")
    bounds = np.linspace(0, len(val), group.size + 1).astype(int)  # each process predicts its part of val
    part = val.at(slice(bounds[group.rank], bounds[group.rank + 1]))
    views = group.gather(views_of(detector, part, 2 * trial.batch_size, before_batch))  # (1 or 2, n)
    mean = views.mean(axis=0)
    flip = trial.tta == "flip" or (trial.tta == "auto" and improves_auc(val.labels, views[0], mean))
    try:
        return Validated(Predictions(val.ids, val.labels, mean if flip else views[0]), flip, model)
    except ValueError as error:
        raise TrialError(f"the model's outputs are not finite (lr {trial.lr:g}): {error}") from error

"""A run of two real models that know nothing, whose predictions are all there: nothing has to be trained for it."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rfray.commands.ensemble import ensemble
from rfray.commands.prepare_data import prepare_test, prepare_training
from rfray.data.catalog import load_images
from rfray.data.geometry import geometry_of
from rfray.inference.missing import prediction_origins
from rfray.models.build import MultiscaleModel, build_model
from rfray.models.inference import predict_from_file, save_weights
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import resolved_text
from rfray.spec.trial import Trial
from rfray.stats.predictions import write_predictions
from rfray.store.files import file_digest, write_whole
from rfray.store.run_dir import RunDir
from tests.synthetic import finish_trial

SETTINGS = {
    "a": {"backbone": "test_resnet", "image_size": 32, "tta": "flip"},
    "b": {"backbone": "test_efficientnet", "image_size": 24, "resize": "crop", "head": "probe"},
}
"""The first looks at mirror images, too; the second has the head of a probe."""


def two_models(
    folder: Path, pictures: Path, settings: Mapping[str, Mapping[str, Any]] = SETTINGS, **data: object
) -> RunDir:
    """The run, in a new folder, without an ensemble; `settings` are its trials', `data` further ones of its images."""
    shutil.copytree(pictures, folder / "images")
    run = RunDir(folder / "run")
    data = {"train": f"{folder}/images/train", "test": f"{folder}/images/test", **data}
    trial = {
        "backbone": sorted({one["backbone"] for one in settings.values()}),
        "pretrained": False,
        "image_size": sorted({one["image_size"] for one in settings.values()}),
        "resize": ["scale", "crop"],
        "head": ["random", "probe"],
    }
    sweep = Sweep.model_validate({"name": "run", "data": data, "trial": trial})
    write_whole(run.sweep_file, resolved_text(sweep))
    console = Console(file=io.StringIO())
    prepare_training(run, sweep, console)
    prepare_test(run, sweep, console)
    catalog = run.catalog()
    for trial_id, setting in settings.items():
        torch.manual_seed(0)
        chosen = Trial(pretrained=False, **setting)
        out = finish_trial(run, trial_id, 0.6, pretrained=False, lr=chosen.lr, **setting)
        model, _ = build_model(chosen)
        if isinstance(model, MultiscaleModel):
            # by chance it would tell these pictures apart: the other way round it errs
            model.head.linear.weight.data.normal_(std=0.01).neg_()
        save_weights(out.weights_file, model, {"tta": chosen.tta})
        for part in ("val", "test"):
            images = load_images(catalog, sweep.data, part, geometry_of(chosen, sweep.data.reencode))
            predictions = predict_from_file(out.weights_file, chosen, images)
            origin = {**prediction_origins([out], catalog, part)[out.id], "tta": chosen.tta}
            write_predictions(out.predictions_file(part), predictions, origin)
        run.vouch({out.predictions_file("test"): file_digest(out.predictions_file("test"))})
    return run


def concluded(run: RunDir, *methods: str) -> RunDir:
    """The same with its ensemble, leaderboard and bundle."""
    settings = {"top_k": 2, "methods": list(methods) or ["soft"]}
    ensemble(run, settings, False, ("csv",), None, Console(file=io.StringIO()))
    return run

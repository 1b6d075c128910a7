"""trials' weights -> ensemble/members/, in timm's own format; and a bundle -> the detectors that vote.

What is read from a bundle is data, whoever wrote it: JSON against a schema, tensors by safetensors, models by timm's
own names.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models import save_for_hf

from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import RunError, TrialError
from rfray.models.build import Normalisation, backbone_names, build_model
from rfray.models.inference import Detector, device_and_type, load_weights, save_weights
from rfray.models.multiscale_head import Staged
from rfray.spec.sweep import CLASSES
from rfray.store.bundle_record import Member, member_file
from rfray.store.ensemble_record import Ensemble, read_bundle
from rfray.store.run_dir import ENSEMBLE_FILE, HEAD_FILE, MEMBER_FILES, TrialDir

CONFIG, WEIGHTS = MEMBER_FILES


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle, ready to predict."""

    ensemble: Ensemble
    detectors: list[Detector]
    """Of the members, in the order of `ensemble.members`."""
    geometries: list[Geometry]
    """How each of them wants its pictures."""


def write_members(folder: Path, trials: Sequence[TrialDir], members: Sequence[Member]) -> None:
    """Writes config.json and model.safetensors of each of the trials into `folder`/members/<number>.

    Of one with a probe's head these are the backbone, without a classifier, and head.safetensors is that head.
    """
    shutil.rmtree(folder / "members", ignore_errors=True)
    for number, (out, member) in enumerate(zip(trials, members, strict=True), start=1):
        model, normalise = build_model(member.trial, load_pretrained=False)
        load_weights(out.weights_file, model)
        model.to(memory_format=torch.contiguous_format)  # the only one that safetensors writes
        side, place = member.trial.image_size, folder / "members" / str(number)
        if isinstance(model, Staged):
            place.mkdir(parents=True)
            save_weights(place / HEAD_FILE, model.head, {"stages": json.dumps(model.stages)})
        save_for_hf(
            model.backbone if isinstance(model, Staged) else model,
            str(place),
            model_config={"label_names": list(CLASSES)},
            safe_serialization=True,
            data_config={
                "input_size": (3, side, side),
                "mean": normalise.mean,
                "std": normalise.std,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
            },
        )


def load_bundle(where: Path | str) -> LoadedBundle:
    """The detector in a bundle, or in the run whose ensemble/ is one.

    Raises RunError where it is none, a file is missing, damaged or more than data, or its models can't be built.
    """
    folder, ensemble, bundle = read_bundle(where)
    return LoadedBundle(
        ensemble,
        [_detector(folder, number, member) for number, member in enumerate(bundle.members, start=1)],
        [geometry_of(member.trial, bundle.reencode) for member in bundle.members],
    )


def _detector(folder: Path, number: int, member: Member) -> Detector:
    if member.trial.backbone not in backbone_names():  # timm would take some names for places to load from
        raise RunError(f"{folder / ENSEMBLE_FILE}: member {number}: timm has no {member.trial.backbone}")
    device, dtype = device_and_type(member.trial.precision)
    try:
        model, _ = build_model(member.trial, load_pretrained=False)
    except TrialError as error:
        raise RunError(f"{folder}: member {number}: {error}") from None
    load_weights(folder / member_file(number, WEIGHTS), model.backbone if isinstance(model, Staged) else model)
    if isinstance(model, Staged):
        load_weights(folder / member_file(number, HEAD_FILE), model.head)
    normalise, flip = _normalisation(folder / member_file(number, CONFIG)), member.trial.tta == "flip"
    return Detector(model.to(device).eval(), normalise, device, dtype, flip)


def _normalisation(config: Path) -> Normalisation:
    try:
        known = json.loads(config.read_bytes())["pretrained_cfg"]
        mean, std = ([float(value) for value in known[name]] for name in ("mean", "std"))
        (a, b, c), (d, e, f) = mean, std
        return Normalisation((a, b, c), (d, e, f))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{config} is damaged: no mean and std of three channels ({error})") from None

"""trials' weights -> ensemble/members/, in timm's format; a bundle -> its detectors; image files -> their scores.

A bundle is read as data only, whoever wrote it: JSON against a schema, tensors by safetensors, models by timm's names.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.models import save_for_hf

from rfray.data.batches import decoded_batches
from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import RunError, TrialError
from rfray.models.build import Normalisation, backbone_names, build_model
from rfray.models.inference import Predictor, device_and_type, load_weights, predict_in_halves, save_weights
from rfray.models.multiscale_head import MultiscaleModel
from rfray.models.verdicts import NOT_FINITE
from rfray.spec.sweep import CLASSES
from rfray.store.bundle_record import ENSEMBLE_FILE, HEAD_FILE, MEMBER_FILES, Ensemble, Member
from rfray.store.run_dir import TrialDir, read_bundle

CONFIG, WEIGHTS = MEMBER_FILES


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle, ready to predict."""

    ensemble: Ensemble
    detectors: list[Predictor]
    """Of the members, in the order of `ensemble.members`."""
    geometries: list[Geometry]
    """The members' input geometries."""


@dataclass(frozen=True)
class Detected:
    """The members' scores of B files."""

    paths: Sequence[str]
    scores: np.ndarray
    """(k, B) float64: p_fake by each of k members; nan where there is a reason."""
    reasons: list[str]
    """Why a file has no scores; "" where it has."""
    pictures: list[np.ndarray | None]
    """(height, width, 3) uint8 of each file that could be read, if they are kept."""


def write_members(folder: Path, trials: Sequence[TrialDir], members: Sequence[Member]) -> None:
    """Writes config.json and model.safetensors of each of the trials into `folder`/members/<number>.

    With a probe's head, they are the backbone without a classifier, and head.safetensors is the head.
    """
    shutil.rmtree(folder / "members", ignore_errors=True)
    for number, (out, member) in enumerate(zip(trials, members, strict=True), start=1):
        model, normalise = build_model(member.trial, load_pretrained=False)
        load_weights(out.weights_file, model)
        model.to(memory_format=torch.contiguous_format)  # the only one that safetensors writes
        side, target = member.trial.image_size, folder / "members" / str(number)
        if isinstance(model, MultiscaleModel):
            target.mkdir(parents=True)
            save_weights(target / HEAD_FILE, model.head, {"stages": json.dumps(model.stages)})
        save_for_hf(
            model.backbone if isinstance(model, MultiscaleModel) else model,
            str(target),
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
    """Loads the bundle at `where`, or the one in the run at `where`.

    Raises RunError where there is none, a file is missing or damaged, or a model can't be built.
    """
    folder, ensemble, bundle = read_bundle(where)
    return LoadedBundle(
        ensemble,
        [_detector(folder, number, member) for number, member in enumerate(bundle.members, start=1)],
        [geometry_of(member.trial, bundle.reencode) for member in bundle.members],
    )


def _detector(folder: Path, number: int, member: Member) -> Predictor:
    if member.trial.backbone not in backbone_names():  # timm would take some names for addresses to load from
        raise RunError(f"{folder / ENSEMBLE_FILE}: member {number}: timm has no {member.trial.backbone}")
    device, dtype = device_and_type(member.trial.precision)
    try:
        model, _ = build_model(member.trial, load_pretrained=False)
    except TrialError as error:
        raise RunError(f"{folder}: member {number}: {error}") from None
    files = folder / "members" / str(number)
    load_weights(files / WEIGHTS, model.backbone if isinstance(model, MultiscaleModel) else model)
    if isinstance(model, MultiscaleModel):
        load_weights(files / HEAD_FILE, model.head)
    normalise, flip = _normalisation(files / CONFIG), member.trial.tta == "flip"
    return Predictor(model.to(device).eval(), normalise, device, dtype, flip)


def _normalisation(config: Path) -> Normalisation:
    try:
        known = json.loads(config.read_bytes())["pretrained_cfg"]
        (a, b, c), (d, e, f) = ([float(value) for value in known[name]] for name in ("mean", "std"))
        return Normalisation((a, b, c), (d, e, f))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{config} is damaged: no mean and std of three channels ({error})") from None


def detect(
    bundle: LoadedBundle, paths: Sequence[str], batch_size: int, threads: int, keep_pictures: bool = False
) -> Iterator[Detected]:
    """The members' scores of image files, in batches of `batch_size`; so many threads read and decode ahead.

    Every file is read and decoded once for all members. A file that can't be read gets a reason instead of scores.
    """
    pin = any(detector.device.type == "cuda" for detector in bundle.detectors)
    for batch in decoded_batches(paths, bundle.geometries, batch_size, threads, pin, keep_pictures):
        scores = np.full((len(bundle.detectors), len(batch.names)), np.nan)
        if len(batch.read):
            scores[:, batch.read] = scores_of(bundle, batch.squares)
        reasons = list(batch.reasons)
        for row in batch.read[~np.isfinite(scores[:, batch.read]).all(axis=0)]:
            reasons[row] = NOT_FINITE
        yield Detected(batch.names, scores, reasons, batch.pictures)


@torch.inference_mode()
def scores_of(bundle: LoadedBundle, squares: Mapping[Geometry, torch.Tensor]) -> np.ndarray:
    """(k, b) float64: the members' p_fake of b images, given as (b, 3, S, S) uint8 squares for each geometry.

    If memory runs out, they are predicted in halves. A model's output that is not a number is nan.
    """
    pairs = zip(bundle.detectors, bundle.geometries, strict=True)
    return torch.stack([predict_in_halves(detector, squares[geometry]) for detector, geometry in pairs]).cpu().numpy()

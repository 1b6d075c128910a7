"""trials' weights -> ensemble/members/, in timm's format; a bundle -> its detectors; image files -> their verdicts.

A bundle is read as data only, whoever wrote it: JSON against a schema, tensors by safetensors, models by timm's names.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.models import save_for_hf

from rfray.data.batches import DecodedFiles, decoded_batches
from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import RunError, TrialError
from rfray.models.build import MultiscaleModel, Normalisation, backbone_names, build_model
from rfray.models.inference import Predictor, build_for, device_and_type, load_weights, save_weights, scores_of
from rfray.spec.sweep import CLASSES
from rfray.stats.voting import NOT_FINITE, verdict_table
from rfray.store.bundle_record import ENSEMBLE_FILE, HEAD_FILE, MEMBER_FILES, Ensemble, Member
from rfray.store.files import read_json
from rfray.store.run_dir import TrialDir, read_bundle

CONFIG, WEIGHTS = MEMBER_FILES


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle, ready to predict."""

    ensemble: Ensemble
    detectors: list[Predictor]
    geometries: list[Geometry]
    """Both of the members, in the order of `ensemble.members`."""


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
            save_weights(target / HEAD_FILE, model.head, {"stages": json.dumps(model.stages)})
            model = model.backbone
        save_for_hf(
            model,
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
    detectors = []
    for number, member in enumerate(bundle.members, start=1):
        trial, files = member.trial, folder / "members" / str(number)
        if trial.backbone not in backbone_names():  # timm would take some names for addresses to load from
            raise RunError(f"{folder / ENSEMBLE_FILE}: member {number}: timm has no {trial.backbone}")
        try:
            model, _ = build_for(trial, files / WEIGHTS, files / HEAD_FILE)
            known = read_json(files / CONFIG)["pretrained_cfg"]
            (a, b, c), (d, e, f) = ([float(value) for value in known[name]] for name in ("mean", "std"))
            if not (np.isfinite([a, b, c, d, e, f]).all() and min(d, e, f) > 0):
                raise ValueError("not finite, or a std that is not above 0")
        except TrialError as error:
            raise RunError(f"{folder}: member {number}: {error}") from None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise RunError(f"{files / CONFIG} is damaged: no mean and std of three channels ({error})") from None
        if isinstance(model, MultiscaleModel):
            load_weights(files / HEAD_FILE, model.head)
        load_weights(files / WEIGHTS, model.backbone if isinstance(model, MultiscaleModel) else model)
        device, dtype = device_and_type(trial.precision)
        normalise, model = Normalisation((a, b, c), (d, e, f)), model.to(device).eval()
        detectors.append(Predictor(model, normalise, device, dtype, flip=trial.tta == "flip"))
    return LoadedBundle(ensemble, detectors, [geometry_of(member.trial, bundle.reencode) for member in bundle.members])


def detect(
    bundle: LoadedBundle,
    paths: Sequence[str],
    batch_size: int,
    threads: int,
    keep_pictures: bool = False,
    identify: bool = False,
) -> Iterator[tuple[pd.DataFrame, list[np.ndarray | None]]]:
    """The `verdict_table` of image files, in batches of `batch_size`; so many threads read and decode ahead.

    Every file is read and decoded once for all members. With each table come the pictures, (height, width, 3) uint8, or
    None where a file could not be read, or they are not kept. With `identify` the table has three more columns: digest
    (SHA-256 of the file, "" where it could not be read), hash and hash_mirrored (see `long_hashes`; then empty).
    """
    pin = any(detector.device.type == "cuda" for detector in bundle.detectors)
    for batch in decoded_batches(paths, bundle.geometries, batch_size, threads, pin, keep_pictures, identify):
        scores, reasons = np.full((len(bundle.detectors), len(batch.names)), np.nan), list(batch.reasons)
        if len(batch.read):
            scores[:, batch.read] = scores_of(bundle.detectors, bundle.geometries, batch.squares)
        for row in batch.read[~np.isfinite(scores[:, batch.read]).all(axis=0)]:
            reasons[row] = NOT_FINITE
        table = verdict_table(bundle.ensemble, batch.names, scores, reasons)
        yield (table.assign(**_identities(batch)) if identify else table), batch.pictures


def _identities(batch: DecodedFiles) -> dict[str, list[Any]]:
    """Column -> what `detect` says that it holds."""
    from rfray.data.fingerprints import long_hashes  # takes a second to import

    found = [(one.digest, *long_hashes(one.small)) if one else ("", b"", b"") for one in batch.identities]
    return dict(zip(("digest", "hash", "hash_mirrored"), map(list, zip(*found, strict=True)), strict=True))

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

from rfray.data.batches import DecodedFiles, FoundPictures, decoded_batches
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import RunError, TrialError
from rfray.models.build import MultiscaleModel, Normalisation, backbone_names, build_model
from rfray.models.inference import (
    Predictor,
    build_for,
    device_and_type,
    load_predictor,
    load_weights,
    predict_corrupted,
    save_weights,
    scores_of,
)
from rfray.spec.sweep import CLASSES
from rfray.stats.voting import NOT_FINITE, verdict_table
from rfray.store.bundle_record import ENSEMBLE_FILE, HEAD_FILE, MEMBER_FILES, Ensemble, Member
from rfray.store.files import read_json
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir, read_bundle

CONFIG, WEIGHTS = MEMBER_FILES


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle, ready to predict."""

    ensemble: Ensemble
    detectors: list[Predictor]
    geometries: list[Geometry]
    """Both of the members, in the order of `ensemble.members`; then of those in `further`."""
    further: tuple[str, ...] = ()
    """Ids of other models of the run, which other votes have for members."""


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


def with_further(bundle: LoadedBundle, where: Path | str, further: Sequence[str]) -> LoadedBundle:
    """The bundle, and models of the run at `where` with these ids. Raises RunError where one is damaged."""
    run, detectors, geometries = RunDir(where), list(bundle.detectors), list(bundle.geometries)
    for one in further:
        out = run.trial(one)
        out.mirror.pull("result.json", WEIGHTS_FILE)
        result = out.result()
        if result is None or out.weights_file in out.damaged_files(result):
            raise RunError(f"{out.weights_file} is not what was trained; the `rfray tune` that made the run mends it")
        detectors.append(load_predictor(out.weights_file, result.trial))
        geometries.append(geometry_of(result.trial, bundle.geometries[0].reencode))
    return LoadedBundle(bundle.ensemble, detectors, geometries, tuple(further))


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
        members = scores[: len(bundle.ensemble.members)]
        table = verdict_table(bundle.ensemble, batch.names, members, reasons)
        failed = (table["reason"] != "").to_numpy()
        others = np.where(failed, np.nan, scores[len(bundle.ensemble.members) :])
        table = table.assign(**dict(zip(bundle.further, others, strict=True)))
        yield (table.assign(**_identities(batch)) if identify else table), batch.pictures


def detect_corrupted(bundle: LoadedBundle, paths: Sequence[str], threads: int) -> pd.DataFrame:
    """p_fake of image files under every corruption, a row a file: path, `<member> <corruption>` …, verdict ("").

    Raises DataError where a file can't be read any more, TrialError where an output is not finite.
    """
    rows = np.arange(len(paths))
    found = predict_corrupted(bundle.detectors, bundle.geometries, FoundPictures(paths), rows, threads)  # (T, K, n)
    names = [*bundle.ensemble.members, *bundle.further]
    if not np.isfinite(found).all():
        raise TrialError(f"the outputs of {', '.join(names)} are not all finite under corruption")
    columns = {
        f"{name} {corruption}": found[number, way]
        for number, name in enumerate(names)
        for way, corruption in enumerate(CORRUPTION_NAMES)
    }
    return pd.DataFrame({"path": list(paths), **columns, "verdict": ""})


def _identities(batch: DecodedFiles) -> dict[str, list[Any]]:
    """Column -> what `detect` says that it holds."""
    from rfray.data.fingerprints import long_hashes  # takes a second to import

    found = [(one.digest, *long_hashes(one.small)) if one else ("", b"", b"") for one in batch.identities]
    return dict(zip(("digest", "hash", "hash_mirrored"), map(list, zip(*found, strict=True)), strict=True))

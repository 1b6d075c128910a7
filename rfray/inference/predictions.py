"""trials' weights + a part's images -> the predictions of each trial, plain or under corruption: in parallel on Ray.

A plain task predicts the test images with one trial. Under corruption, a task predicts some images with several trials,
so that a picture is decoded and corrupted once for all of them. What it has found is kept at once: a command that was
stopped goes on with the pieces that are missing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from rich.console import Console

from rfray.cluster.slots import autoscaler_notice, worker_slot
from rfray.cluster.tasks import finished, reason_of
from rfray.data.catalog import load_images, picture_files
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.geometry import Geometry, geometry_of
from rfray.data.images import PictureSource
from rfray.errors import RfrayError, RunError, TrialError
from rfray.inference.missing import prediction_origins
from rfray.models.inference import Predictor, load_predictor, predict_corrupted, predict_from_file
from rfray.progress.phases import counting, say
from rfray.spec.trial import Trial
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.files import file_digest
from rfray.store.ownership import holder_of, work_for
from rfray.store.run_dir import WEIGHTS_FILE, Part, RunDir, TrialDir
from rfray.store.sealed import find_array, write_array

PIECE, PIECES = 64, 32
"""A piece has at most so many images; a small part is cut into so many pieces, to keep all slots busy to the end."""
WEIGHTS_BYTES = 2e9
"""Bytes of weights that a task may have in memory: those of the trials that share its pictures."""


@dataclass(frozen=True)
class Piece:
    """What one task predicts: some images of a part with some trials, under every corruption."""

    trials: tuple[str, ...]
    part: Part
    first: int
    last: int
    """Positions in the part, the last one not included."""
    made_of: str
    """What these come from: a process keeps what it has loaded as long as that is the same."""
    file: Path
    """Its p_fake, (trials, corruptions, images) float64; the name is the digest of what they were made of."""


def predict_test(
    run: RunDir, missing: Mapping[Part, Sequence[TrialDir]], connect: Callable[[], object], console: Console
) -> None:
    """Predicts the images of each test set with the trials named for it, on the Ray that `connect` makes sure of.

    Raises RfrayError, naming the trials that could not.
    """
    title = run.sweep().data.title
    for part, trials in missing.items():
        say(console, f"Predicting the {title(part)} images with {len(trials)} trials")
    connect()
    failed: dict[Part, list[str]] = {part: [] for part in missing}
    keys = [(part, trial.id) for part, trials in missing.items() for trial in trials]
    for (part, trial_id), error in _outcomes(run, _predict_test, keys, console):
        if isinstance(error, RayError):
            failed[part].append(f"{trial_id}: {reason_of(error)}")
        else:
            trial = run.trial(trial_id)
            trial.mirror.fetch(file := trial.predictions_file(part))
            run.vouch({file: file_digest(file)})
    heads = ((f"the {title(part)} images could not be predicted:", lines) for part, lines in failed.items() if lines)
    if told := [line for head, lines in heads for line in (head, *(f"  {line}" for line in lines))]:
        raise RfrayError(*told)


def predict_under_corruption(
    run: RunDir,
    trials: Sequence[TrialDir],
    missing: Sequence[TrialDir],
    part: Part,
    connect: Callable[[], object],
    console: Console,
) -> None:
    """Predicts a part under every corruption with the `missing` trials, and those that share pictures with them.

    `connect` makes sure that Ray is there.
    Raises RfrayError where a task fails (images that are gone or changed, damaged weights).
    """
    say(console, f"Predicting the {part} images with {len(missing)} trials under {len(CORRUPTIONS)} corruptions")
    catalog, folder = run.catalog(), run.corruption_folder(part)
    images, origins = catalog[catalog["part"] == part], prediction_origins(trials, catalog, part)
    sweep_digest = file_digest(run.sweep_file)
    groups = [group for group in _groups(trials) if not {trial.id for trial in missing}.isdisjoint(group)]
    size = min(PIECE, -(-len(images) // PIECES))
    pieces = []
    for group, first in product(groups, range(0, len(images), size)):
        made_of = [[origins[trial_id] for trial_id in group], list(CORRUPTIONS), first, size]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]
        last, file = min(first + size, len(images)), folder / f"{name}.safetensors"
        pieces.append(Piece(group, part, first, last, f"{made_of[0]} {sweep_digest}", file))
    connect()
    changed = {*run.not_vouched(*(piece.file for piece in pieces))}
    to_do = [piece for piece in pieces if piece.file in changed or not piece.file.exists()]
    outcomes = _outcomes(run, _predict_piece, to_do, console)
    for piece, found in counting(outcomes, f"Corrupting the {part} images", len(to_do)):
        if isinstance(found, RayError):
            failed = f"the {part} images could not be predicted under corruption by {', '.join(piece.trials)}"
            raise RfrayError(f"{failed}: {reason_of(found)}")
        write_array(piece.file, found)
        run.vouch({piece.file: file_digest(piece.file)})
    ids, labels = images["path"].to_numpy(dtype=np.str_), images["label"].to_numpy()
    made: dict[Path, str | None] = {piece.file: None for piece in pieces}
    for group in groups:
        files = [piece.file for piece in pieces if piece.trials == group]
        scores = [array for file in files if (array := find_array(file)) is not None]
        if len(scores) < len(files):
            raise RunError(f"{folder} is damaged; delete it, and the same command makes it anew")
        for trial_id, of_trial in zip(group, np.concatenate(scores, axis=2), strict=True):
            for corruption, p_fake in zip(CORRUPTIONS, of_trial, strict=True):
                file = run.trial(trial_id).predictions_file(part, corruption)
                write_predictions(file, Predictions(ids, labels, p_fake), origins[trial_id])
                made[file] = file_digest(file)
    run.vouch(made)
    shutil.rmtree(folder)


def _groups(trials: Sequence[TrialDir]) -> list[tuple[str, ...]]:
    """The ids of the trials, in order, in groups of at most WEIGHTS_BYTES bytes (or one trial)."""
    groups: list[tuple[str, ...]] = []
    taken = WEIGHTS_BYTES
    for trial in trials:
        size = trial.weights_file.stat().st_size
        if taken + size > WEIGHTS_BYTES:
            groups, taken = [*groups, ()], 0
        groups[-1] += (trial.id,)
        taken += size
    return groups


def _outcomes(run: RunDir, predict: Callable[..., Any], keys: Sequence[Any], console: Console) -> Iterator[Any]:
    """(key, what `predict` has made of it, or a RayError) of each, in the order in which the tasks on Ray end."""
    slot = worker_slot(run.sweep().resources)
    if notice := autoscaler_notice(slot):
        say(console, notice)
    task = ray.remote(predict).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    return finished({task.remote(run.where, holder_of(run), key, slot.threads): key for key in keys})


def _predict_test(where: Path | str, holder: str, key: tuple[Part, str], threads: int) -> None:
    torch.set_num_threads(threads)
    part, trial_id = key
    run = RunDir(where)
    work_for(run, holder)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    out, trial = _ended(run, trial_id)
    sweep, catalog = run.sweep(), run.catalog()
    test = load_images(catalog, sweep.data, part, geometry_of(trial, sweep.data.reencode))
    origin = prediction_origins([out], catalog, part)[out.id]
    write_predictions(out.predictions_file(part), predict_from_file(out.weights_file, trial, test), origin)
    out.mirror.send(out.predictions_file(part))


def _predict_piece(where: Path | str, holder: str, piece: Piece, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    work_for(RunDir(where), holder)
    predictors, geometries, pictures = _prepared(where, piece.part, piece.trials, piece.made_of)
    p_fake = predict_corrupted(predictors, geometries, pictures, np.arange(piece.first, piece.last), threads)
    for trial_id, found in zip(piece.trials, p_fake, strict=True):
        if not np.isfinite(found).all():
            raise TrialError(f"the outputs of {trial_id} are not finite under corruption")
    return np.ascontiguousarray(p_fake)


@lru_cache(maxsize=1)
def _prepared(
    where: Path | str, part: Part, trial_ids: tuple[str, ...], made_of: str
) -> tuple[list[Predictor], list[Geometry], PictureSource]:
    """What the trials predict with, their geometries and the part's pictures: kept for the next pieces."""
    run = RunDir(where)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    data, ended = run.sweep().data, [_ended(run, trial_id) for trial_id in trial_ids]
    predictors = [load_predictor(out.weights_file, trial) for out, trial in ended]
    geometries = [geometry_of(trial, data.reencode) for _, trial in ended]
    catalog = run.catalog()
    return predictors, geometries, picture_files(catalog[catalog["part"] == part], data, None)


def _ended(run: RunDir, trial_id: str) -> tuple[TrialDir, Trial]:
    out = run.trial(trial_id)
    out.mirror.pull("result.json", WEIGHTS_FILE)
    result = out.result()
    assert result is not None  # only ended trials have kept weights
    return out, result.trial

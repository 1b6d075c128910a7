"""trials' weights + a part's pictures -> predictions-<part>-<corruption>.parquet of each, in parallel on Ray.

A task predicts some images with several trials, so that a picture is decoded and corrupted once for all of them. What
it has found is kept at once: a command that was stopped goes on with the pieces that are missing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rfray.cluster.slots import worker_slot
from rfray.cluster.tasks import finished, reason_of
from rfray.data.catalog import original_pictures
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.geometry import Geometry, geometry_of
from rfray.data.images import PictureSource
from rfray.errors import RfrayError, RunError, TrialError
from rfray.inference.missing import prediction_origins
from rfray.models.inference import Predictor, load_predictor, predict_corrupted
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.files import write_whole
from rfray.store.run_dir import WEIGHTS_FILE, Part, RunDir, TrialDir

PIECE, PIECES = 64, 32
"""A piece has at most so many images; a small part is cut into so many pieces, to keep all slots busy to the end."""
WEIGHTS = 2e9
"""Bytes of weights that a task may have in memory: those of the trials that share its pictures."""


@dataclass(frozen=True)
class Piece:
    """What one task predicts: some images of a part with some trials, under every corruption."""

    trials: tuple[str, ...]
    first: int
    last: int
    """Positions in the part, the last one not included."""
    file: Path
    """Its p_fake, (trials, corruptions, images) float64; the name is the digest of what they were made of."""

    @property
    def pictures(self) -> int:
        """How many pictures it predicts with each trial."""
        return (self.last - self.first) * len(CORRUPTIONS)


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
    console.print(f"Predicting the {part} images with {len(missing)} trials under {len(CORRUPTIONS)} corruptions")
    catalog = run.catalog()
    origins = prediction_origins(trials, catalog, part)
    wanted = {trial.id for trial in missing}
    groups = [group for group in _groups(trials) if not wanted.isdisjoint(trial.id for trial in group)]
    images = catalog[catalog["part"] == part]
    pieces = [_pieces(run.corruption_folder(part), group, len(images), origins) for group in groups]
    connect()
    _predict_all(run, part, [piece for of_group in pieces for piece in of_group])
    ids, labels = images["path"].to_numpy(dtype=np.str_), images["label"].to_numpy()
    for group, of_group in zip(groups, pieces, strict=True):
        p_fake = np.concatenate([_read(piece) for piece in of_group], axis=2)
        for trial, of_trial in zip(group, p_fake, strict=True):
            for corruption, scores in zip(CORRUPTIONS, of_trial, strict=True):
                file = trial.predictions_file(part, corruption)
                write_predictions(file, Predictions(ids, labels, scores), origins[trial.id])
    shutil.rmtree(run.corruption_folder(part))


def _groups(trials: Sequence[TrialDir]) -> list[list[TrialDir]]:
    """The trials, in order, in groups of at most WEIGHTS bytes (or one trial)."""
    groups: list[list[TrialDir]] = [[]]
    taken = 0
    for trial in trials:
        size = trial.weights_file.stat().st_size
        if groups[-1] and taken + size > WEIGHTS:
            groups.append([])
            taken = 0
        groups[-1].append(trial)
        taken += size
    return groups


def _pieces(
    folder: Path, trials: Sequence[TrialDir], images: int, origins: Mapping[str, Mapping[str, str]]
) -> list[Piece]:
    size = min(PIECE, -(-images // PIECES))
    pieces = []
    for first in range(0, images, size):
        made_of = [[origins[trial.id] for trial in trials], list(CORRUPTIONS), first, size]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]
        ids = tuple(trial.id for trial in trials)
        pieces.append(Piece(ids, first, min(first + size, images), folder / f"{name}.safetensors"))
    return pieces


def _predict_all(run: RunDir, part: Part, pieces: Sequence[Piece]) -> None:
    """Predicts every piece whose file is not there."""
    slot = worker_slot(run.sweep().resources)
    task = ray.remote(_predict).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    missing = [piece for piece in pieces if not piece.file.exists()]
    total, left = (sum(piece.pictures for piece in some) for some in (pieces, missing))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"Corrupting the {part} images", total=total, completed=total - left)
        tasks = {task.remote(run.where, part, piece, slot.threads): piece for piece in missing}
        for piece, found in finished(tasks):
            if isinstance(found, RayError):
                raise RfrayError(
                    f"the {part} images could not be predicted under corruption by {', '.join(piece.trials)}: "
                    f"{reason_of(found)}"
                )
            write_whole(piece.file, save({"p_fake": found}))
            progress.advance(bar, piece.pictures)


def _read(piece: Piece) -> np.ndarray:
    try:
        return np.asarray(load_file(piece.file)["p_fake"])
    except (OSError, KeyError, SafetensorError) as error:
        raise RunError(f"{piece.file} is damaged ({error}); delete it, and the same command makes it anew") from None


def _predict(where: Path | str, part: Part, piece: Piece, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    detectors, geometries = _detectors(where, piece.trials)
    rows = np.arange(piece.first, piece.last)
    p_fake = predict_corrupted(detectors, geometries, _pictures(where, part), rows, threads)
    for trial_id, found in zip(piece.trials, p_fake, strict=True):
        if not np.isfinite(found).all():
            raise TrialError(f"the outputs of {trial_id} are not finite under corruption")
    return np.ascontiguousarray(p_fake)


@lru_cache(maxsize=1)
def _detectors(where: Path | str, trial_ids: tuple[str, ...]) -> tuple[list[Predictor], list[Geometry]]:
    """Kept for the next pieces that this process predicts."""
    run = RunDir(where)
    run.mirror.pull("sweep.yaml")
    settings = run.sweep().data
    detectors, geometries = [], []
    for trial in map(run.trial, trial_ids):
        trial.mirror.pull("result.json", WEIGHTS_FILE)
        result = trial.result()
        assert result is not None  # only ended trials have kept weights
        detectors.append(load_predictor(trial.weights_file, result.trial))
        geometries.append(geometry_of(result.trial, settings.reencode))
    return detectors, geometries


@lru_cache(maxsize=1)
def _pictures(where: Path | str, part: Part) -> PictureSource:
    run = RunDir(where)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    return original_pictures(run.catalog(), run.sweep().data, part)

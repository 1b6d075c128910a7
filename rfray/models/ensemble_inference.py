"""a bundle + image files -> what each member says of each: every file is read and decoded once, for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rfray.data.batches import decoded_batches
from rfray.data.geometry import Geometry
from rfray.models.bundle import LoadedBundle
from rfray.models.inference import in_halves
from rfray.models.verdicts import NOT_FINITE


@dataclass(frozen=True)
class Detected:
    """What the members of a bundle say of some files, B of them."""

    paths: Sequence[str]
    scores: np.ndarray
    """(k, B) float64: p_fake of each of k members; nan where there is a reason."""
    reasons: list[str]
    """Why a file could not be judged; "" where it was."""
    pictures: list[np.ndarray | None]
    """(height, width, 3) uint8 of each, where pictures were asked for."""


def detect(
    bundle: LoadedBundle, paths: Sequence[str], batch_size: int, threads: int, keep_pictures: bool = False
) -> Iterator[Detected]:
    """Batches of `batch_size` files, in their order; so many threads read the next ones meanwhile.

    A file that can't be read costs its row, nothing else. Where memory runs out, a batch is predicted in halves.
    """
    pin = any(detector.device.type == "cuda" for detector in bundle.detectors)
    for batch in decoded_batches(paths, bundle.geometries, batch_size, threads, pin, keep_pictures):
        scores = np.full((len(bundle.detectors), len(batch.names)), np.nan)
        if len(batch.read):
            scores[:, batch.read] = scores_of(bundle, batch.squares)
        reasons = list(batch.reasons)
        for place in batch.read[~np.isfinite(scores[:, batch.read]).all(axis=0)]:
            reasons[place] = NOT_FINITE
        yield Detected(batch.names, scores, reasons, batch.pictures)


@torch.inference_mode()
def scores_of(bundle: LoadedBundle, squares: Mapping[Geometry, torch.Tensor]) -> np.ndarray:
    """(k, b) float64: p_fake as the members say it of (b, 3, S, S) uint8 squares, which each geometry has its own of.

    Where memory runs out, they are predicted in halves. A model's output that is not a number is nan.
    """
    found = [
        in_halves(detector, squares[geometry])
        for detector, geometry in zip(bundle.detectors, bundle.geometries, strict=True)
    ]
    return torch.stack(found).cpu().numpy()

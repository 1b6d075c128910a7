"""a bundle -> a process that predicts: batches of squares -> scores, a picture -> its heat map. Knows no Ray."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from rfray.models.bundle import load_bundle
from rfray.models.grad_cam import heatmap_jpeg
from rfray.models.inference import scores_of
from rfray.serving.batching import Squares, different
from rfray.stats.voting import joined


class LoadedModels:
    """The members of a bundle, computing in one thread of this process, one call after the other.

    `threads` are those that torch may use.
    """

    def __init__(self, where: str, threads: int) -> None:
        self._bundle = load_bundle(where)
        self._computing = ThreadPoolExecutor(1, "computing", torch.set_num_threads, (threads,))
        self._geometries = different(self._bundle.geometries)
        blank = [np.zeros((1, geometry.side, geometry.side, 3), np.uint8) for geometry in self._geometries]
        self._computing.submit(self._scores, blank).result()  # the first one takes longer

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k, b) float64: p_fake of each of k members for a batch of b images; nan where it is not a number."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, self._scores, squares)

    async def evidence(self, picture: np.ndarray) -> bytes:
        """(height, width, 3) uint8 -> the bytes of a JPEG: where the members saw evidence for their call."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, self._evidence, picture)

    async def alive(self) -> None:
        """Returns."""

    def _scores(self, squares: Squares) -> np.ndarray:
        # a copy: what comes from another process can't be written to, which torch would warn of
        batch = [torch.tensor(pixels).permute(0, 3, 1, 2) for pixels in squares]
        by_geometry = dict(zip(self._geometries, batch, strict=True))
        return scores_of(self._bundle.detectors, self._bundle.geometries, by_geometry)

    def _evidence(self, picture: np.ndarray) -> bytes:
        squares = [geometry.square(picture)[None] for geometry in self._geometries]
        return heatmap_jpeg(self._bundle, picture, joined(self._bundle.ensemble, self._scores(squares))[0])

"""squares of single images, from many requests at once -> batches for the models, and each image's scores.

A batch is whatever waits when the models are free: no image waits for a batch to fill, and batches grow with the load.
(`serve.batch` closes a batch after a fixed time whether the models are free or not, and so makes many small ones.)
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from rfray.data.geometry import Geometry

MAX_BATCH = 64
"""Images a batch."""

Squares = Sequence[np.ndarray]
"""One image, or a batch of b: (S, S, 3), or (b, S, S, 3), uint8, for each of the bundle's different geometries."""
Waiting = tuple[Squares, "asyncio.Future[np.ndarray]"]
"""One image, and where its scores go."""


def different(geometries: Sequence[Geometry]) -> list[Geometry]:
    """Each of them once, in the order that `Squares` have."""
    return list(dict.fromkeys(geometries))


class Batches:
    """Calls `predict` with batches, so many `at_once`: squares of b images -> (k, b) float64 scores of k members."""

    def __init__(
        self, predict: Callable[[Squares], Awaitable[np.ndarray]], at_once: int, seen: Callable[[int], object]
    ) -> None:
        """`seen` is told the size of every batch."""
        self._predict, self._at_once, self._seen = predict, at_once, seen
        self._waiting: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._seconds_an_image = 0.0

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k,) float64 of one image. Raises what `predict` raises."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((squares, future))
        self._start()
        return await future

    def delay(self) -> float:
        """In about so many seconds, all that waits now will have been predicted."""
        return len(self._waiting) * self._seconds_an_image / self._at_once

    def _start(self, ended: "asyncio.Task[None] | None" = None) -> None:
        """Makes batches of what waits and of what anybody still waits for, while the models are free."""
        self._running -= {ended}
        while self._waiting and len(self._running) < self._at_once:
            batch: list[Waiting] = []
            while self._waiting and len(batch) < MAX_BATCH:
                squares, future = self._waiting.popleft()
                if not future.done():
                    batch.append((squares, future))
            if batch:
                task = asyncio.create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._start)

    async def _run(self, batch: Sequence[Waiting]) -> None:
        self._seen(len(batch))
        began = time.monotonic()
        try:
            squares = [np.stack(parts) for parts in zip(*(squares for squares, _ in batch), strict=True)]
            scores = await self._predict(squares)
        except Exception as error:  # raised again where the scores are awaited
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        self._seconds_an_image = (time.monotonic() - began) / len(batch)
        for (_, future), found in zip(batch, scores.T, strict=True):
            if not future.done():
                future.set_result(found)

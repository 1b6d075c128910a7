"""an uploaded file -> a `Judgement`: decoded once, in a thread, for all members; predicted with whatever else waits."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from rfray.data.decoding import UnreadableImageError, decode
from rfray.data.geometry import Geometry
from rfray.models.verdicts import NOT_FINITE, verdicts
from rfray.serving.answers import Judgement
from rfray.serving.batching import Batches, Squares
from rfray.serving.uploads import Upload
from rfray.stats.voting import joined
from rfray.store.ensemble_record import Vote

Found = TypeVar("Found")


class Judge:
    """Says what a vote makes of its members' scores; `geometries` are theirs, and so many threads decode."""

    def __init__(self, vote: Vote, geometries: Sequence[Geometry], batches: Batches, threads: int) -> None:
        self._vote, self._batches = vote, batches
        self._different = different(geometries)
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decoding")

    async def judgement(self, upload: Upload) -> Judgement:
        """What is said of one file; why not, where it can't be read. Raises what the models raise."""
        try:
            squares = await self._in_thread(partial(_squares, upload.data, self._different))
        except UnreadableImageError as error:
            return _without(upload.name, str(error))
        scores = await self._batches.scores(squares)
        if not np.isfinite(scores).all():
            return _without(upload.name, NOT_FINITE)
        p_fake = joined(self._vote, scores[:, None])
        return Judgement(
            name=upload.name,
            p_fake=float(p_fake[0]),
            verdict=verdicts(self._vote, p_fake)[0],
            members=dict(zip(self._vote.members, scores.tolist(), strict=True)),
            reason="",
        )

    async def picture(self, upload: Upload) -> np.ndarray:
        """(height, width, 3) uint8. Raises UnreadableImageError."""
        return await self._in_thread(partial(_picture, upload.data))

    async def _in_thread(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work)


def different(geometries: Sequence[Geometry]) -> list[Geometry]:
    """Each of them once, in the order that `Squares` have."""
    return list(dict.fromkeys(geometries))


def _squares(data: bytes, geometries: Sequence[Geometry]) -> Squares:
    picture = _picture(data)
    return [geometry.square(picture) for geometry in geometries]


def _picture(data: bytes) -> np.ndarray:
    if not data:
        raise UnreadableImageError("the file is empty")
    return decode(data)


def _without(name: str, reason: str) -> Judgement:
    return Judgement(name=name, p_fake=None, verdict=None, members={}, reason=reason)

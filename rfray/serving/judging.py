"""an uploaded file -> a `Judgement`: decoded once, in a thread, for all members; predicted with whatever else waits."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from pydantic import Field

from rfray.data.decoding import UnreadableImageError, decode
from rfray.data.geometry import Geometry
from rfray.models.verdicts import NOT_FINITE, verdicts
from rfray.serving.batching import Batches, Squares
from rfray.serving.uploads import Upload
from rfray.spec.schema_base import Strict
from rfray.stats.voting import joined
from rfray.store.bundle_record import Vote


class Judgement(Strict):
    """What the bundle says of one uploaded file."""

    name: str
    """As the client called it."""
    p_fake: float | None = None
    """The vote's, in [0, 1]; null where there is a reason."""
    verdict: Literal["real", "fake", "unsure"] | None = None
    """null where there is a reason."""
    members: dict[str, float] = Field(default_factory=dict)
    """Member's id -> its p_fake; empty where there is a reason."""
    reason: str = ""
    """Why there is no verdict; "" where there is one."""


class Judge:
    """Says what a vote makes of its members' scores; `geometries` are theirs, and so many threads decode."""

    def __init__(self, vote: Vote, geometries: Sequence[Geometry], batches: Batches, threads: int) -> None:
        self._vote, self._batches = vote, batches
        self._geometries = different(geometries)
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decoding")

    async def judgement(self, upload: Upload) -> Judgement:
        """What is said of one file; why not, where it can't be read. Raises what the models raise."""
        loop = asyncio.get_running_loop()
        try:
            squares = await loop.run_in_executor(self._decoding, _squares, upload.data, self._geometries)
        except UnreadableImageError as error:
            return Judgement(name=upload.name, reason=str(error))
        scores = await self._batches.scores(squares)
        if not np.isfinite(scores).all():
            return Judgement(name=upload.name, reason=NOT_FINITE)
        p_fake = joined(self._vote, scores[:, None])
        return Judgement(
            name=upload.name,
            p_fake=float(p_fake[0]),
            verdict=verdicts(self._vote, p_fake)[0],
            members=dict(zip(self._vote.members, scores.tolist(), strict=True)),
        )

    async def picture(self, upload: Upload) -> np.ndarray:
        """(height, width, 3) uint8. Raises UnreadableImageError."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, _picture, upload.data)


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

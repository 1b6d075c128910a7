"""bytes of uploaded files -> their squares, so that a picture that takes seconds is not waited for by the others.

A file is decoded in the quick lane first. Where that takes longer than is usual, it is ended, and decoded anew in the
slow lane, with all the time that a picture may take; so are the files of the same request that have not begun.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rfray.data import decoder_process
from rfray.data.decoder_process import decode_apart, took_too_long
from rfray.data.decoding import UnreadableImageError
from rfray.data.geometry import Geometry
from rfray.serving.batching import Squares

QUICK_SECONDS = 0.3
"""Of a core: usual JPEGs of 24 megapixels take half of it."""


class Lanes:
    """Threads that wait for decoders."""

    def __init__(self) -> None:
        self.cores = os.cpu_count() or 1
        self.quick = ThreadPoolExecutor(self.cores, thread_name_prefix="quick")
        self.slow = ThreadPoolExecutor(max(1, self.cores // 2), thread_name_prefix="slow")


@dataclass
class RequestDecoder:
    """Decodes the files of one request, of which no more wait in a lane than it has threads: others have their turn."""

    lanes: Lanes
    _slow: bool = False
    _turns: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.lanes.cores)

    async def __call__(self, data: bytes, geometries: Sequence[Geometry], keep_picture: bool = False) -> Squares:
        """The arrays that `decode_apart` makes of one file. Raises UnreadableImageError."""
        if not data:
            raise UnreadableImageError("the file is empty")

        def decode(seconds: float) -> tuple[Squares, str]:
            return next(decode_apart([data], geometries, keep_picture, seconds))

        loop, quick = asyncio.get_running_loop(), min(QUICK_SECONDS, decoder_process.SECONDS)
        async with self._turns:
            slow = self._slow
            if not slow:
                arrays, reason = await loop.run_in_executor(self.lanes.quick, decode, quick)
                slow = reason == took_too_long(quick)
            if slow:
                self._slow = True
                arrays, reason = await loop.run_in_executor(self.lanes.slow, decode, decoder_process.SECONDS)
        if reason:
            raise UnreadableImageError(reason)
        return arrays

"""Pictures that take long are decoded apart from the others, and each request has its turn."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

from rfray.data.decoder_process import SECONDS, took_too_long
from rfray.data.decoding import UnreadableImageError
from rfray.serving import decoding
from rfray.serving.decoding import QUICK_SECONDS, Lanes, RequestDecoder


class Decoders:
    """Decoders for which a file that begins with "slow" takes longer than is usual, and then until it may end."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, float]] = []
        self.may_end = threading.Event()

    def decode(
        self, files: Sequence[bytes], geometries: object, keep_picture: bool, seconds: float
    ) -> Iterator[tuple[list[np.ndarray], str]]:
        (data,) = files
        self.seen.append((data, seconds))
        if data.startswith(b"slow"):
            if seconds == QUICK_SECONDS:
                yield [], took_too_long(seconds)
                return
            self.may_end.wait(20)
        yield ([], "damaged") if data == b"bad" else ([np.zeros(1)], "")


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    made = Decoders()
    monkeypatch.setattr(decoding, "decode_apart", made.decode)
    return made


def test_plain_pictures_pass_any_number_of_slow_ones(decoders: Decoders) -> None:
    async def go() -> None:
        lanes = Lanes()
        one = RequestDecoder(lanes)
        slow = [asyncio.create_task(one(b"slow %d" % number, [])) for number in range(50)]
        others = [asyncio.create_task(RequestDecoder(lanes)(b"slow", [])) for _ in range(20)]
        await asyncio.sleep(0)
        for _ in range(3):
            await RequestDecoder(lanes)(b"plain", [])
        assert not any(task.done() for task in slow + others)
        decoders.may_end.set()
        await asyncio.gather(*slow, *others)
        tried = [data for data, seconds in decoders.seen if data.startswith(b"slow ") and seconds == QUICK_SECONDS]
        assert len(tried) <= lanes.cores  # the request's others went to the slow lane at once
        assert sorted(data for data, seconds in decoders.seen if seconds == SECONDS) == sorted(
            [*(b"slow %d" % number for number in range(50)), *[b"slow"] * 20]
        )

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_reason_is_a_reason_in_either_lane(decoders: Decoders) -> None:
    async def go() -> None:
        one = RequestDecoder(Lanes())
        decoders.may_end.set()
        for data, reason in ((b"", "the file is empty"), (b"bad", "damaged")):
            with pytest.raises(UnreadableImageError, match=reason):
                await one(data, [])
        await one(b"slow", [])
        with pytest.raises(UnreadableImageError, match="damaged"):
            await one(b"bad", [])
        assert decoders.seen[-1] == (b"bad", SECONDS)

    asyncio.run(go())

"""Images of many requests go together as soon as the models are free."""

import asyncio

import numpy as np
import pytest

from rfray.serving.batching import MAX_BATCH, Batches


class Gate:
    """Scores that are the image's own number and its double, given when the gate is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.sizes: list[int] = []

    async def scores(self, squares: list[np.ndarray]) -> np.ndarray:
        await self.open.wait()
        (numbers,) = squares
        return np.stack([numbers, 2 * numbers]).astype(float)


async def settled() -> None:
    """Lets everything go on until it waits for the gate."""
    for _ in range(3):
        await asyncio.sleep(0)


def image(number: int) -> list[np.ndarray]:
    return [np.array(number)]


def test_what_waits_while_the_models_are_busy_goes_together_and_everyone_gets_their_own() -> None:
    async def go() -> tuple[list[int], list[np.ndarray]]:
        gate = Gate()
        batches = Batches(gate.scores, 1, gate.sizes.append)
        asking = [asyncio.create_task(batches.scores(image(number))) for number in range(MAX_BATCH + 7)]
        await settled()
        gate.open.set()
        return gate.sizes, await asyncio.gather(*asking)

    sizes, scores = asyncio.run(go())
    assert sizes == [1, MAX_BATCH, 6]
    assert [row.tolist() for row in scores] == [[number, 2 * number] for number in range(MAX_BATCH + 7)]


def test_so_many_batches_are_on_their_way_at_once() -> None:
    async def go() -> list[int]:
        gate = Gate()
        batches = Batches(gate.scores, 3, gate.sizes.append)
        asking = [asyncio.create_task(batches.scores(image(number))) for number in range(10)]
        await settled()
        before = list(gate.sizes)
        gate.open.set()
        await asyncio.gather(*asking)
        return before

    assert asyncio.run(go()) == [1, 1, 1]


def test_an_image_that_nobody_waits_for_any_more_is_left_out() -> None:
    async def go() -> list[int]:
        gate = Gate()
        batches = Batches(gate.scores, 1, gate.sizes.append)
        asking = [asyncio.create_task(batches.scores(image(number))) for number in range(4)]
        await settled()
        asking[2].cancel()
        await settled()
        gate.open.set()
        await asyncio.gather(*asking, return_exceptions=True)
        return gate.sizes

    assert asyncio.run(go()) == [1, 2]


def test_an_error_is_for_those_of_the_batch_alone() -> None:
    async def go() -> list[object]:
        async def scores(squares: list[np.ndarray]) -> np.ndarray:
            if 13 in squares[0]:
                raise ValueError("thirteen")
            return squares[0][None].astype(float)

        batches = Batches(scores, 1, lambda size: None)
        first = await asyncio.gather(*(batches.scores(image(n)) for n in (1, 13, 2)), return_exceptions=True)
        return [*first, await batches.scores(image(3))]

    one, *others, three = asyncio.run(go())
    assert (one, three) == (1, 3)
    assert [str(error) for error in others] == ["thirteen", "thirteen"]


def test_the_delay_is_what_waits_at_the_pace_of_the_last_batch() -> None:
    async def go() -> tuple[float, float]:
        gate = Gate()
        batches = Batches(gate.scores, 2, gate.sizes.append)
        nothing = batches.delay()
        batches._seconds_an_image = 0.5
        asking = [asyncio.create_task(batches.scores(image(number))) for number in range(6)]
        await settled()
        waiting = batches.delay()
        gate.open.set()
        await asyncio.gather(*asking)
        return nothing, waiting

    assert asyncio.run(go()) == (0, pytest.approx(4 * 0.5 / 2))  # two of the six are on their way

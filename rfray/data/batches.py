"""pixels + labels + policy -> batches of tensors, made by threads ahead of the model.

Shapes: B images a batch, S the side in pixels. Images are (B, 3, S, S) uint8 in channels-last memory: turning them into
normalised floats is left to the device.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from rfray.data.augment import Policy
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.decoding import UnreadableImageError
from rfray.data.geometry import Geometry
from rfray.data.pixels import Images, Source

Made = TypeVar("Made")

CORRUPTIONED_PICTURES, CORRUPTIONED_BYTES = 8, 32_000_000
"""At most so many pictures, and bytes of what is made of them, are put under corruption for one batch."""


@dataclass
class WaitTime:
    """Seconds that the consumer of batches spent waiting for them."""

    seconds: float = field(default=0.0)


@dataclass(frozen=True)
class Share:
    """Which images of a batch a process takes that trains together with others."""

    rank: int = 0
    size: int = 1
    in_pairs: bool = False
    """Whether an image and its mirror place in the batch stay together, as they are mixed; of an odd number, the last
    one is left out."""

    def of(self, batch: np.ndarray) -> np.ndarray:
        """Its part of (B,) anything, in order; the shares of all processes are as even as can be."""
        if not self.in_pairs:
            return np.asarray(np.array_split(batch, self.size)[self.rank])
        pairs = len(batch) // 2
        first = np.array_split(np.arange(pairs), self.size)[self.rank]
        return np.asarray(batch[np.concatenate([first, 2 * pairs - 1 - first[::-1]])])


Batch = tuple[torch.Tensor, torch.Tensor]
"""(B, 3, S, S) uint8 images and (B,) int64 labels, both on the CPU."""


def epoch_order(labels: np.ndarray, balanced: bool, seed: int, epoch: int, epochs_a_pass: int = 1) -> np.ndarray:
    """(n // epochs_a_pass,) int: the images of one epoch (from 1) in order.

    The epochs of one pass have no image in common. `balanced` draws both classes equally often, with replacement, and
    then each epoch by itself.
    """
    count = len(labels) // epochs_a_pass
    if balanced:
        share = np.where(labels == 1, 1 / max(1, (labels == 1).sum()), 1 / max(1, (labels == 0).sum()))
        return np.random.default_rng([seed, epoch]).choice(len(labels), size=count, p=share / share.sum())
    passes, place = divmod(epoch - 1, epochs_a_pass)
    return np.random.default_rng([seed, passes + 1]).permutation(len(labels))[place * count : (place + 1) * count]


def fit_batches(
    images: Images,
    order: np.ndarray,
    batch_size: int,
    policies: list[Policy | None],
    seed: tuple[int, int],
    pin: bool,
    wait: WaitTime,
    share: Share = Share(),
) -> Iterator[Batch]:
    """Augmented batches in the given order, `len(policies)` of them in the making at once, one thread each.

    Whole batches only, unless there is just one; what is made of a batch depends on `seed` (seed, epoch), its number
    and `share` alone, not on the threads. Time spent waiting is added to `wait`. Of every batch only the `share` is
    made: its images are those that one process would have, what augmentation draws for them is not.
    """
    count = max(1, len(order) // batch_size)
    free: deque[Policy | None] = deque(policies)

    def make(number: int) -> Batch:
        chosen = share.of(order[number * batch_size : (number + 1) * batch_size])
        draws = np.random.SeedSequence([*seed, number, *([share.rank] if share.rank else [])])
        pixels = images.batch(chosen, np.random.default_rng(draws))
        policy = free.popleft()
        try:
            if policy is not None:
                policy.reseed(int(draws.generate_state(1)[0]))
                for position, image in enumerate(pixels):
                    pixels[position] = policy(image)
        finally:
            free.append(policy)
        return _tensors(pixels, images.labels[chosen], pin)

    return _ahead(make, count, len(policies), wait, pin)


def plain_batches(images: Images, batch_size: int, pin: bool) -> Iterator[Batch]:
    """All images as they are, in their order, the next batch in the making."""

    def make(number: int) -> Batch:
        chosen = np.arange(number * batch_size, min((number + 1) * batch_size, len(images)))
        return _tensors(images.batch(chosen), images.labels[chosen], pin)

    return _ahead(make, -(-len(images) // batch_size), 1, WaitTime(), pin)


def corrupted_batches(
    source: Source, rows: np.ndarray, geometries: Sequence[Geometry], threads: int, pin: bool
) -> Iterator[list[torch.Tensor]]:
    """The pictures at `rows`, each decoded once, under every corruption and in every geometry; made by so many threads.

    A batch is one (b * K, 3, S, S) uint8 a geometry, K the number of CORRUPTIONS; those of one picture stand together.
    `source` gives pictures at full resolution.
    """
    corruptions = list(CORRUPTIONS.values())
    bytes_of_one = len(corruptions) * sum(3 * geometry.side**2 for geometry in geometries)
    together = max(1, min(CORRUPTIONED_PICTURES, CORRUPTIONED_BYTES // bytes_of_one))

    def make(number: int) -> list[torch.Tensor]:
        chosen = rows[number * together : (number + 1) * together].tolist()
        squares = [np.empty((len(chosen), len(corruptions), g.side, g.side, 3), np.uint8) for g in geometries]
        for position, row in enumerate(chosen):
            picture = source.picture(row)
            for way, corruption in enumerate(corruptions):
                corrupted = corruption(picture)
                for pixels, geometry in zip(squares, geometries, strict=True):
                    pixels[position, way] = geometry.square(corrupted)
        return [_pixels(pixels.reshape(-1, *pixels.shape[2:]), pin) for pixels in squares]

    return _ahead(make, -(-len(rows) // together), threads, WaitTime(), pin)


@dataclass(frozen=True)
class Decoded:
    """Some files: those that could be read, as every geometry wants them, and why the others could not."""

    names: Sequence[str]
    reasons: list[str]
    """Of each, why it could not be read; "" where it was."""
    read: np.ndarray
    """(b,) int: which of them could be."""
    squares: dict[Geometry, torch.Tensor]
    """(b, 3, S, S) uint8 of those."""
    pictures: list[np.ndarray | None]
    """The pictures themselves, (height, width, 3) uint8, where they were to be kept."""


def decoded_batches(
    names: Sequence[str],
    picture: Callable[[str], np.ndarray],
    geometries: Sequence[Geometry],
    batch_size: int,
    threads: int,
    pin: bool,
    keep_pictures: bool,
) -> Iterator[Decoded]:
    """Batches of files, each read once by `picture`, which raises UnreadableImageError; made by so many threads."""
    different = list(dict.fromkeys(geometries))

    def make(number: int) -> Decoded:
        some = names[number * batch_size : (number + 1) * batch_size]
        squares = {geometry: np.empty((len(some), geometry.side, geometry.side, 3), np.uint8) for geometry in different}
        reasons = [""] * len(some)
        read: list[int] = []
        pictures: list[np.ndarray | None] = [None] * len(some)
        for place, name in enumerate(some):
            try:
                found = picture(name)
            except UnreadableImageError as error:
                reasons[place] = str(error)
                continue
            for geometry, pixels in squares.items():
                pixels[len(read)] = geometry.square(found)
            read.append(place)
            if keep_pictures:
                pictures[place] = found
        of_those = {geometry: _pixels(pixels[: len(read)], pin) for geometry, pixels in squares.items()}
        return Decoded(some, reasons, np.array(read, dtype=np.int64), of_those, pictures)

    return _ahead(make, -(-len(names) // batch_size), threads, WaitTime(), pin)


def _tensors(pixels: np.ndarray, labels: np.ndarray, pin: bool) -> Batch:
    target = torch.from_numpy(labels.astype(np.int64))
    return _pixels(pixels, pin), target.pin_memory() if pin else target


def _pixels(pixels: np.ndarray, pin: bool) -> torch.Tensor:
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return batch.pin_memory() if pin else batch


def _ahead(make: Callable[[int], Made], count: int, threads: int, wait: WaitTime, pin: bool) -> Iterator[Made]:
    # pinned memory belongs to a GPU: each thread is to know this process's, where there are several
    on_gpu = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin else None
    with ThreadPoolExecutor(threads, thread_name_prefix="batches", initializer=on_gpu) as pool:
        try:
            making: deque[Future[Made]] = deque(pool.submit(make, number) for number in range(min(count, threads + 1)))
            for following in range(len(making), count + len(making)):
                began = time.perf_counter()
                batch = making.popleft().result()
                wait.seconds += time.perf_counter() - began
                if following < count:
                    making.append(pool.submit(make, following))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

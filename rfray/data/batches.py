"""images + labels + augmentation policy -> batches of tensors, made by threads while the model computes.

Shapes: B images a batch, S the side in pixels. Images are (B, 3, S, S) uint8 in channels-last memory: turning them into
normalised floats is left to the device.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from rfray.data.augment import Policy
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.decoder_process import decode_apart
from rfray.data.decoding import UnreadableImageError
from rfray.data.folders import read_file
from rfray.data.geometry import Geometry
from rfray.data.images import Images, PictureSource, Result, ahead
from rfray.errors import DataError

CORRUPTED_PICTURES, CORRUPTED_BYTES = 8, 32_000_000
"""Most pictures, and bytes, of a batch of corrupted ones, of which every thread has one in memory: 8 pictures with 13
corruptions are 104 images, a usual batch, and take 16 MB at 224 px."""


@dataclass
class WaitTime:
    """Seconds that the consumer of batches spent waiting for them."""

    seconds: float = 0.0


@dataclass(frozen=True)
class WorkerShare:
    """The part of every batch that one of several processes computes which train one model."""

    rank: int = 0
    size: int = 1
    in_pairs: bool = False
    """Whether the first image of a batch stays with the last, the second with the last but one, and so on, as mixup
    mixes those; of an odd number, the last image is left out."""

    def of(self, batch: np.ndarray) -> np.ndarray:
        """The share of an array (B, ...), in order; the shares of all processes differ by one image, or one pair."""
        if not self.in_pairs:
            return np.asarray(np.array_split(batch, self.size)[self.rank])
        pairs = len(batch) // 2
        first = np.array_split(np.arange(pairs), self.size)[self.rank]
        return np.asarray(batch[np.concatenate([first, 2 * pairs - 1 - first[::-1]])])


Batch = tuple[torch.Tensor, torch.Tensor]
"""(B, 3, S, S) uint8 images and (B,) int64 labels, both on the CPU."""


def epoch_order(labels: np.ndarray, balanced: bool, seed: int, epoch: int, epochs_a_pass: int = 1) -> np.ndarray:
    """(n // epochs_a_pass,) int: the images of one epoch (from 1) in order.

    The epochs of one pass over the images have no image in common. `balanced` draws both classes equally often, with
    replacement, anew for each epoch.
    """
    count = len(labels) // epochs_a_pass
    if balanced:
        share = np.where(labels == 1, 1 / max(1, (labels == 1).sum()), 1 / max(1, (labels == 0).sum()))
        return np.random.default_rng([seed, epoch]).choice(len(labels), size=count, p=share / share.sum())
    passes, part = divmod(epoch - 1, epochs_a_pass)
    return np.random.default_rng([seed, passes + 1]).permutation(len(labels))[part * count : (part + 1) * count]


def train_batches(
    images: Images,
    order: np.ndarray,
    batch_size: int,
    policies: list[Policy | None],
    seed: tuple[int, int],
    pin: bool,
    wait: WaitTime,
    share: WorkerShare = WorkerShare(),
) -> Iterator[Batch]:
    """Augmented batches in the given order, `len(policies)` of them in the making at once, one thread each.

    Whole batches only, unless there is just one. A batch depends on `seed` (seed, epoch), its number and `share`, not
    on the threads. Time spent waiting is added to `wait`. Where several processes train together, each makes only its
    `share` of a batch: the same images as in one process, but with other random draws of the augmentation.
    """
    count = max(1, len(order) // batch_size)
    free: deque[Policy | None] = deque(policies)

    def make(number: int) -> Batch:
        chosen = share.of(order[number * batch_size : (number + 1) * batch_size])
        draws = np.random.SeedSequence([*seed, number, *([share.rank] if share.rank else [])])
        pixels = images.batch(chosen, np.random.default_rng(draws))
        policy = free.popleft()
        if policy is not None:
            policy.reseed(int(draws.generate_state(1)[0]))
            for position, image in enumerate(pixels):
                pixels[position] = policy(image)
        free.append(policy)
        return _tensors(pixels, images.labels[chosen], pin)

    with closing(_made_ahead(make, count, len(policies), pin)) as batches:
        for _ in range(count):
            began = time.perf_counter()
            batch = next(batches)
            wait.seconds += time.perf_counter() - began
            yield batch


def plain_batches(images: Images, batch_size: int, pin: bool) -> Iterator[Batch]:
    """All images without augmentation, in their order, the last batch with what is left."""

    def make(number: int) -> Batch:
        chosen = np.arange(number * batch_size, min((number + 1) * batch_size, len(images)))
        return _tensors(images.batch(chosen), images.labels[chosen], pin)

    return _made_ahead(make, -(-len(images) // batch_size), 1, pin)


def corrupted_batches(
    source: PictureSource, rows: np.ndarray, geometries: Sequence[Geometry], threads: int, pin: bool
) -> Iterator[list[torch.Tensor]]:
    """The pictures at `rows`, each decoded once, with every corruption and in every geometry.

    A batch has one tensor (b * K, 3, S, S) uint8 for each geometry: the K CORRUPTIONS of the first picture, of the
    second, and so on. `source` gives pictures at full resolution.
    """
    corruptions = list(CORRUPTIONS.values())
    bytes_of_one = len(corruptions) * sum(3 * geometry.side**2 for geometry in geometries)
    size = max(1, min(CORRUPTED_PICTURES, CORRUPTED_BYTES // bytes_of_one))

    def make(number: int) -> list[torch.Tensor]:
        chosen = rows[number * size : (number + 1) * size].tolist()
        squares = [np.empty((len(chosen), len(corruptions), g.side, g.side, 3), np.uint8) for g in geometries]
        for position, row in enumerate(chosen):
            picture = source.picture(row)
            for way, corruption in enumerate(corruptions):
                corrupted = corruption(picture)
                for pixels, geometry in zip(squares, geometries, strict=True):
                    pixels[position, way] = geometry.square(corrupted)
        return [_pixels(pixels.reshape(-1, *pixels.shape[2:]), pin) for pixels in squares]

    return _made_ahead(make, -(-len(rows) // size), threads, pin)


@dataclass(frozen=True)
class FoundPictures:
    """A source of the pictures of files that `image_files` may have named, each decoded by `decode_apart`."""

    names: Sequence[str]

    def picture(self, row: int) -> np.ndarray:
        """See PictureSource. Raises DataError where the file can't be read."""
        try:
            arrays, reason = next(decode_apart([read_file(self.names[row])], [], keep_picture=True))
        except UnreadableImageError as error:
            arrays, reason = [], str(error)
        if reason:
            raise DataError(f"{self.names[row]}: {reason}")
        return arrays[0]


class Identity(NamedTuple):
    """What tells a file and its picture from others."""

    digest: str
    """SHA-256 of the file, 64 hex digits."""
    small: np.ndarray
    """(32, 32) uint8: see `geometry.hashed_square`."""


@dataclass(frozen=True)
class DecodedFiles:
    """B files, of which b could be read."""

    names: Sequence[str]
    reasons: list[str]
    """B reasons why a file could not be read; "" where it was."""
    read: np.ndarray
    """(b,) int: positions of the files that could be read."""
    squares: dict[Geometry, torch.Tensor]
    """(b, 3, S, S) uint8 of those, in each geometry."""
    pictures: list[np.ndarray | None]
    """B pictures, (height, width, 3) uint8; None where the file could not be read, or `keep_pictures` is False."""
    identities: list[Identity | None]
    """B of what tells the file and its picture from others; None as `pictures`, or where `identify` is False."""


def decoded_batches(
    names: Sequence[str],
    geometries: Sequence[Geometry],
    batch_size: int,
    threads: int,
    pin: bool,
    keep_pictures: bool,
    identify: bool = False,
) -> Iterator[DecodedFiles]:
    """Batches of files, in their order, each read and decoded once for all geometries, by `decode_apart`."""

    def make(number: int) -> DecodedFiles:
        some = names[number * batch_size : (number + 1) * batch_size]
        squares = {
            geometry: np.empty((len(some), geometry.side, geometry.side, 3), np.uint8) for geometry in geometries
        }
        reasons = [""] * len(some)
        opened: list[int] = []
        read: list[int] = []
        pictures: list[np.ndarray | None] = [None] * len(some)
        identities: list[Identity | None] = [None] * len(some)
        digests: list[str] = []

        def contents() -> Iterator[bytes]:
            for position, name in enumerate(some):
                try:
                    data = read_file(name)
                except UnreadableImageError as error:
                    reasons[position] = str(error)
                    continue
                opened.append(position)
                digests.append(hashlib.sha256(data).hexdigest() if identify else "")
                yield data

        decoded = decode_apart(contents(), list(squares), keep_pictures, identify=identify)
        for count, (arrays, reason) in enumerate(decoded):
            position = opened[count]
            reasons[position] = reason
            if not reason:
                for pixels, square in zip(squares.values(), arrays, strict=False):
                    pixels[len(read)] = square
                read.append(position)
                if keep_pictures:
                    pictures[position] = arrays[len(squares)]
                if identify:
                    identities[position] = Identity(digests[count], arrays[-1][..., 0])
        tensors = {geometry: _pixels(pixels[: len(read)], pin) for geometry, pixels in squares.items()}
        return DecodedFiles(some, reasons, np.array(read, dtype=np.int64), tensors, pictures, identities)

    return _made_ahead(make, -(-len(names) // batch_size), threads, pin)


def _tensors(pixels: np.ndarray, labels: np.ndarray, pin: bool) -> Batch:
    target = torch.from_numpy(labels.astype(np.int64))
    return _pixels(pixels, pin), target.pin_memory() if pin else target


def _pixels(pixels: np.ndarray, pin: bool) -> torch.Tensor:
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return batch.pin_memory() if pin else batch


def _made_ahead(make: Callable[[int], Result], count: int, threads: int, pin: bool) -> Generator[Result, None, None]:
    """make(0), make(1), … make(count - 1), each begun while earlier ones are used."""
    # pinned memory belongs to a GPU: every thread needs this process's, where the machine has several
    on_gpu = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin else None
    return ahead(make, range(count), threads, threads + 1, on_gpu)

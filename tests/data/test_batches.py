import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rfray.data.augment import Policy, build_policy
from rfray.data.batches import (
    CORRUPTED_PICTURES,
    Batch,
    WaitTime,
    WorkerShare,
    corrupted_batches,
    epoch_order,
    plain_batches,
    train_batches,
)
from rfray.data.corruptions import CORRUPTIONS
from rfray.data.geometry import Geometry
from rfray.data.images import Images
from rfray.spec.sweep import Reencode
from tests.pictures import images_in_memory

SIDE = 16


def images(count: int) -> Images:
    """Image i of this part is at row 2 i of the shared pixels and has the label i % 2."""
    pixels = np.random.default_rng(0).integers(0, 256, (2 * count, SIDE, SIDE, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as a memory map is
    numbers = np.arange(count)
    return images_in_memory(pixels, 2 * numbers, (numbers % 2).astype(np.int8), np.array([f"{n}.png" for n in numbers]))


def policies(name: str, threads: int) -> list[Policy | None]:
    return [build_policy(name, {}, SIDE) for _ in range(threads)]


def epoch_batches(
    given: Images, name: str = "strong", threads: int = 2, epoch: int = 0, batch_size: int = 8
) -> Iterator[Batch]:
    order = epoch_order(given.labels, balanced=False, seed=0, epoch=epoch)
    return train_batches(given, order, batch_size, policies(name, threads), (0, epoch), pin=False, wait=WaitTime())


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, other, strict=True)
    )


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rfray-data")]


# the order of an epoch


def test_every_image_is_in_an_epoch_once() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    orders = [epoch_order(labels, False, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1))]
    for order in orders:
        assert sorted(order) == list(range(40))
    assert orders[0].tolist() == orders[3].tolist()
    assert len({tuple(order) for order in orders}) == 3


def test_the_epochs_of_one_pass_have_no_image_in_common() -> None:
    labels = np.array([0] * 22 + [1] * 10)
    first, second, third, fourth = (epoch_order(labels, False, 5, epoch, 3) for epoch in (1, 2, 3, 4))
    assert [len(order) for order in (first, second, third, fourth)] == [10] * 4  # of 32, two are left out of a pass
    assert len({*first, *second, *third}) == 30
    whole = epoch_order(labels, False, 5, 1)
    assert [*first, *second, *third] == whole[:30].tolist()
    assert fourth.tolist() == epoch_order(labels, False, 5, 2)[:10].tolist()
    assert len(epoch_order(labels, True, 5, 1, 3)) == 10


def test_balanced_epochs_draw_both_classes_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    drawn = labels[epoch_order(labels, True, seed=0, epoch=1)]
    assert len(drawn) == 1000
    assert 440 <= drawn.sum() <= 560  # 500 expected, with a standard deviation of 16
    assert np.array_equal(drawn, labels[epoch_order(labels, True, seed=0, epoch=1)])
    assert not np.array_equal(drawn, labels[epoch_order(labels, True, seed=0, epoch=2)])


# what each of several processes takes of a batch


@pytest.mark.parametrize(
    ("batch", "size", "in_pairs", "shares"),
    [
        (5, 1, False, [[0, 1, 2, 3, 4]]),
        (5, 2, False, [[0, 1, 2], [3, 4]]),
        (5, 1, True, [[0, 1, 2, 3]]),
        (10, 2, True, [[0, 1, 2, 7, 8, 9], [3, 4, 5, 6]]),
        (8, 3, True, [[0, 1, 6, 7], [2, 5], [3, 4]]),
    ],
)
def test_a_share_of_a_batch(batch: int, size: int, in_pairs: bool, shares: list[list[int]]) -> None:
    assert [WorkerShare(rank, size, in_pairs).of(np.arange(batch)).tolist() for rank in range(size)] == shares


def test_shares_hold_the_images_of_the_whole_batch_and_draw_differently() -> None:
    given = images(16)
    order = epoch_order(given.labels, balanced=False, seed=0, epoch=0)

    def made(name: str, share: WorkerShare) -> list[Batch]:
        return list(train_batches(given, order, 8, policies(name, 1), (0, 0), pin=False, wait=WaitTime(), share=share))

    whole = made("none", WorkerShare())
    halves = [made("none", WorkerShare(rank, 2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(batch[0], torch.cat([first[0], second[0]]))
        assert torch.equal(batch[1], torch.cat([first[1], second[1]]))
    same_images = images_in_memory(
        np.zeros((8, SIDE, SIDE, 3), np.uint8) + np.arange(SIDE, dtype=np.uint8)[:, None, None],
        np.arange(8),
        np.zeros(8, np.int8),
        given.ids[:8],
    )
    first, second = (
        next(iter(train_batches(same_images, np.arange(8), 8, policies("strong", 1), (0, 0), False, WaitTime(), share)))
        for share in (WorkerShare(0, 2), WorkerShare(1, 2))
    )
    assert not torch.equal(first[0], second[0])


# what a model is fitted on


def test_train_batches_hold_the_images_in_the_given_order() -> None:
    given = images(20)
    order = np.array([5, 0, 19, 3, 3, 7])
    batches = list(train_batches(given, order, 3, [None], (0, 0), False, WaitTime()))
    assert [labels.tolist() for _, labels in batches] == [[1, 0, 1], [1, 1, 1]]
    for (pixels, labels), chosen in zip(batches, ([5, 0, 19], [3, 3, 7]), strict=True):
        assert pixels.shape == (3, 3, SIDE, SIDE)
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        expected = given.source.pixels[[2 * number for number in chosen]]
        assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), expected)


def test_policies_change_the_images_and_leave_the_shared_pixels() -> None:
    given = images(16)
    before = given.source.pixels.copy()
    plain, changed = list(epoch_batches(given, "none")), list(epoch_batches(given, "strong"))
    assert not same(plain, changed)
    assert [labels.tolist() for _, labels in plain] == [labels.tolist() for _, labels in changed]
    assert np.array_equal(given.source.pixels, before)


@pytest.mark.parametrize("name", ["light", "strong", "compression"])
def test_batches_do_not_depend_on_the_number_of_threads(name: str) -> None:
    given = images(64)
    one, three, again = (list(epoch_batches(given, name, threads)) for threads in (1, 3, 3))
    assert len(one) == 8
    assert same(one, three)
    assert same(three, again)


def test_every_epoch_and_every_seed_changes_the_images_in_another_way() -> None:
    given = images(8)
    order = np.arange(8)
    made = [
        list(train_batches(given, order, 8, policies("strong", 1), seed, False, WaitTime()))
        for seed in ((0, 1), (0, 2), (1, 1), (0, 1))
    ]
    assert same(made[0], made[3])
    assert not same(made[0], made[1])
    assert not same(made[0], made[2])


def test_every_batch_changes_the_same_images_in_another_way() -> None:
    order = np.tile(np.arange(8), 2)
    one, other = train_batches(images(8), order, 8, policies("strong", 1), (0, 0), False, WaitTime())
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(20, 8, [8, 8]), (16, 8, [8, 8]), (5, 8, [5]), (8, 8, [8])])
def test_a_last_partial_batch_is_left_out_unless_it_is_the_only_one(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    assert [len(labels) for _, labels in epoch_batches(images(count), batch_size=batch_size)] == sizes


def test_waiting_is_counted() -> None:
    given, wait = images(8), WaitTime()
    list(train_batches(given, np.arange(8), 4, [None], (0, 0), False, wait))
    assert wait.seconds > 0


# what a model is judged on


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8, 4]), (16, [8, 8]), (3, [3])])
def test_plain_batches_hold_all_images_in_order(count: int, sizes: list[int]) -> None:
    given = images(count)
    batches = list(plain_batches(given, 8, pin=False))
    assert [len(labels) for _, labels in batches] == sizes
    assert torch.cat([labels for _, labels in batches]).tolist() == [number % 2 for number in range(count)]
    pixels = torch.cat([pixels for pixels, _ in batches])
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), given.source.pixels[::2])


# threads


class Failing(Policy):
    """Fails at one image."""

    def __init__(self) -> None:
        self.left = 20

    def reseed(self, seed: int) -> None:
        pass

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("this image can't be changed")
        return image


def test_an_error_in_a_thread_reaches_the_consumer() -> None:
    batches = train_batches(images(64), np.arange(64), 8, [Failing()], (0, 0), False, WaitTime())
    assert len(next(batches)[1]) == 8
    assert len(next(batches)[1]) == 8
    with pytest.raises(RuntimeError, match="this image can't be changed"):  # image 20 is in the third
        next(batches)
    assert batch_threads() == []


@pytest.mark.parametrize("kind", ["train", "plain"])
def test_leaving_early_ends_the_threads(kind: str) -> None:
    given = images(64)
    batches = epoch_batches(given, threads=3) if kind == "train" else plain_batches(given, 8, pin=False)
    next(batches)
    assert batch_threads() != []
    batches.close()  # type: ignore[attr-defined]
    assert batch_threads() == []


def test_a_broken_off_loop_ends_the_threads() -> None:
    for _ in epoch_batches(images(64), threads=3):
        break
    assert batch_threads() == []
    assert len(list(epoch_batches(images(64), threads=3))) == 8
    assert batch_threads() == []


# under corruption


class Counting:
    """Pictures of different sizes, and how often each was asked for."""

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(0)
        self.pictures = [generator.integers(0, 256, (40 + n, 60 - n, 3), dtype=np.uint8) for n in range(count)]
        self.asked = [0] * count

    def picture(self, row: int) -> np.ndarray:
        self.asked[row] += 1
        return self.pictures[row]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_picture_is_decoded_once_and_corrupted_before_it_is_scaled(threads: int) -> None:
    source, rows = Counting(30), np.arange(5, 30)
    geometries = [Geometry("scale", 16, None), Geometry("crop", 24, Reencode(quality=50, size=32))]
    found = list(corrupted_batches(source, rows, geometries, threads, pin=False))
    assert source.asked == [0] * 5 + [1] * 25
    assert [len(first) for first, _ in found] == [len(CORRUPTIONS) * count for count in (8, 8, 8, 1)]
    assert CORRUPTED_PICTURES == 8
    for number, geometry in enumerate(geometries):
        pixels = torch.cat([batch[number] for batch in found])
        assert pixels.shape == (25 * len(CORRUPTIONS), 3, geometry.side, geometry.side)
        for row, (way, corruption) in ((5, (0, "jpeg_90")), (17, (6, "scale_25")), (29, (12, "noise_20"))):
            expected = geometry.window(geometry.stored(CORRUPTIONS[corruption](source.pictures[row])), None)
            seen = pixels[(row - 5) * len(CORRUPTIONS) + way].permute(1, 2, 0).numpy()
            assert np.array_equal(seen, expected), (row, corruption)


def test_large_squares_are_made_one_picture_at_a_time() -> None:
    (first, *_), *rest = corrupted_batches(Counting(3), np.arange(3), [Geometry("scale", 700, None)], 1, pin=False)
    assert (len(first), len(rest)) == (len(CORRUPTIONS), 2)

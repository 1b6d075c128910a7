"""The cache of decoded pixels: made once, shared, bounded; and what happens where it has no room."""

import hashlib
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfray.data import images
from rfray.data.decoding import UnreadableImageError, decode, square
from rfray.data.geometry import Geometry
from rfray.data.images import CachedPixels, ImageFiles, PictureSource, load_pixels, scan
from rfray.data.node_cache import cache_folder
from rfray.errors import DataError
from rfray.spec.sweep import CacheSettings

SMALL, LARGE, WHOLE = Geometry("scale", 16, None), Geometry("scale", 24, None), Geometry("crop", 16, None)


@dataclass(frozen=True)
class Folder:
    """Images 0.png, 1.jpg, 2.png, … of different sizes, each with its own grey, and a cache beside them."""

    path: Path
    count: int
    max_gb: float = 1.0

    @property
    def paths(self) -> list[str]:
        return [f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(self.count)]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(20 + number, 60 - number) for number in range(self.count)]

    @property
    def digests(self) -> list[str]:
        return [hashlib.sha256((self.path / path).read_bytes()).hexdigest() for path in self.paths]

    @property
    def cache(self) -> CacheSettings:
        return CacheSettings(dir=str(self.path.parent / "cache"), max_gb=self.max_gb)

    def cached(self) -> dict[str, int]:
        """Name without key -> size, of the pixel files."""
        return {
            file.name.split("-", 2)[-1]: file.stat().st_size for file in Path(self.cache.dir or "").glob("pixels-*.u8")
        }

    def leftovers(self) -> list[str]:
        return [path.name for path in Path(self.cache.dir or "").glob(".writing-*")]

    def load(self, geometry: Geometry) -> PictureSource:
        return self.load_some(geometry, self.paths, self.digests, self.sizes)

    def load_some(
        self, geometry: Geometry, paths: list[str], digests: list[str], sizes: list[tuple[int, int]]
    ) -> PictureSource:
        return load_pixels(ImageFiles(self.path, paths, digests, geometry), geometry, np.array(sizes), self.cache)

    def decoded(self, geometry: Geometry) -> list[np.ndarray]:
        return [geometry.stored(decode((self.path / path).read_bytes())) for path in self.paths]


def make(path: Path, count: int, max_gb: float = 1.0) -> Folder:
    folder = Folder(path / "images", count, max_gb)
    folder.path.mkdir(parents=True)
    for number, (name, size) in enumerate(zip(folder.paths, folder.sizes, strict=True)):
        Image.new("RGB", size, (number * 5,) * 3).save(folder.path / name)
    return folder


def same(source: PictureSource, expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(source.picture(row), picture) for row, picture in enumerate(expected))


def test_scan_reads_all_files_in_order_and_load_gives_their_pixels(tmp_path: Path) -> None:
    folder = make(tmp_path, 40)
    scanned, seen, fitted = scan(
        folder.path, folder.paths, [SMALL, WHOLE], folder.cache, lambda data, picture: (len(data), picture.shape)
    )
    assert scanned["digest"].tolist() == folder.digests
    assert scanned["reason"].isna().all()
    assert [*zip(scanned["width"], scanned["height"], strict=True)] == folder.sizes
    assert seen == [
        ((folder.path / path).stat().st_size, (height, width, 3))
        for path, (width, height) in zip(folder.paths, folder.sizes, strict=True)
    ]
    assert fitted
    assert folder.cached() == {
        "scale16.u8": 40 * 16 * 16 * 3,
        "whole.u8": sum(3 * width * height for width, height in folder.sizes),
    }
    before = {path: path.stat().st_ino for path in Path(folder.cache.dir or "").glob("*.u8")}
    for geometry in (SMALL, WHOLE):
        source = folder.load(geometry)
        assert isinstance(source, CachedPixels)
        assert same(source, folder.decoded(geometry))
        assert not source.picture(0).flags.writeable
    assert before == {path: path.stat().st_ino for path in Path(folder.cache.dir or "").glob("*.u8")}


def test_unreadable_files_are_named_with_a_reason_and_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path, 4)
    (folder.path / folder.paths[1]).write_text("not a picture")
    (folder.path / "gone.png").symlink_to(folder.path / "nowhere")
    scanned, seen, _ = scan(folder.path, ["gone.png", *folder.paths], [SMALL], folder.cache, lambda *_: True)
    bad = scanned["reason"].dropna()
    assert bad.to_dict() == {0: "No such file or directory", 2: "not an image of a known format"}
    assert scanned["digest"][bad.index].tolist() == ["", hashlib.sha256(b"not a picture").hexdigest()]
    assert seen == [True] * 3
    good = [0, 2, 3]
    assert folder.cached() == {"scale16.u8": 3 * 16 * 16 * 3}
    paths, digests, sizes = ([given[row] for row in good] for given in (folder.paths, folder.digests, folder.sizes))
    source = folder.load_some(SMALL, paths, digests, sizes)
    assert folder.cached() == {"scale16.u8": 3 * 16 * 16 * 3}  # what scan wrote was used
    assert [int(source.picture(row)[8, 8, 0]) for row in range(3)] == [0, 10, 15]


def test_what_is_no_plain_file_is_never_waited_for(tmp_path: Path) -> None:
    folder = make(tmp_path, 2)
    os.mkfifo(folder.path / "pipe.png")
    (folder.path / "zero.jpg").symlink_to("/dev/zero")
    scanned, _, _ = scan(folder.path, ["pipe.png", "zero.jpg", *folder.paths], [SMALL], folder.cache)
    assert scanned["reason"].dropna().tolist() == ["not a plain file"] * 2
    files = ImageFiles(folder.path, ["pipe.png"], [""], None)
    with pytest.raises(DataError, match=r"pipe.png has changed since the sweep began \(not a plain file\)"):
        files.picture(0)


def test_a_file_that_only_the_audit_stumbles_over_is_left_out(tmp_path: Path) -> None:
    def stumble(data: bytes, _: np.ndarray) -> int:
        if data.startswith(b"\xff\xd8"):
            raise UnreadableImageError("damaged header")
        return 7

    folder = make(tmp_path, 3)
    scanned, seen, _ = scan(folder.path, folder.paths, [SMALL], folder.cache, stumble)
    assert scanned["reason"].dropna().to_dict() == {1: "damaged header"}
    assert seen == [7, 7]
    assert folder.cached() == {"scale16.u8": 2 * 16 * 16 * 3}


def test_what_is_there_is_not_decoded_again_and_counts_as_used(tmp_path: Path) -> None:
    folder = make(tmp_path, 5)
    scan(folder.path, folder.paths, [SMALL], folder.cache)
    expected, digests = folder.decoded(SMALL), folder.digests
    (file,) = Path(folder.cache.dir or "").glob("*.u8")
    os.utime(file, (0, 0))
    shutil.rmtree(folder.path)  # nothing can be decoded any more
    assert same(folder.load_some(SMALL, folder.paths, digests, folder.sizes), expected)
    assert file.stat().st_mtime > 0


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_was_cut_short_is_made_again(tmp_path: Path, size: int) -> None:
    folder = make(tmp_path, 5)
    expected = folder.decoded(SMALL)
    folder.load(SMALL)
    (file,) = Path(folder.cache.dir or "").glob("*.u8")
    file.write_bytes(file.read_bytes()[:size])
    source = folder.load(SMALL)
    assert isinstance(source, CachedPixels)
    assert same(source, expected)


def test_other_content_never_meets_old_pixels(tmp_path: Path) -> None:
    folder = make(tmp_path, 5)
    folder.load(SMALL)
    Image.new("RGB", folder.sizes[2], (200, 200, 200)).save(folder.path / folder.paths[2])
    assert [int(folder.load(SMALL).picture(row)[8, 8, 0]) for row in range(5)] == [0, 5, 200, 15, 20]


@pytest.mark.parametrize("how", ["other content", "No such file", "not an image"])
def test_a_file_that_changed_since_it_was_scanned_is_named(tmp_path: Path, how: str) -> None:
    folder = make(tmp_path, 5)
    digests = folder.digests
    changed = folder.path / folder.paths[3]
    if how == "other content":
        Image.new("RGB", (30, 30)).save(changed)
    elif how == "No such file":
        changed.unlink()
    else:
        digests[3] = hashlib.sha256(b"text").hexdigest()
        changed.write_text("text")
    with pytest.raises(DataError) as raised:
        folder.load_some(SMALL, folder.paths, digests, folder.sizes)
    assert str(changed) in str(raised.value)
    assert how in str(raised.value)
    assert folder.cached() == {}
    assert folder.leftovers() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("command", ["scan", "load"])
def test_nothing_is_left_behind_by_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: type[BaseException]
) -> None:
    folder = make(tmp_path, 40)
    digests = folder.digests

    def failing(data: bytes) -> np.ndarray:
        if hashlib.sha256(data).hexdigest() == digests[25]:
            raise error
        return decode(data)

    monkeypatch.setattr(images, "decode", failing)
    with pytest.raises(error):
        scan(folder.path, folder.paths, [SMALL], folder.cache) if command == "scan" else folder.load(SMALL)
    assert (folder.cached(), folder.leftovers()) == ({}, [])
    monkeypatch.undo()
    assert same(folder.load(SMALL), folder.decoded(SMALL))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder = make(tmp_path, 5)
    folder.load(SMALL)
    Path(folder.cache.dir or "", ".writing-0123456789ab.u8").write_bytes(b"half")
    folder.load(LARGE)
    assert folder.leftovers() == []
    assert set(folder.cached()) == {"scale16.u8", "scale24.u8"}


# bounds; 40 pictures at 16 px are 30,720 bytes, at 24 px 69,120


@pytest.mark.parametrize("geometry", [SMALL, WHOLE])
def test_what_does_not_fit_is_decoded_as_it_is_needed(tmp_path: Path, geometry: Geometry) -> None:
    folder = make(tmp_path, 40, max_gb=30_719e-9)
    _, _, fitted = scan(folder.path, folder.paths, [geometry], folder.cache)
    assert not fitted
    source = folder.load(geometry)
    assert isinstance(source, ImageFiles)
    assert same(source, folder.decoded(geometry))
    assert (folder.cached(), folder.leftovers()) == ({}, [])


def test_of_two_sizes_the_one_that_fits_is_kept(tmp_path: Path) -> None:
    folder = make(tmp_path, 40, max_gb=50_000e-9)
    _, _, fitted = scan(folder.path, folder.paths, [SMALL, LARGE], folder.cache)
    assert not fitted
    assert folder.cached() == {"scale16.u8": 30_720}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    folder = make(tmp_path, 40, max_gb=110_000e-9)
    sides = {side: Geometry("scale", side, None) for side in (8, 16, 24)}
    for side in (8, 16):
        folder.load(sides[side])
    for age, name in enumerate(("scale16", "scale8")):  # the smaller one was used after the larger one
        (file,) = Path(folder.cache.dir or "").glob(f"*{name}.u8")
        os.utime(file, (1000 + age, 1000 + age))
    folder.load(sides[24])  # 7,680 + 30,720 + 69,120 fit
    assert set(folder.cached()) == {"scale8.u8", "scale16.u8", "scale24.u8"}
    folder.load(Geometry("scale", 12, None))  # 17,280 more do not: the oldest goes
    assert set(folder.cached()) == {"scale8.u8", "scale12.u8", "scale24.u8"}


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    folder = make(tmp_path, 40, max_gb=80_000e-9)
    in_use = folder.load(SMALL)
    assert isinstance(folder.load(LARGE), ImageFiles)  # there is no room beside it
    assert set(folder.cached()) == {"scale16.u8"}
    assert same(in_use, folder.decoded(SMALL))
    del in_use
    assert isinstance(folder.load(LARGE), CachedPixels)
    assert set(folder.cached()) == {"scale24.u8"}


# several processes


def scan_and_load(folder: Folder, barrier: Barrier, sums: "Queue[list[int]]") -> None:
    """What a process of a node does, at the same time as another."""
    barrier.wait(60)
    scan(folder.path, folder.paths, [SMALL], folder.cache)
    barrier.wait(60)
    sources = [folder.load(geometry) for geometry in (SMALL, LARGE)]
    sums.put([sum(int(source.picture(row).sum()) for row in range(folder.count)) for source in sources])


def test_two_processes_at_once_end_with_one_file_a_size(tmp_path: Path) -> None:
    folder = make(tmp_path, 40)
    context = multiprocessing.get_context("spawn")
    barrier, sums = context.Barrier(2), context.Queue()
    workers = [context.Process(target=scan_and_load, args=(folder, barrier, sums)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [sums.get(timeout=90) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    pictures = [decode((folder.path / path).read_bytes()) for path in folder.paths]
    expected = [sum(int(square(picture, side).sum()) for picture in pictures) for side in (16, 24)]
    assert results == [expected, expected]
    assert folder.cached() == {"scale16.u8": 40 * 16 * 16 * 3, "scale24.u8": 40 * 24 * 24 * 3}


def test_the_cache_is_where_the_sweep_or_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFRAY_CACHE", "/somewhere")
    assert cache_folder(CacheSettings(dir="/given")) == Path("/given")
    assert cache_folder(CacheSettings()) == Path("/somewhere")
    monkeypatch.delenv("RFRAY_CACHE")
    assert cache_folder(CacheSettings()).name == "rfray"

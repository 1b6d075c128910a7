import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from rfray.data.demo import DEMO_NAME, MIN_TEXTURE, PER_TILE, SIZE, UPSAMPLING, make_demo, texture

PARTS = ("train", "test")
CLASSES = ("real", "fake")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo"))


def images(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def tiles(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_builds_hold_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    assert digests(make_demo(tmp_path)) == digests(demo)


@pytest.mark.parametrize(("part", "count"), [("train", 476), ("test", 136)])
@pytest.mark.parametrize("name", CLASSES)
def test_both_classes_are_equally_large(demo: Path, part: str, name: str, count: int) -> None:
    assert len(images(demo / part / name)) == count


@pytest.mark.parametrize("part", PARTS)
def test_both_classes_come_from_the_same_tiles(demo: Path, part: str) -> None:
    assert tiles(demo / part / "real") == tiles(demo / part / "fake")
    for tile in (demo / part).glob("*/*"):
        assert len(images(tile)) == PER_TILE


def test_train_and_test_share_no_tile_and_train_has_enough_for_a_split_by_tile(demo: Path) -> None:
    train, test = tiles(demo / "train" / "real"), tiles(demo / "test" / "real")
    assert not train & test
    assert len(train) >= 10
    assert {name.split("-")[0] for name in train} == {name.split("-")[0] for name in test} == {"china", "flower"}


def test_crops_lie_inside_the_tile_that_their_folder_names(demo: Path) -> None:
    shipped = load_sample_images()
    photographs = {Path(path).stem: image for path, image in zip(shipped.filenames, shipped.images, strict=True)}
    for folder in demo.glob("*/*/*"):
        name, row, column = folder.name.split("-")
        crop = np.asarray(Image.open(folder / "00.jpg"))
        match = cv2.matchTemplate(photographs[name], crop, cv2.TM_CCOEFF_NORMED)
        top, left = np.unravel_index(match.argmax(), match.shape)
        assert match.max() > 0.8  # up-sampling and JPEG change a fake crop
        assert int(row) * 142 <= top <= (int(row) + 1) * 142 - SIZE
        assert int(column) * 128 <= left <= (int(column) + 1) * 128 - SIZE


def test_every_image_is_an_rgb_jpeg_of_96_pixels(demo: Path) -> None:
    for path in images(demo):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_real_crops_have_texture(demo: Path) -> None:
    found = [texture(np.asarray(Image.open(path))) for path in images(demo) if "real" in path.parts]
    assert min(found) > MIN_TEXTURE / 2  # JPEG takes some of it
    assert np.mean(np.array(found) > MIN_TEXTURE) > 0.9


def test_no_crop_is_there_twice(demo: Path) -> None:
    found = digests(demo)
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("part", PARTS)
def test_file_size_does_not_give_the_class_away(demo: Path, part: str) -> None:
    sizes = {name: [path.stat().st_size for path in images(demo / part / name)] for name in CLASSES}
    labels = [1] * len(sizes["real"]) + [0] * len(sizes["fake"])
    assert roc_auc_score(labels, sizes["real"] + sizes["fake"]) < 0.75


def test_a_second_call_writes_nothing(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert make_demo(demo.parent) == demo
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_the_rest_of_a_killed_call_is_removed(demo: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / f".{DEMO_NAME}.part"
    (unfinished / "train" / "real").mkdir(parents=True)
    (unfinished / "train" / "real" / "00.jpg").write_bytes(b"half")
    assert digests(make_demo(tmp_path)) == digests(demo)
    assert not unfinished.exists()


@pytest.mark.parametrize("name", UPSAMPLING)
def test_upsampling_doubles_the_size_and_keeps_brightness_and_place(name: str) -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8), (0, 0), 2.0)
    large = UPSAMPLING[name](small, rng)
    assert large.shape == (48, 48, 3)
    assert large.dtype == np.uint8
    back = cv2.resize(large, (24, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(back.astype(float) - small).mean() < 3

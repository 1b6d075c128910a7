"""Images at an address: fetched once, resumed, kept under the cache's limit, the same as from a disk."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.catalog import decode_images, divide, load_images, scan_folder
from rfray.data.folders import changes, check_folders, image_files, list_images
from rfray.data.geometry import Geometry
from rfray.data.listing import PassedOver
from rfray.data.node_cache import RemoteFolder, make_room
from rfray.errors import DataError
from rfray.spec.sweep import CacheSettings, DataSettings
from rfray.store.storage import Entry, Storage
from tests.object_store import bucket_here, upload

SMALL = Geometry("scale", 16, None)


@pytest.fixture(scope="module")
def address(pictures: Path) -> Iterator[str]:
    with bucket_here() as bucket:
        upload(pictures / "train", f"{bucket}/train")
        Storage(bucket).write("train/readme.txt", b"no image")
        Storage(bucket).write("train/real/.hidden.png", b"no image")
        yield f"{bucket}/train"


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of what is fetched."""
    fetched: list[str] = []
    fetch = Storage.fetch

    def noted(self: Storage, entry: Entry, folder: Path) -> None:
        fetched.append(entry.path)
        fetch(self, entry, folder)

    monkeypatch.setattr(Storage, "fetch", noted)
    return fetched


def at(address: str, cache: Path, max_gb: float = 1.0) -> DataSettings:
    return DataSettings(train=address, test=0.2, cache=CacheSettings(dir=str(cache), max_gb=max_gb))


def test_the_same_images_as_on_a_disk(address: str, pictures: Path, tmp_path: Path, fetches: list[str]) -> None:
    there = list_images(at(address, tmp_path / "cache"), "train")
    assert fetches == []
    here = list_images(at(str(pictures / "train"), tmp_path / "other"), "train")
    same = ["path", "label", "subfolder", "size"]
    assert there[same].equals(here[same])
    from_address = scan_folder(at(address, tmp_path / "cache"), "train", [SMALL])
    from_disk = scan_folder(at(str(pictures / "train"), tmp_path / "other"), "train", [SMALL])
    assert from_address.images["digest"].tolist() == from_disk.images["digest"].tolist()
    assert sorted(fetches) == here["path"].tolist()


def test_val_may_be_at_an_address(address: str, pictures: Path, tmp_path: Path) -> None:
    cache = CacheSettings(dir=str(tmp_path))
    settings = DataSettings(train=str(pictures / "test"), val=address, test=str(tmp_path / "none"), cache=cache)
    tuned = [scan_folder(settings, folder, [SMALL]).images for folder in settings.training_folders]
    catalog = divide(pd.concat(tuned, ignore_index=True), settings, 0, np.zeros((0, 2), int))
    val = load_images(catalog, settings, "val", SMALL)
    assert val.ids.tolist() == tuned[1]["path"].tolist()
    assert val.batch(np.array([0])).shape == (1, 16, 16, 3)
    assert changes(settings, "val", catalog[catalog["folder"] == "val"]) == []


def test_what_is_there_is_not_fetched_again_and_what_changed_is(
    address: str, tmp_path: Path, fetches: list[str]
) -> None:
    settings = at(address, tmp_path)
    before = scan_folder(settings, "train", [SMALL]).images.assign(part="train")
    (kept, lost, *_) = list_images(settings, "train")["path"]
    fetches.clear()
    folder = RemoteFolder(address, settings)
    (folder / lost).unlink()  # as if the fetch had been killed before it
    stray = (folder / kept).with_name("stray.png")
    stray.write_text("")
    assert (RemoteFolder(address, settings) / lost).exists()
    assert fetches == [lost]
    assert not stray.exists()
    assert changes(settings, "train", before) == []


def test_a_picture_is_fetched_when_it_is_asked_for(address: str, tmp_path: Path, fetches: list[str]) -> None:
    settings = at(address, tmp_path)
    catalog = scan_folder(settings, "train", [SMALL]).images.assign(part="train")
    shutil.rmtree(tmp_path)
    fetches.clear()
    images = decode_images(catalog, settings, "train", SMALL, catalog["path"].tolist()[:2])
    assert fetches == []
    assert images.batch(np.array([0, 1])).shape == (2, 16, 16, 3)
    assert len(fetches) == len(catalog)


def test_images_that_do_not_fit_into_the_cache_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its images take \S+ GB, but the cache .*data\.cache\.max_gb: 1e-06"):
        scan_folder(at(address, tmp_path, max_gb=1e-6), "train", [SMALL])


def test_a_folder_that_nobody_uses_makes_room(address: str, tmp_path: Path) -> None:
    folder = RemoteFolder(address, at(address, tmp_path))
    path = folder / "real"
    taken = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    assert make_room(tmp_path, 1.0, 0) <= 1_000_000_000 - taken
    make_room(tmp_path, 1.0, 1_000_000_000)
    assert path.exists()  # it is in use
    del folder
    assert make_room(tmp_path, 1.0, 1_000_000_000) == 1_000_000_000
    assert not path.exists()


@pytest.mark.parametrize("check", [check_folders, lambda settings: list_images(settings, "train")])
def test_a_class_folder_that_is_not_there_is_named_with_those_that_are(
    address: str, tmp_path: Path, check: Callable[[DataSettings], object]
) -> None:
    settings = at(address, tmp_path).model_copy(update={"classes": {"real": "real", "fake": "Fake"}})
    with pytest.raises(DataError, match=r"/train: no folder 'Fake' for class fake; there: fake, real; nearest: fake\."):
        check(settings)


def test_what_is_passed_over_is_the_same_at_an_address_and_on_a_disk(address: str, tmp_path: Path) -> None:
    names = ("real/a.jpg", "real/b.GIF", "real/@eaDir/c.jpg", "fake/d.JPG", "fake/Thumbs.db", "fake/far/e")
    beside = ("deepfake/f.jpg", "gan/v1/g.jpg", "__MACOSX/real/._a.jpg", "loose.jpg", "notes.txt", "test/real/h.jpg")
    for name in (*names, *beside):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_bytes(b"x")
    there = f"{address}/top"
    upload(tmp_path / "top", there)
    said, taken = [], []
    for top in (str(tmp_path / "top"), there):
        tuned, predicted = PassedOver(), PassedOver()
        settings = DataSettings(train=top, test=f"{top}/test", classes={"real": "real", "fake": ["fake", "gan/v1"]})
        taken.append([*list_images(settings, "train", tuned)["path"]])
        list(image_files([top], (), predicted))
        said.append([str(one).replace(top, "TOP") for one in (tuned, predicted)])
    assert taken[0] == taken[1] == ["fake/d.JPG", "gan/v1/g.jpg", "real/a.jpg"]
    assert said[0][0] == said[1][0]
    assert said[0][0] == (
        "4 files (1 .gif, 1 without ending, 1 beside the class folders, 1 .txt), "
        "3 folders (TOP/real/@eaDir, TOP/__MACOSX, TOP/deepfake)"
    )
    predicted_folders = "2 folders (TOP/__MACOSX, TOP/real/@eaDir)"
    assert [one[1].endswith(predicted_folders) for one in said] == [True, True]

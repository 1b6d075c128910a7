"""rfray.data.folders: which files of a folder are images, and which of them are drawn."""

import os
from pathlib import Path

import pytest

from rfray.data.catalog import scan_folder
from rfray.data.changed import changes
from rfray.data.folders import drawn, image_folder, list_images
from rfray.errors import DataError
from rfray.spec.sweep import DataSettings
from tests.data.small_folders import SIDE, settings, training, two_classes, write_image, write_images


def test_images_are_found_at_any_depth_and_with_any_case_of_ending(tmp_path: Path) -> None:
    names = ["a.jpg", "b.JPEG", "c.Png", "one/d.webp", "one/two/e.BMP", "one/two/f.tif", "three/g.TIFF"]
    for number, name in enumerate(names):
        write_image(tmp_path / "real" / name, number)
    write_image(tmp_path / "fake" / "x.png", 99)
    found = list_images(settings(tmp_path, train=str(tmp_path)), "train")
    assert found["path"].tolist() == ["fake/x.png"] + [f"real/{name}" for name in names]
    assert found["label"].tolist() == [1] + 7 * [0]
    assert found["subfolder"].tolist() == ["", "", "", "", "one", "one/two", "one/two", "three"]
    status = (tmp_path / "real/one/d.webp").stat()
    row = found.set_index("path").loc["real/one/d.webp"]
    assert (row["size"], row["modified"]) == (status.st_size, status.st_mtime_ns)


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("real/a.png", "fake/b.png", "real/.hidden.png", "real/.thumbnails/c.png", "fake/no_ending", "d.png"):
        write_image(tmp_path / name, 0)
    (tmp_path / "real/notes.txt").write_text("text")
    (tmp_path / "real/Thumbs.db").write_bytes(b"")
    write_image(tmp_path / "other/e.png", 0)
    (tmp_path / "fake/folder.png").mkdir()
    assert list_images(settings(tmp_path, train=str(tmp_path)), "train")["path"].tolist() == [
        "fake/b.png",
        "real/a.png",
    ]


def test_a_class_may_have_several_folders(tmp_path: Path) -> None:
    for name in ("photos/a.png", "gan/b.png", "diffusion/v1/c.png"):
        write_image(tmp_path / name, 0)
    classes = {"real": ["photos"], "fake": ["gan", "diffusion/v1"]}
    found = list_images(settings(tmp_path, train=str(tmp_path), classes=classes), "train")
    assert dict(zip(found["path"], found["label"], strict=True)) == {
        "diffusion/v1/c.png": 1,
        "gan/b.png": 1,
        "photos/a.png": 0,
    }
    assert (found["subfolder"] == "").all()


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere/a.png", 0)
    write_image(tmp_path / "train/fake/b.png", 1)
    (tmp_path / "train/real").mkdir()
    (tmp_path / "train/real/linked").symlink_to(tmp_path / "elsewhere")
    found = list_images(settings(tmp_path), "train")
    assert found["path"].tolist() == ["fake/b.png", "real/linked/a.png"]
    assert found["subfolder"].tolist() == ["", "linked"]


def test_a_folder_that_can_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(tmp_path)
    write_images(tmp_path / "train/real/secret", 3)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # tests may run as root, who may read everything
    with pytest.raises(DataError, match="secret: Permission denied"):
        training(settings(tmp_path), 0)


def test_of_a_larger_folder_the_same_images_are_drawn_in_every_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_images(tmp_path / place / "train/real", 20)
        write_images(tmp_path / place / "train/fake", 10, 500)
    given = settings(tmp_path / "here")
    listed = list_images(given, "train")
    twelve = drawn(listed, 12)
    assert twelve["label"].value_counts().to_dict() == {0: 8, 1: 4}
    assert drawn(list_images(settings(tmp_path / "there"), "train"), 12)["path"].tolist() == twelve["path"].tolist()
    assert set(twelve["path"]) < set(drawn(listed, 21)["path"])
    assert sorted(drawn(listed.drop(listed.index[listed["label"] == 1][1:]), 3)["label"]) == [0, 0, 1]  # of 20 to 1
    assert drawn(listed, None) is listed
    assert drawn(listed, 30) is listed
    scanned = scan_folder(given, "train", [SIDE], most=12)
    assert (scanned.images["path"].tolist(), scanned.there) == (twelve["path"].tolist(), 30)
    assert changes(given, "train", twelve, 12) == []
    assert len(changes(given, "train", twelve)) == 18


def test_demo_images_are_in_two_folders() -> None:
    given = DataSettings(source="demo")
    train, test = image_folder(given, "train"), image_folder(given, "test")
    assert (train.name, test.name) == ("train", "test")
    assert train.parent == test.parent

"""rfray.data.folders: which files of a folder are images, which are drawn, and what is new, gone and changed."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rfray.data import decoding
from rfray.data.catalog import scan_folder
from rfray.data.decoding import UnreadableImageError
from rfray.data.folders import changes, check_folders, drawn, image_files, image_folder, list_images, read_file
from rfray.data.listing import PassedOver
from rfray.errors import DataError, InputError
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


def test_changes_names_what_is_new_gone_and_changed(tmp_path: Path) -> None:
    two_classes(tmp_path, 4)
    given = settings(tmp_path)
    known = list_images(settings(tmp_path), "train")
    assert changes(given, "train", known) == []
    write_image(tmp_path / "train/real/new.png", 77)
    (tmp_path / "train/fake/001.png").unlink()
    touched = tmp_path / "train/real/002.png"
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    (tmp_path / "train/fake/003.png").write_text("text")
    assert changes(given, "train", known) == [
        "real/new.png is new",
        "fake/001.png is gone",
        "fake/003.png has changed",
        "real/002.png has changed",
    ]


def test_files_of_another_time_or_place_have_changed_where_their_digests_have(tmp_path: Path) -> None:
    two_classes(tmp_path, 4)
    (tmp_path / "train/real/bad.png").write_bytes(b"no image")
    scanned = scan_folder(settings(tmp_path, max_unreadable=0.5), "train", [SIDE])
    known = pd.concat([scanned.images, scanned.unreadable])
    shutil.copytree(tmp_path / "train", tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.png"):
        os.utime(file, ns=(0, 5))
    moved = settings(tmp_path, train=str(tmp_path / "moved"))
    assert changes(moved, "train", known) == []
    data = bytearray((tmp_path / "moved/fake/002.png").read_bytes())
    data[-20] ^= 1  # the same size, another time
    (tmp_path / "moved/fake/002.png").write_bytes(data)
    picture = (tmp_path / "train/real/001.png").read_bytes()
    (tmp_path / "moved/real/bad.png").write_bytes(picture)
    known.loc[known["path"] == "real/bad.png", "size"] = len(picture)  # as large, but an image now
    assert changes(moved, "train", known) == ["fake/002.png has changed", "real/bad.png has changed"]


def test_demo_images_are_in_two_folders() -> None:
    given = DataSettings(source="demo")
    train, test = image_folder(given, "train"), image_folder(given, "test")
    assert (train.name, test.name) == ("train", "test")
    assert train.parent == test.parent


# what the words of a command line mean, and why a file can't be read


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.PNG", "b/1.jpg", "a/3.webp", "a/notes.txt", ".hidden/4.jpg", "a/.5.jpg", "0.jpg", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def listed(*words: str, lines: str = "") -> list[str]:
    return list(image_files(words, lines.splitlines(keepends=True)))


def test_folders_files_patterns_and_lists_in_their_order(here: Path) -> None:
    assert listed("b", "a") == ["b/1.jpg", "b/2.PNG", "a/3.webp"]
    assert listed(".") == ["./0.jpg", "./odd[1].jpg", "./a/3.webp", "./b/1.jpg", "./b/2.PNG"]
    assert listed("*/*.jpg") == ["b/1.jpg"]
    assert listed("**/*.jpg") == ["0.jpg", "b/1.jpg", "odd[1].jpg"]
    assert listed("odd[1].jpg") == ["odd[1].jpg"]  # it is there, so it is no pattern
    assert listed("0.jpg", "-", lines="b/1.jpg\n\n no such file.jpg\r\n") == ["0.jpg", "b/1.jpg", " no such file.jpg"]
    assert listed("a/notes.txt", "gone.jpg") == ["a/notes.txt", "gone.jpg"]  # whoever reads them will say


def test_what_means_nothing_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    for words, reason in [
        (["empty"], "empty: no image file in it"),
        (["*.gif"], r"\*\.gif: no file of such a name"),
        (["https://example.org/x.jpg"], "https://example.org/x.jpg: allowed: .* s3://.*; download it first"),
    ]:
        with pytest.raises(InputError, match=reason):
            listed(*words)


def test_a_file_is_read_or_there_is_a_reason(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_file("b/1.jpg") == b"b/1.jpg"
    os.mkfifo("pipe.jpg")  # reading it would never end
    monkeypatch.setattr(decoding, "MAX_BYTES", 7)
    for name, reason in [
        ("gone.jpg", "No such file or directory"),
        ("b", "a folder"),
        ("pipe.jpg", "not a plain file"),
        ("a/3.webp", "0 MB are over 0 MB"),
        ("a\0b", "embedded null byte"),
    ]:
        with pytest.raises(UnreadableImageError, match=reason):
            read_file(name)


# one listing for all commands


def test_predict_lists_what_tune_lists_and_both_say_what_they_pass_over(tmp_path: Path) -> None:
    kept = ("real/a.jpg", "real/b.JFIF", "real/c.jpe", "fake/far/d.png")
    for name in (
        *kept,
        "real/e.heic",
        "real/f.GIF",
        "fake/g",
        "real/@eaDir/h.jpg",
        "fake/#Recycle/i.png",
        "other/j.jpg",
    ):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "data/fake/far").rename(tmp_path / "far")
    (tmp_path / "data/fake/far").symlink_to(tmp_path / "far")
    (tmp_path / "data/fake/later").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data/k.jpg").write_bytes(b"")
    tuned, predicted = PassedOver(), PassedOver()
    train = str(tmp_path / "data")
    rows = list_images(settings(tmp_path, train=train), "train", tuned)
    words = [f"{train}/real", f"{train}/fake"]
    assert (
        [*rows["path"]]
        == sorted(kept)
        == sorted(os.path.relpath(one, train) for one in image_files(words, (), predicted))
    )
    assert predicted.endings == {".heic": 1, ".gif": 1, "without ending": 1}
    assert tuned.endings == {**predicted.endings, "beside the class folders": 1}
    assert [os.path.basename(one) for one in predicted.folders] == ["@eaDir", "#Recycle"]
    assert list(tuned.folders) == [*predicted.folders, f"{train}/other"]
    assert tuned.links == predicted.links == [f"{train}/fake/later"]
    assert str(tuned).startswith("4 files (1 ")
    assert ", 3 folders (" in str(tuned)
    assert str(tuned).endswith(f", 1 dangling link ({train}/fake/later)")


def test_a_pattern_goes_by_the_same_rule_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "a/@eaDir/y.png", "elsewhere/z.png"):
        write_image(tmp_path / name, 0)
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    passed = PassedOver()
    assert list(image_files(["a/**/*.png"], (), passed)) == ["a/link/z.png", "a/x.png"]
    assert str(passed).startswith("2 folders (a/@eaDir, a/again and a are the same folder; its images would be read")
    assert list(image_files(["a/@eaDir/*.png"], ())) == ["a/@eaDir/y.png"]  # it is named


def test_a_folder_that_links_to_itself_is_read_once_by_predict(tmp_path: Path) -> None:
    write_image(tmp_path / "a/x.png", 0)
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    passed = PassedOver()
    assert list(image_files([f"{tmp_path}/a"], (), passed)) == [f"{tmp_path}/a/x.png"]
    assert "a/again" in str(passed)
    assert "same folder" in str(passed)


def test_a_class_folder_without_an_image_is_said_and_a_test_folder_inside_is_not(tmp_path: Path) -> None:
    two_classes(tmp_path, 1)
    (tmp_path / "train/gan").mkdir()
    write_images(tmp_path / "train/test/real", 1)
    given = settings(tmp_path, test=f"{tmp_path}/train/test", classes={"real": "real", "fake": ["fake", "gan"]})
    passed = PassedOver()
    list_images(given, "train", passed)
    assert str(passed) == f"1 folder ({tmp_path}/train/gan without an image)"


def test_folders_that_can_not_be_used_are_said_at_once(tmp_path: Path) -> None:
    two_classes(tmp_path, 1)
    check_folders(settings(tmp_path))
    for given, said in [
        ({"train": "/no/such"}, "/no/such: no such folder"),
        ({"classes": {"real": "real", "fake": "faek"}}, "no folder 'faek' for class fake; there: fake, real"),
        ({"val": str(tmp_path / "val")}, "val: no such folder"),
        ({"val": str(tmp_path / "train")}, "share images"),
    ]:
        with pytest.raises(DataError, match=said):
            check_folders(settings(tmp_path, **given))
    (tmp_path / "train/fake/000.png").rename(tmp_path / "train/fake/000.txt")
    with pytest.raises(DataError, match="class fake has no image in fake"):
        check_folders(settings(tmp_path))

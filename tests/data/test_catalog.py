"""rfray.data.catalog: what can't be used is refused; the pixels, labels and ids of a part."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.catalog import decode_images, divide, load_images, part_digest, scan_folder
from rfray.errors import DataError
from rfray.spec.sweep import DataSettings
from tests.data.small_folders import (
    LARGER,
    NO_PAIRS,
    SIDE,
    counts,
    settings,
    training,
    two_classes,
    write_image,
    write_images,
)

# folders -> table


# what can't be used


def without_data_folder(folder: Path) -> DataSettings:
    return settings(folder)


def without_a_class_folder(folder: Path) -> DataSettings:
    write_images(folder / "train/Real_faces", 3)
    write_images(folder / "train/fake", 3, 500)
    return settings(folder)


def with_an_empty_class(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "train/empty/below").mkdir(parents=True)
    return settings(folder, classes={"real": "empty", "fake": "fake"})


def with_only_texts_in_a_class(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "train/texts").mkdir()
    (folder / "train/texts/a.txt").write_text("a")
    return settings(folder, classes={"real": "real", "fake": "texts"})


def with_one_folder_for_both_classes(folder: Path) -> DataSettings:
    two_classes(folder)
    return settings(folder, classes={"real": "real", "fake": "real"})


def with_a_folder_twice_in_a_class(folder: Path) -> DataSettings:
    two_classes(folder)
    return settings(folder, classes={"real": ["real", "./real"], "fake": "fake"})


def with_nested_classes(folder: Path) -> DataSettings:
    two_classes(folder)
    write_images(folder / "train/real/made", 3, 900)
    return settings(folder, classes={"real": "real", "fake": "real/made"})


def with_the_data_folder_itself_as_a_class(folder: Path) -> DataSettings:
    two_classes(folder)
    return settings(folder, classes={"real": ".", "fake": "fake"})


def with_linked_classes(folder: Path) -> DataSettings:
    write_images(folder / "train/real", 10)
    (folder / "train/fake").symlink_to(folder / "train/real")
    return settings(folder)


def with_a_linked_circle(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "train/fake/again").symlink_to(folder / "train/fake")
    return settings(folder)


def with_test_the_same_as_train(folder: Path) -> DataSettings:
    two_classes(folder)
    return settings(folder, test=str(folder / "train/../train"))


def with_test_linked_to_train(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "test").symlink_to(folder / "train")
    return settings(folder)


def with_a_class_of_test_linked_to_train(folder: Path) -> DataSettings:
    two_classes(folder)
    write_images(folder / "test/real", 5, 900)
    (folder / "test/fake").symlink_to(folder / "train/fake")
    return settings(folder)


def with_test_inside_a_class(folder: Path) -> DataSettings:
    two_classes(folder)
    write_images(folder / "train/real/test/real", 5, 900)
    write_images(folder / "train/real/test/fake", 5, 950)
    return settings(folder, test=str(folder / "train/real/test"))


def with_val_inside_train(folder: Path) -> DataSettings:
    two_classes(folder)
    write_images(folder / "train/real/val/real", 5, 900)
    write_images(folder / "train/real/val/fake", 5, 950)
    return settings(folder, val=str(folder / "train/real/val"))


def with_val_linked_to_test(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "val").symlink_to(folder / "test")
    return settings(folder, val=str(folder / "val"))


def with_one_image_a_class(folder: Path) -> DataSettings:
    two_classes(folder, 1)
    return settings(folder)


def with_one_image_left_after_the_test_part(folder: Path) -> DataSettings:
    two_classes(folder, 2)
    return settings(folder, test=0.3)


def with_copies_of_one_image_in_a_class(folder: Path) -> DataSettings:
    write_images(folder / "train/real", 10)
    for number in range(10):
        write_image(folder / f"train/fake/{number}.png", 500)
    return settings(folder)


def with_two_percent_unreadable(folder: Path) -> DataSettings:
    two_classes(folder, 50)
    (folder / "train/real/003.png").write_text("hello")
    (folder / "train/fake/007.png").write_bytes(b"")
    return settings(folder)


def with_a_dangling_link(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "train/real/link.png").symlink_to(folder / "nowhere.png")
    return settings(folder)


def with_nothing_readable_in_a_class(folder: Path) -> DataSettings:
    write_images(folder / "train/real", 10)
    (folder / "train/fake").mkdir()
    (folder / "train/fake/a.png").write_text("hello")
    return settings(folder, max_unreadable=0.5)


def with_a_name_that_is_not_utf8(folder: Path) -> DataSettings:
    two_classes(folder)
    (folder / "train/real/000.png").rename(os.fsdecode(os.fsencode(folder / "train/real/") + b"/gr\xfc\xdfe.png"))
    return settings(folder)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (without_data_folder, ["train: no such folder"]),
        (without_a_class_folder, ["no folder 'real' for class real", "there: Real_faces, fake", "data.classes"]),
        (with_an_empty_class, ["class real has no image in empty", ".jpg, .jpeg, .png, .webp, .bmp, .tif"]),
        (with_only_texts_in_a_class, ["class fake has no image in texts"]),
        (with_one_folder_for_both_classes, ["real (class fake) and", "real (class real) are the same folder"]),
        (with_a_folder_twice_in_a_class, ["real (class real) are the same folder"]),
        (with_nested_classes, ["real/made (class fake)", "real/made (class real) are the same folder"]),
        (with_the_data_folder_itself_as_a_class, ["fake (class fake)", "fake (class real) are the same folder"]),
        (with_linked_classes, ["fake (class fake) and", "real (class real) are the same folder"]),
        (with_a_linked_circle, ["fake/again (class fake) and", "fake (class fake) are the same folder"]),
        (with_test_the_same_as_train, ["data.train", "data.test", "share images", "train/real"]),
        (with_test_linked_to_train, ["data.train", "data.test", "share images"]),
        (with_a_class_of_test_linked_to_train, ["data.train", "data.test", "share images", "train/fake"]),
        (with_test_inside_a_class, ["data.train", "data.test", "share images", "train/real/test/real"]),
        (with_val_inside_train, ["data.train", "data.val", "share images", "train/real/val/real"]),
        (with_val_linked_to_test, ["data.val", "data.test", "share images"]),
        (with_one_image_a_class, ["val 0.15: class real has 1 images", "too few"]),
        (with_one_image_left_after_the_test_part, ["val 0.15: class real has 1 images", "too few"]),
        (with_copies_of_one_image_in_a_class, ["class fake has 10 images in 1 groups", "same picture"]),
        (
            with_two_percent_unreadable,
            ["2 of 100 files", "data.max_unreadable (1 %)", "real/003.png: not an image", "fake/007.png: not an image"],
        ),
        (with_a_dangling_link, ["1 of 21 files", "real/link.png: No such file"]),
        (with_nothing_readable_in_a_class, ["no readable image of class fake"]),
        (with_a_name_that_is_not_utf8, ["gr\\udcfc\\udcdfe.png", "not UTF-8"]),
    ],
)
def test_what_can_not_be_used_is_said(
    tmp_path: Path, broken: Callable[[Path], DataSettings], expected: list[str]
) -> None:
    with pytest.raises(DataError) as raised:
        training(broken(tmp_path), 0)
    for text in expected:
        assert text in str(raised.value)
    str(raised.value).encode()  # can be printed


def test_the_test_folder_is_checked_as_the_training_folder_is(tmp_path: Path) -> None:
    two_classes(tmp_path)
    with pytest.raises(DataError, match="test: no such folder"):
        scan_folder(settings(tmp_path), "test", [SIDE])
    write_images(tmp_path / "test/real", 3, 900)
    with pytest.raises(DataError, match="no folder 'fake' for class fake"):
        scan_folder(settings(tmp_path), "test", [SIDE])
    (tmp_path / "test/fake").symlink_to(tmp_path / "train/fake")
    with pytest.raises(DataError, match="share images"):
        scan_folder(settings(tmp_path), "test", [SIDE])


def test_one_percent_unreadable_is_left_out_and_listed(tmp_path: Path) -> None:
    two_classes(tmp_path, 50)
    bad = tmp_path / "train/fake/007.png"
    bad.write_text("hello")
    scanned = scan_folder(settings(tmp_path), "train", [SIDE])
    assert scanned.unreadable.to_dict("records") == [
        {
            "path": "fake/007.png",
            "folder": "train",
            "size": 5,
            "modified": bad.stat().st_mtime_ns,
            "reason": "not an image of a known format",
        }
    ]
    assert len(scanned.images) == 99
    assert "fake/007.png" not in set(scanned.images["path"])
    assert counts(training(settings(tmp_path))) == {("train", 0): 42, ("train", 1): 42, ("val", 0): 8, ("val", 1): 7}


# train, val and test


def test_the_test_folder_becomes_test(tmp_path: Path) -> None:
    two_classes(tmp_path)
    write_images(tmp_path / "test/real", 5, 900)
    write_images(tmp_path / "test/fake", 4, 950)
    assert counts(scan_folder(settings(tmp_path), "test", [SIDE]).images.assign(part="test")) == {
        ("test", 0): 5,
        ("test", 1): 4,
    }


def test_training_does_not_need_the_test_folder(tmp_path: Path) -> None:
    two_classes(tmp_path)
    assert not (tmp_path / "test").exists()
    assert set(training(settings(tmp_path), 0)["part"]) == {"train", "val"}


# what has changed since


# images of a part


def colours(images: np.ndarray) -> list[int]:
    """The numbers that `write_image` made images of."""
    return [int(pixels[8, 8, 0]) + 256 * int(pixels[8, 8, 1]) for pixels in images]


def number_of(path: str) -> int:
    return int(Path(path).stem) + (500 if path.startswith("fake/") else 0)


@pytest.mark.parametrize("folders", [["train"], ["train", "test"], ["train", "val", "test"]])
def test_each_part_has_its_own_pixels_labels_and_ids(tmp_path: Path, folders: list[str]) -> None:
    """Also where the same paths are in several folders."""
    two_classes(tmp_path, 100)
    (tmp_path / "train/real/041.png").write_text("unreadable")
    (tmp_path / "train/fake/000.png").write_text("unreadable")
    first = {"train": 0, "val": 100, "test": 200}
    for folder in folders[1:]:
        write_images(tmp_path / folder / "real", 9, first[folder])
        write_images(tmp_path / folder / "fake", 5, first[folder] + 500)
    val, test = (str(tmp_path / part) if part in folders else 0.1 for part in ("val", "test"))
    given = settings(tmp_path, val=val, test=test)
    scanned = {folder: scan_folder(given, folder, [SIDE]).images for folder in folders}
    tuned = pd.concat([scanned[folder] for folder in given.training_folders], ignore_index=True)
    apart = [scanned["test"].assign(part="test")] if "test" in folders else []
    catalog = pd.concat([divide(tuned, given, 0, NO_PAIRS), *apart], ignore_index=True)
    files = {path: path.stat().st_ino for path in (tmp_path / "cache").glob("*.u8")}
    for part in ("train", "val", "test"):
        images = load_images(catalog, given, part, SIDE)
        expected = catalog[catalog["part"] == part]
        assert len(images) == len(expected) > 0
        assert images.ids.tolist() == expected["path"].tolist()
        assert images.labels.tolist() == [int(path.startswith("fake/")) for path in images.ids]
        numbers = [number_of(path) + (first[part] if part in folders else 0) for path in images.ids]
        assert colours(images.batch(np.arange(len(images)))) == numbers
    # one file a folder, written while its images were read and not again
    assert {path: path.stat().st_ino for path in (tmp_path / "cache").glob("*.u8")} == files
    assert len(files) == len(folders)


def test_images_of_another_size_are_made_when_asked_for(tmp_path: Path) -> None:
    two_classes(tmp_path)
    given = settings(tmp_path)
    catalog = training(given, 0)
    images = load_images(catalog, given, "train", LARGER)
    assert images.batch(np.arange(len(images))).shape == (len(images), 24, 24, 3)
    assert colours(images.batch(np.arange(len(images)))) == [number_of(path) for path in images.ids]


def test_an_image_that_is_not_what_the_catalog_says_is_an_error(tmp_path: Path) -> None:
    two_classes(tmp_path)
    given = settings(tmp_path)
    catalog = training(given, 0)
    write_image(tmp_path / "train/real/004.png", 444)
    with pytest.raises(DataError, match=r"real/004\.png has changed since the sweep began"):
        load_images(catalog, given, "train", LARGER)


def test_part_digest_changes_with_path_label_and_content() -> None:
    catalog = pd.DataFrame(
        {
            "path": ["a", "b", "c"],
            "label": [0, 1, 0],
            "digest": ["1", "2", "3"],
            "part": ["test", "test", "train"],
            "modified": [1, 2, 3],
        }
    )
    digest = part_digest(catalog, "test")
    assert len(digest) == 16
    assert part_digest(catalog.assign(modified=9), "test") == digest
    assert part_digest(catalog.assign(digest=["1", "2", "other"]), "test") == digest  # of another part
    others = [
        catalog.assign(path=["a", "B", "c"]),
        catalog.assign(label=[0, 0, 0]),
        catalog.assign(digest=["1", "9", "3"]),
        catalog.assign(part="test"),
        catalog.iloc[[1, 0, 2]],
    ]
    assert len({digest, *(part_digest(other, "test") for other in others)}) == 6


# what belongs together


def test_a_few_images_are_decoded_by_their_ids(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        write_images(tmp_path / folder / "real", 3, first=10)
        write_images(tmp_path / folder / "fake", 3, first=20)
    given = settings(tmp_path)
    catalog = scan_folder(given, "test", [SIDE]).images.assign(part="test")
    for pixels in (tmp_path / "cache").glob("*.u8"):
        pixels.unlink()
    images = decode_images(catalog, given, "test", SIDE, ["real/002.png", "fake/000.png"])
    assert images.ids.tolist() == ["real/002.png", "fake/000.png"]
    assert images.labels.tolist() == [0, 1]
    assert images.batch(np.array([0, 1]))[:, 8, 8].tolist() == [[12, 0, 7], [20, 0, 7]]
    assert not list((tmp_path / "cache").glob("*.u8"))  # the others were not decoded
    (tmp_path / "test/real/002.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"real/002\.png has changed"):
        images.batch(np.array([0]))

"""rfray.data.catalog: what can't be used is refused; the pixels, labels and ids of a part; how parts are divided."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.catalog import (
    _cut,
    decode_images,
    divide,
    fold_of,
    group_ids,
    identities,
    load_images,
    part_digest,
    scan_folder,
)
from rfray.errors import DataError
from rfray.spec.sweep import DataSettings
from rfray.store.run_dir import CATALOG
from tests.data.small_folders import (
    LARGER,
    NO_PAIRS,
    SIDE,
    counts,
    parts_of,
    settings,
    training,
    two_classes,
    write_groups,
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
        (
            with_an_empty_class,
            ["class real has no image in empty", ".jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .tif"],
        ),
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


# what belongs together stays in one part; shares, folds


def test_the_split_is_stratified(tmp_path: Path) -> None:
    write_images(tmp_path / "train/real", 100)
    write_images(tmp_path / "train/fake", 50, 500)
    catalog = training(settings(tmp_path), 0)
    # 0.15 of 100 is 15; 0.15 of 50 is 7.5, rounded to the even 8
    assert counts(catalog) == {("train", 0): 85, ("train", 1): 42, ("val", 0): 15, ("val", 1): 8}
    assert set(CATALOG) <= set(catalog.columns)
    assert catalog["path"].is_monotonic_increasing
    path, digest = catalog.loc[77, ["path", "digest"]]
    assert digest == hashlib.sha256((tmp_path / "train" / path).read_bytes()).hexdigest()


def test_the_val_images_has_no_more_images_than_are_enough(tmp_path: Path) -> None:
    write_images(tmp_path / "train/real", 40)
    write_images(tmp_path / "train/fake", 20, 500)
    few, all_of_them = (training(settings(tmp_path, val=0.3), most=most) for most in (6, None))
    assert counts(few) == {("train", 0): 36, ("train", 1): 18, ("val", 0): 4, ("val", 1): 2}
    assert counts(all_of_them) == {("train", 0): 28, ("train", 1): 14, ("val", 0): 12, ("val", 1): 6}


def test_groups_too_large_for_so_few_images_are_chosen_by_the_fraction(tmp_path: Path) -> None:
    for name, first in (("real", 0), ("fake", 500)):
        write_groups(tmp_path / f"train/{name}", [f"{name}{number}" for number in range(4)], 5, first)
    catalog = training(settings(tmp_path, split_by="group", val=0.25), most=6)
    assert counts(catalog) == {("train", 0): 15, ("train", 1): 15, ("val", 0): 5, ("val", 1): 5}


def test_a_small_class_has_at_least_one_image_on_each_side(tmp_path: Path) -> None:
    write_images(tmp_path / "train/real", 2)
    write_images(tmp_path / "train/fake", 20, 500)
    catalog = training(settings(tmp_path), 0)
    assert counts(catalog) == {("train", 0): 1, ("train", 1): 17, ("val", 0): 1, ("val", 1): 3}


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    two_classes(tmp_path, 40)
    first, again, other = (training(settings(tmp_path), seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert counts(first) == counts(other)
    assert (first["part"] != other["part"]).any()


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    for place in ("here", "there"):
        two_classes(tmp_path / place, 40)
    here, there = (training(settings(tmp_path / place), 0) for place in ("here", "there"))
    assert here["part"].equals(there["part"])


def test_a_share_cuts_the_test_part_out_of_the_training_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "train/real", 100)
    write_images(tmp_path / "train/fake", 50, 500)
    catalog = training(settings(tmp_path, test=0.2), 0)
    # 20 and 10 for test; of the 80 and 40 that are left 0.15 for val: 12 and 6
    assert counts(catalog) == {
        ("train", 0): 68,
        ("train", 1): 34,
        ("test", 0): 20,
        ("test", 1): 10,
        ("val", 0): 12,
        ("val", 1): 6,
    }
    assert catalog["path"].is_unique
    assert len(catalog) == 150


@pytest.mark.parametrize("split_by", ["image", "group", "auto"])
def test_identical_files_stay_on_one_side(tmp_path: Path, split_by: str) -> None:
    for number in range(30):  # each image twice in its class, and ten of them in the other class too
        for copy in ("a", "b"):
            write_image(tmp_path / f"train/real/{number}{copy}.png", number)
            write_image(tmp_path / f"train/fake/{number}{copy}.png", number + (500 if number >= 10 else 0))
    given = settings(tmp_path, split_by=split_by, val=0.4)
    catalog = training(given, 3)
    assert catalog["digest"].nunique() == 50
    assert (parts_of(catalog, "digest") == 1).all()
    both = catalog.groupby("digest").filter(lambda same: same["label"].nunique() == 2)
    assert set(both["part"]) == {"train", "val"}  # the images that are in both classes are divided, whole


def test_groups_stay_on_one_side_where_there_are_enough(tmp_path: Path) -> None:
    names = [f"person{number}" for number in range(10)]
    write_groups(tmp_path / "train/real", names, 4, first=0)
    write_groups(tmp_path / "train/fake", names, 4, first=500)
    catalogs = {
        split_by: training(settings(tmp_path, split_by=split_by, val=0.3), 0) for split_by in ("auto", "group", "image")
    }
    assert (parts_of(catalogs["group"], "subfolder") == 1).all()  # also across the classes: it is the same person
    assert catalogs["auto"].equals(catalogs["group"])
    assert parts_of(catalogs["image"], "subfolder").max() == 2
    assert counts(catalogs["group"]) == {("train", 0): 28, ("train", 1): 28, ("val", 0): 12, ("val", 1): 12}


def test_auto_needs_ten_groups_in_every_class(tmp_path: Path) -> None:
    write_groups(tmp_path / "train/real", [f"real{number}" for number in range(9)], 4, first=0)
    write_groups(tmp_path / "train/fake", [f"fake{number}" for number in range(12)], 4, first=500)
    given = [settings(tmp_path, split_by=split_by, val=0.3) for split_by in ("auto", "image", "group")]
    auto, image, group = (training(one, 0) for one in given)
    assert auto.equals(image)
    assert parts_of(auto, "subfolder").max() == 2
    assert (parts_of(group, "subfolder") == 1).all()


def test_groups_that_share_a_file_stay_together(tmp_path: Path) -> None:
    names = [f"g{number}" for number in range(12)]
    write_groups(tmp_path / "train/real", names, 3, first=0)
    write_groups(tmp_path / "train/fake", [f"f{number}" for number in range(12)], 3, first=500)
    # a chain: g0 - g1 - g2 share files by pairs, and g2 shares one with f0
    for one, other in (("real/g0", "real/g1"), ("real/g1", "real/g2"), ("real/g2", "fake/f0")):
        (tmp_path / f"train/{other}/{one[-2:]}.png").write_bytes((tmp_path / f"train/{one}/000.png").read_bytes())
    sides = set()
    for seed in range(12):
        catalog = training(settings(tmp_path, val=0.4), seed)
        assert (parts_of(catalog, "subfolder") == 1).all()
        chain = catalog[catalog["subfolder"].isin(["g0", "g1", "g2", "f0"])]
        assert chain["part"].nunique() == 1
        sides.add(chain["part"].iloc[0])
    assert sides == {"train", "val"}


def test_groups_too_large_for_the_share_are_an_error_that_says_so(tmp_path: Path) -> None:
    write_groups(tmp_path / "train/real", ["a", "b"], 10, first=0)
    write_groups(tmp_path / "train/fake", ["c", "d"], 10, first=500)
    with pytest.raises(DataError, match=r"class real has 20 images in 2 groups that stay together.*split_by: image"):
        training(settings(tmp_path, split_by="group"), 0)


def test_pictures_that_look_alike_stay_on_one_side(tmp_path: Path) -> None:
    two_classes(tmp_path, 40)
    pairs = np.array([[number, number + 1] for number in range(0, 80, 2)])  # by position: two by two
    sides = [training(settings(tmp_path, val=0.4), seed, pairs) for seed in range(5)]
    for catalog in sides:
        assert (catalog["part"][::2].to_numpy() == catalog["part"][1::2].to_numpy()).all()
        assert (parts_of(catalog, "group_id") == 1).all()
        assert catalog["group_id"].nunique() == 40


@pytest.mark.parametrize("pattern", [r"id\d+", r"(id\d+)_\d"])
def test_identities_stay_on_one_side_also_across_the_classes(tmp_path: Path, pattern: str) -> None:
    for number in range(60):
        write_image(tmp_path / f"train/real/id{number // 4}_{number % 4}.png", number)
        write_image(tmp_path / f"train/fake/id{number // 4}_{number % 4}.png", 500 + number)
        write_image(tmp_path / f"train/fake/nobody{number}.png", 900 + number)
    given = settings(tmp_path, group_pattern=pattern, val=0.4)
    catalog = training(given, 1)
    known = catalog[catalog["path"].str.contains("id")]
    identity = known["path"].str.extract(r"(id\d+)")[0]
    assert (known.groupby(identity)["part"].nunique() == 1).all()
    assert known.groupby(identity)["group_id"].nunique().max() == 1
    assert catalog["group_id"].nunique() == 15 + 60  # who matches nothing stands alone


def test_an_identity_that_stands_twice_in_a_path_is_one() -> None:
    found = identities(pd.Series(["real/id3/id3_x.png", "fake/id10_id3.png"]), r"id\d+")
    assert found.tolist() == [["id3"], ["id10", "id3"]]


def test_a_class_without_images_is_told_before_anything_is_cut() -> None:
    with pytest.raises(DataError, match="class real has 0 images in 0 groups"):
        _cut(np.ones(20, int), np.arange(20), 0.15, 0, "data.val", "")


def test_an_image_of_two_identities_links_all_images_of_both() -> None:
    names = ["id1_0", "id1_1", "id2_0", "id1_id2_0", "id3_0", "id3_1", "x_0", "x_1"]
    images = pd.DataFrame({"path": names, "subfolder": "", "label": 0, "digest": names}, index=range(5, 13))
    given = DataSettings(train="/x", test="/y", group_pattern=r"id(\d*)_")
    one = group_ids(images, given, NO_PAIRS)
    assert len(set(one[:4])) == 1
    assert one[4] == one[5]
    assert len(set(one)) == 4  # what matches nothing stands alone
    first = group_ids(images, given.model_copy(update={"group_pattern": r"^id(\d+)_"}), NO_PAIRS)
    assert len(set(first)) == 5  # id1, id2, id3 and both x


@pytest.mark.parametrize(("videos", "share"), [(2, "0.5"), (6, "0.167")])
def test_where_no_video_is_small_enough_the_share_that_works_is_named(videos: int, share: str) -> None:
    labels = np.repeat([0, 1], videos * 10)
    images = pd.DataFrame({"path": map(str, range(len(labels))), "label": labels, "subfolder": "", "folder": "train"})
    images["digest"] = images["path"]
    alike = np.array([(one, one + 1) for one in range(len(labels)) if (one + 1) % 10])
    given = DataSettings(train="/x", test="/y", val=0.05)
    with pytest.raises(DataError, match=rf"look-alikes.* set data.val: {share}$"):  # data.split_by would change nothing
        divide(images, given, 0, alike)
    assert set(divide(images, given.model_copy(update={"val": float(share)}), 0, alike)["part"]) == {"train", "val"}


def catalog_of(groups: list[int], labels: list[int]) -> pd.DataFrame:
    count = len(labels)
    parts = ["train"] * (count - 4) + ["val"] * 3 + ["test"]
    paths = [f"{number:03d}.png" for number in range(count)]
    return pd.DataFrame({"path": paths, "label": labels, "group_id": groups, "part": parts})


def test_folds_cover_train_and_val_once_and_keep_groups_and_classes_together() -> None:
    labels = [0, 1] * 12
    groups = [0, 0, 0, 0, *range(1, 21)]  # the first four belong together
    catalog = catalog_of(groups, labels)
    judged = []
    for number in (1, 2, 3):
        fold = fold_of(catalog, (number, 3), seed=5)
        assert fold.drop(columns="part").equals(catalog.drop(columns="part"))
        assert fold["part"].tolist()[-1] == "test"
        val = fold[fold["part"] == "val"]
        assert set(val["label"]) == {0, 1}
        assert not set(val["group_id"]) & set(fold.loc[fold["part"] == "train", "group_id"])
        judged += val["path"].tolist()
    assert sorted(judged) == catalog["path"].tolist()[:-1]
    again = fold_of(catalog, (3, 3), seed=5)
    assert again.loc[again["part"] == "val", "path"].tolist() == judged[-len(val) :]


def test_too_few_images_for_so_many_folds_are_an_error() -> None:
    labels = [0] * 10 + [1] * 14
    groups = [*range(10), *[99] * 14]  # all fakes belong together
    with pytest.raises(DataError, match=r"data\.folds 2: .* class fake has 1 groups .*fewer folds"):
        fold_of(catalog_of(groups, labels), (1, 2), seed=0)
    with pytest.raises(DataError, match=r"data\.folds 40: "):
        fold_of(catalog_of(list(range(24)), labels), (1, 40), seed=0)

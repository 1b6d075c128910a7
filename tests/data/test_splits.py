"""rfray.data.catalog: what belongs together stays in one part; shares, folds."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.catalog import COLUMNS, fold_of
from rfray.errors import DataError
from tests.data.small_folders import (
    counts,
    parts_of,
    settings,
    training,
    two_classes,
    write_groups,
    write_image,
    write_images,
)


def test_the_split_is_stratified(tmp_path: Path) -> None:
    write_images(tmp_path / "train/real", 100)
    write_images(tmp_path / "train/fake", 50, 500)
    catalog = training(settings(tmp_path), 0)
    # 0.15 of 100 is 15; 0.15 of 50 is 7.5, rounded to the even 8
    assert counts(catalog) == {("train", 0): 85, ("train", 1): 42, ("val", 0): 15, ("val", 1): 8}
    assert set(COLUMNS) <= set(catalog.columns)
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

"""Where images come from, by their paths."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from rfray.data.demo import UPSAMPLING
from rfray.data.folders import list_images
from rfray.data.sources import check_source_column, matched, source_counts, sources
from rfray.errors import DataError
from rfray.spec.sweep import DataSettings


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/(easy|hard)_", "fake/a/easy_1.jpg", "easy"),
        ("/(easy|hard)_", "real/a/1.jpg", ""),
        ("easy|hard", "fake/a/hard_1.jpg", "hard"),
        ("/(easy)?(_|1)", "fake/a/1.jpg", ""),  # the brackets took part in nothing
        ("^[^/]*/([^/]*)/", "fake/a/1.jpg", "a"),
    ],
)
def test_what_a_pattern_finds_in_a_path(pattern: str, path: str, expected: str) -> None:
    assert matched(pattern, path) == expected


def table(**paths: list[str]) -> pd.DataFrame:
    rows = [(path, int(name == "fake"), str(Path(path).parent)) for name in ("real", "fake") for path in paths[name]]
    return pd.DataFrame(rows, columns=["path", "label", "subfolder"]).replace({"subfolder": {".": ""}})


def given(**settings: object) -> DataSettings:
    return DataSettings.model_validate({"train": "/x", "test": "/y", **settings})


def test_by_default_the_subfolder_where_each_class_has_some() -> None:
    both = table(real=["ffhq/1.jpg", "2.jpg"], fake=["sd/a/1.jpg"])
    assert sources(both, given()).tolist() == ["ffhq", "", "sd/a"]
    fakes = table(real=["1.jpg", "2.jpg"], fake=["sd/1.jpg"])
    assert sources(fakes, given()).tolist() == ["", "", ""]
    assert sources(fakes, given(group="subfolder")).tolist() == ["", "", "sd"]


def test_by_default_the_class_folder_where_a_class_has_several() -> None:
    images = pd.DataFrame(
        [("ffhq/1.jpg", 0, ""), ("lfw/a/1.jpg", 0, "a"), ("gan/sd/1.jpg", 1, ""), ("x/1.jpg", 1, "")],
        columns=["path", "label", "subfolder"],
    )
    both = given(classes={"real": ["ffhq", "lfw"], "fake": ["gan/sd", "x"]})
    assert sources(images, both).tolist() == ["ffhq", "lfw/a", "gan/sd", "x"]
    one = given(classes={"real": "photos", "fake": ["gan/sd", "x"]})
    assert sources(images.assign(subfolder=["", "a", "", ""]), one).tolist() == ["", "a", "gan/sd", "x"]
    assert sources(images.assign(subfolder=""), one).tolist() == ["", "", "gan/sd", "x"]
    assert sources(images, given(group="subfolder", classes={"real": "r", "fake": ["gan/sd", "x"]})).tolist() == [
        *("", "a"),
        *("", ""),
    ]


def test_a_pattern_names_sources_by_its_first_match() -> None:
    images = table(real=["ffhq_1.jpg", "1.jpg"], fake=["sd_2_gan_1.jpg"])
    assert sources(images, given(group=r"([a-z]+)_\d")).tolist() == ["ffhq", "", "sd"]


def test_fakes_of_the_built_in_data_are_told_apart_by_how_they_were_scaled_up(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path))
    data = DataSettings(source="demo")
    images = list_images(data, "train")
    images["source"] = sources(images, data)
    # 14 tiles of 34 crops each, the methods in turn: 9, 9, 8 and 8 of a tile
    fakes = images.loc[images["label"] == 1, "source"].value_counts()
    assert fakes.to_dict() == dict(zip(UPSAMPLING, (126, 126, 112, 112), strict=True))
    assert (images.loc[images["label"] == 0, "source"] == "").all()
    said = "fake: nearest 126, bilinear 126, bicubic 112, transposed convolution 112; real: none is known"
    assert source_counts(images) == said


def test_sources_are_counted_the_largest_first_and_no_more_than_five_are_named() -> None:
    images = table(real=["a/1.jpg"], fake=[f"{name}/{n}.jpg" for name in "gfedcba" for n in range(1 + (name == "d"))])
    assert source_counts(images.assign(source="")) == ""
    said = source_counts(images.assign(source=images["subfolder"]))
    assert said == "fake: d 2, g 1, f 1, e 1, c 1, … and 2 more; real: a 1"


def test_a_column_of_the_table_names_sources(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("path,generator\nfake/1.jpg,sd\nreal/1.jpg,\n")
    images = table(real=["real/1.jpg"], fake=["fake/2.jpg", "fake/1.jpg"]).assign(folder="train")
    known = given(group={"column": "generator"}, attributes=str(file))
    assert sources(images, known).tolist() == ["", "", "sd"]
    check_source_column(known)
    with pytest.raises(DataError, match=r"data\.group: .*table\.csv has no column 'generators'; allowed: generator"):
        check_source_column(given(group={"column": "generators"}, attributes=str(file)))
    with pytest.raises(ValidationError, match=r"nothing without data\.attributes, the table that has it"):
        given(group={"column": "generator"})

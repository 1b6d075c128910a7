"""rfray.data.attributes: what is a table of attributes, which images it is about, and what its values are."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rfray.data.attributes import (
    attributes_of,
    categories,
    check_attributes,
    in_several_folders,
    read_attributes,
    unmatched,
)
from rfray.errors import DataError
from rfray.store.csv_files import csv_text
from tests.data.small_folders import settings

CSV = "path,skin,age\nreal/1.png,dark,20\nreal/2.png, light ,31\nfake/1.png,,NA\n"
EXPECTED = {"path": ["real/1.png", "real/2.png", "fake/1.png"], "skin": ["dark", "light", ""], "age": ["20", "31", ""]}


def written(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CSV, "table.csv"),
        ("\ufeff" + CSV.replace("\n", "\r\n"), "table.CSV"),  # as Excel writes it
        (CSV.replace(",", ";"), "table.csv"),
        (CSV.replace(",", "\t"), "table.tsv"),
        (CSV.replace("\n", ",\n"), "table.csv"),  # a last column without a name or a value
    ],
)
def test_a_table_as_programs_write_it(content: str, name: str, tmp_path: Path) -> None:
    assert read_attributes(written(tmp_path, content, name)).to_dict("list") == EXPECTED


def test_parquet_has_the_same_texts(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"path": EXPECTED["path"], "skin": pd.Categorical(["dark", "light", None]), "age": [20, 31, None]}
    )
    table.assign(blurred=[True, False, True], score=[0.5, None, 1.0]).to_parquet(tmp_path / "table.parquet")
    found = read_attributes(str(tmp_path / "table.parquet")).to_dict("list")
    assert found == EXPECTED | {"blurred": ["True", "False", "True"], "score": ["0.5", "", "1.0"]}


def test_a_path_that_looks_like_a_formula_comes_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["=a/1.png", "real/2.png"], "skin": ["-1", "+2"]})
    assert read_attributes(written(tmp_path, csv_text(table))).equals(table)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,skin\na,b\n", "no column 'path', which says which image a row is about; there: file, skin"),
        ("path\na\n", "it has no column besides path"),
        ("path,skin\na,b\na,c\nb,c\na,b\n", "2 rows of an image that has one already, e.g. a"),
        ("path,skin,skin\na,b,c\n", "not a table that can be read: it has two columns 'skin'"),
        ("path,,skin\na,b,c\n", "not a table that can be read: a column has values and no name"),
        ("path,skin\na,b\nb,c,d,e\n", "not a table that can be read: "),
        ("path,skin\na,b,c\nb,c,d\n", "not a table that can be read: its rows have more cells than its header"),
        (b"path,skin\n\xff\xfe,b\n", "not a table that can be read: 'utf-8' codec"),
        ("", "not a table that can be read: "),
        ('path,skin\n"a,b\n', "not a table that can be read: "),
    ],
)
def test_what_is_no_table_is_told_in_a_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    where = written(tmp_path, content)
    with pytest.raises(DataError) as refused:
        check_attributes(settings(tmp_path, attributes=where))
    assert str(refused.value).startswith(f"{where}: {said}")
    assert "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for where, said in ((str(tmp_path / "none.csv"), "no such file"), (str(tmp_path), "not a table")):
        with pytest.raises(DataError, match=said):
            read_attributes(where)
    broken = written(tmp_path, b"PAR1 and no more", "table.parquet")
    with pytest.raises(DataError, match="not a table that can be read"):
        read_attributes(broken)
    pd.DataFrame({"path": ["a"], "parts": [["eye", "nose"]]}).to_parquet(broken)
    with pytest.raises(DataError, match="column 'parts' holds lists or records; allowed: one value a row"):
        read_attributes(broken)
    pq.write_table(pa.table({"path": ["a"], "taken": pa.array([2**62], pa.timestamp("us"))}), broken)
    with pytest.raises(DataError, match="not a table that can be read: date value out of range"):
        read_attributes(broken)
    check_attributes(settings(tmp_path))


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    """Text as bytes, as Spark writes it; and without the row numbers that pandas adds to a part of a table."""
    file = tmp_path / "table.parquet"
    pq.write_table(pa.table({"path": [b"real/1.png", "é".encode()], "skin": [b"dark", None]}), file)
    assert read_attributes(str(file)).to_dict("list") == {"path": ["real/1.png", "é"], "skin": ["dark", ""]}
    pq.write_table(pa.table({"path": ["a"], "skin": [b"\xff"]}), file)
    with pytest.raises(DataError, match="not a table that can be read: 'utf-8' codec"):
        read_attributes(str(file))
    pd.DataFrame({"path": ["a", "b", "c"], "skin": ["x", "y", "z"]}).iloc[[0, 2]].to_parquet(file)
    assert read_attributes(str(file)).to_dict("list") == {"path": ["a", "c"], "skin": ["x", "z"]}


IMAGES = pd.DataFrame({"path": ["real/1.png", "fake/1.png", "real/1.png"], "folder": ["train", "train", "test"]})


def test_rows_without_an_image_and_images_without_a_row_are_counted() -> None:
    table = pd.DataFrame({"path": ["real/1.png", "real/2.png"], "skin": ["dark", "light"]})
    assert unmatched(table, IMAGES, "t.csv") == [
        "data.attributes: 1 of 2 rows are of no image here, e.g. real/2.png",
        "data.attributes: 1 of 3 images are not in it, e.g. fake/1.png",
    ]
    all_there = pd.DataFrame({"path": ["real/1.png", "fake/1.png"], "skin": ["dark", "light"]})
    assert unmatched(all_there, IMAGES, "t.csv") == []
    with pytest.raises(DataError) as refused:
        unmatched(table.assign(path="train/" + table["path"]), IMAGES, "t.csv")
    assert str(refused.value) == (
        "t.csv: none of its 2 rows is of an image: it names e.g. train/real/1.png, and the images are e.g. real/1.png; "
        "paths begin below the train, val or test folder"
    )
    with pytest.raises(DataError, match=r"none of its 0 rows"):
        unmatched(table.iloc[:0], IMAGES, "t.csv")


def test_a_row_that_is_of_images_in_several_folders_is_said() -> None:
    table = pd.DataFrame({"path": ["real/1.png", "fake/1.png"], "skin": ["dark", "light"]})
    assert in_several_folders(table, IMAGES) == [
        "data.attributes: images in different folders share 1 path, e.g. real/1.png in train and test: such a row "
        "counts for each of them, unless a column folder says which is meant"
    ]
    assert in_several_folders(table.iloc[1:], IMAGES) == []
    assert in_several_folders(table.assign(folder="train"), IMAGES) == []


def test_a_column_folder_tells_images_with_the_same_path_apart() -> None:
    table = pd.DataFrame({"path": ["real/1.png", "real/1.png"], "folder": ["train", "test"], "skin": ["dark", "light"]})
    assert unmatched(table, IMAGES, "t.csv") == ["data.attributes: 1 of 3 images are not in it, e.g. fake/1.png"]
    assert attributes_of(table, "test", ["fake/1.png", "real/1.png"]).to_dict("list") == {"skin": ["", "light"]}
    assert attributes_of(table.drop(columns="folder").iloc[:1], "test", ["real/1.png"])["skin"].tolist() == ["dark"]


def test_many_numbers_are_cut_into_quarters_and_many_texts_make_no_groups() -> None:
    ages = [str(age) for age in range(18, 34)]  # 16 of them: quarters of four
    given = pd.DataFrame({"age": [*ages, ""], "flag": ["0", "1"] * 8 + [""], "same": ["x"] * 17})
    found, said = categories(given)
    assert found["age"].tolist() == [
        *["18 to 21"] * 4, *["22 to 25"] * 4, *["26 to 29"] * 4, *["30 to 33"] * 4, ""
    ]  # fmt: skip
    assert found["flag"].tolist() == given["flag"].tolist()
    assert list(found) == ["age", "flag"]
    assert said == [
        "attribute age: 16 different numbers, cut into quarters of the images: 18 to 21, 22 to 25, 26 to 29, 30 to 33",
        "attribute same: the same value in all images, so no groups",
    ]
    assert categories(pd.DataFrame({"skin": ["", ""]}))[1] == [
        "attribute skin: no value in any of these images, so no groups"
    ]
    names = pd.DataFrame({"name": [f"n{number}" for number in range(51)]})
    assert categories(names)[1] == ["attribute name: 51 different values in 51 images, so no groups"]
    assert list(categories(names.iloc[:50])[0]) == ["name"]


def test_numbers_that_are_mostly_the_same_make_fewer_ranges() -> None:
    found, _ = categories(pd.DataFrame({"likes": ["0"] * 30 + [str(number) for number in range(1, 12)]}))
    # of 41 the quarters end at 0, 0, 1 and 11
    assert found["likes"].value_counts().to_dict() == {"0 to 1": 31, "2 to 11": 10}

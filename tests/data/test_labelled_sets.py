"""The words of `rfray evaluate` -> sets: what names may be, and what would be lost or stale without a word."""

from pathlib import Path

import pytest

from rfray.data.labelled_sets import labelled_sets, named_word, read_table
from rfray.errors import DataError, InputError
from tests.object_store import bucket_here, upload
from tests.pictures import write_folder

BY_CLASS = {"real": ["real"], "fake": ["fake"]}


@pytest.mark.parametrize("name", ["mean", "worst", "evaluations.csv", "n" * 201, "", ".x"])
def test_names_that_records_and_the_table_can_not_have(name: str) -> None:
    with pytest.raises(InputError, match=r"can't be called .*; name it: NAME=FOLDER, allowed: up to 200 letters"):
        named_word("elsewhere", name)


def test_a_class_folder_without_an_image_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", per_class=1, seed=0)
    (tmp_path / "set" / "fake" / "000.bmp").unlink()
    (one,) = labelled_sets([str(tmp_path / "set")], None, BY_CLASS, False)
    assert one.images["label"].tolist() == [0]
    assert str(one.passed) == "1 folder (fake without an image)"


def test_a_table_of_images_that_are_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\nimg/a.png,0\nimg/b.png,1\n")
    with pytest.raises(DataError, match=r"t.csv: none of 2 images is there, e.g. .*/img/a.png; paths begin where"):
        read_table("t", str(tmp_path / "t.csv"))


def test_at_an_address_changes_are_noticed_and_no_image_is_read_twice(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", per_class=1, seed=0)
    (tmp_path / "set" / "t.csv").write_text("path,label\nreal/000.bmp,0\nfake/gone.bmp,1\n")
    with bucket_here() as bucket:
        upload(tmp_path / "set", f"{bucket}/set")
        before = read_table("t", f"{bucket}/set/t.csv").images
        size = (tmp_path / "set" / "real" / "000.bmp").stat().st_size
        assert before["size"].tolist() == [0, size]  # whoever reads the first one will say that it is not there
        (tmp_path / "set" / "real" / "000.bmp").write_bytes(b"another")
        upload(tmp_path / "set", f"{bucket}/set")
        assert read_table("t", f"{bucket}/set/t.csv").images["size"].tolist() == [0, 7]
        with pytest.raises(DataError, match=r"set: fake/000.bmp is in two of \., fake"):
            labelled_sets([f"{bucket}/set"], None, {"real": ["."], "fake": ["fake"]}, True)

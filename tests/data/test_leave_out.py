"""rfray.data.leave_out: lists as a person leaves them, and paths that no training image has."""

from pathlib import Path

import pandas as pd
import pytest

from rfray.data.leave_out import check_leave_out, left_out_rows, list_changes, read_leave_out, unknown_paths
from rfray.errors import DataError
from rfray.store.csv_files import csv_text
from tests.data.small_folders import settings, two_classes


def written(folder: Path, content: str | bytes) -> str:
    file = folder / "list.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


@pytest.mark.parametrize(
    "content",
    [
        "real/001.png\nfake/000.png\n",
        "\ufefffake/000.png\r\n\r\nreal/001.png\r\nreal/001.png",  # as an editor of Windows writes it
        "path,label,p_fake\nreal/001.png,0,0.9\nfake/000.png,1,0.1\n",
        "label;path\n0;real/001.png\n1;fake/000.png\n",
    ],
)
def test_lists_as_people_write_them(content: str, tmp_path: Path) -> None:
    assert read_leave_out(written(tmp_path, content))["path"].tolist() == ["fake/000.png", "real/001.png"]


def test_names_that_begin_like_formulas_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["=real/1.png", "@fake/2.png"], "folder": ["train", "val"], "margin": [0.5, 0.1]})
    found = read_leave_out(written(tmp_path, csv_text(table)))
    assert found.sort_values("path").to_dict("list") == {
        "folder": ["train", "val"],
        "path": ["=real/1.png", "@fake/2.png"],
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no path in it; allowed: a CSV with a column path, or a path a line"),
        ("path,label\n", "no path in it"),
        (b"\xff\xfe\x00", "not a list of paths that can be read: 'utf-8' codec"),
        ("path,label\nreal/001.png,0,1,2\n", "not a list of paths that can be read: "),
        ("real/001.png\nreal/nothere.png\n", "1 path of no training image: real/nothere.png; allowed: paths below"),
        ("real/001.png\nfake\n", "1 path of no training image: fake; allowed: paths below"),
        ("./real/001.png\n", "1 path of no training image: ./real/001.png"),
        ("../train/real/001.png\n", "1 path of no training image: ../train/real/001.png"),
        ("path,folder\nreal/001.png,val\n", "1 path of no training image: real/001.png"),
        ("a\nb\nc\nd\ne\n", "5 paths of no training image: a, b, c and 2 more; allowed"),
    ],
)
def test_what_can_not_be_used_is_told_in_a_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    two_classes(tmp_path, 3)
    where = written(tmp_path, content)
    with pytest.raises(DataError) as refused:
        check_leave_out(settings(tmp_path, leave_out=where))
    assert str(refused.value).startswith(f"{where}: {said}")
    assert "\n" not in str(refused.value)


def test_a_list_of_training_images_passes(tmp_path: Path) -> None:
    two_classes(tmp_path, 3)
    check_leave_out(settings(tmp_path, leave_out=written(tmp_path, "real/001.png\n")))
    check_leave_out(settings(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        check_leave_out(settings(tmp_path, leave_out=str(tmp_path / "none.csv")))


def test_a_folder_tells_images_with_one_path_apart() -> None:
    images = pd.DataFrame({"path": ["real/1.png"] * 2 + ["fake/1.png"], "folder": ["train", "val", "train"]})
    both = pd.DataFrame({"path": ["real/1.png"]})
    assert left_out_rows(both, images).tolist() == [True, True, False]
    assert left_out_rows(both.assign(folder="val"), images).tolist() == [False, True, False]
    assert unknown_paths(pd.DataFrame({"path": ["real/1.png", "x"]}), images) == ["x"]
    assert unknown_paths(pd.DataFrame({"path": ["fake/1.png"], "folder": ["val"]}), images) == ["fake/1.png"]


def test_how_a_list_has_changed() -> None:
    before, now = pd.DataFrame({"path": ["a", "b"]}), pd.DataFrame({"path": ["b", "c", "d"]})
    assert list_changes(before, now) == "2 more (e.g. c), 1 fewer (e.g. a)"
    assert list_changes(before, before) == ""

"""replacing(): a file is the old one or the new one, and nothing else stays behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rfray.errors import InputError
from rfray.store.files import below, clear_left_over, no_room, read_json, replacing, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_the_new_content_is_there_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    write_whole(path, "äöü\n")
    assert path.read_bytes() == "äöü\n".encode()
    assert names(path.parent) == ["table.csv"]


def test_until_the_block_ends_the_old_content_is_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


def test_after_an_exception_the_old_content_is_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_what_fails_in_the_middle_of_a_file_names_it_and_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        for content in (bytes(100), "x" * 11):
            with pytest.raises(OSError, match="File too large") as refused:
                write_whole(path, content)
            assert refused.value.filename == str(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("rows.csv", "old")]


@pytest.mark.parametrize("place", ["run/table.csv", "file/table.csv", "n" * 256, "run"])
def test_what_the_system_refuses_names_the_path_that_was_given(place: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "run/inside").write_text("") if place == "run" else None
    before = os.geteuid()
    os.seteuid(65534 if before == 0 and place == "run/table.csv" else before)
    try:
        with pytest.raises(OSError, match=r"\[Errno") as refused:
            write_whole(tmp_path / place, "new")
    finally:
        os.seteuid(before)
    assert refused.value.filename in (str(tmp_path / place), tmp_path / place, str((tmp_path / place).parent))
    assert ".part" not in str(refused.value)
    assert refused.value.filename2 is None


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".csv", "é" * 125 + ".json"])
def test_a_name_may_be_as_long_as_disks_take(name: str, tmp_path: Path) -> None:
    write_whole(tmp_path / name, "new")
    assert names(tmp_path) == [name]


def test_what_is_missing_is_never_nothing(tmp_path: Path) -> None:
    assert "it needs 0.1 MB and " in str(no_room(tmp_path / "table.csv", 12))


def test_a_block_that_wrote_nothing_is_an_error_and_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # its block ends last
    assert names(tmp_path) == ["table.csv"]


def test_the_temporary_name_has_the_same_ending_and_is_hidden(tmp_path: Path) -> None:
    with replacing(tmp_path / "plot.png") as temporary:
        temporary.touch()
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "../x", "a/../../x", "a//x", "./x", "a/", "a\0b"])
def test_a_name_that_leads_elsewhere_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name of a file below"):
        below(tmp_path, name)


@pytest.mark.parametrize("name", ["x", "a/b/c.jpg", "..x", "a..b/.hidden", "with blank/ä"])
def test_any_other_name_is_a_path_below_the_folder(name: str, tmp_path: Path) -> None:
    assert below(tmp_path, name) == tmp_path / name


def test_what_is_no_small_json_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "ensemble.json"
    file.write_text('{"a": [1, null]}')
    assert read_json(file) == {"a": [1, None]}
    for open_, close in ("[]", ('{"a":', "}")):
        file.write_text(open_ * 100_000 + "1" + close * 100_000)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_json(file)
    with file.open("wb") as sparse:
        sparse.truncate(20_000_000_000)
    with pytest.raises(ValueError, match="larger than 32 MB"):
        read_json(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="no plain file"):
        read_json(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="no plain file"):
        read_json(file)


WRITER = """
import sys
from pathlib import Path
from rfray.store.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    if len(sys.argv) > 2:
        temporary.write_text(sys.argv[2])
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("written", [[], ["half"]])
def test_what_a_killed_writer_has_left_is_cleared_but_not_what_a_living_one_writes(
    tmp_path: Path, written: list[str]
) -> None:
    path = tmp_path / "table [1].csv"
    command = [sys.executable, "-c", WRITER, str(path), *written]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        clear_left_over(path, tmp_path)
        assert len(names(tmp_path)) == 1
        writer.kill()
        writer.wait()
        others = [".other.0123abcd.part.csv", ".table [1].0123abcd.part.md", "table [1].md", ".table [1].csv"]
        for name in others:
            (tmp_path / name).write_text("theirs")
        clear_left_over(path)
        assert names(tmp_path) == sorted(others)
        clear_left_over(tmp_path)
        assert names(tmp_path) == sorted(others[2:])

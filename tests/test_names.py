"""Names that steer a terminal are escaped in what commands print, each text on its own line."""

import json
import shutil
from pathlib import Path

import pytest

from rfray.errors import printable
from tests.pictures import write_folder
from tests.test_cli import run_here

NAME = "x\n\r\t\x1b[31m\x07\x9b\u202e\u2028y"
SHOWN = r"x\n\r\t\x1b[31m\x07\x9b\u202e\u2028y"


def say_all(words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs a command; each line that it prints can be printed."""
    code, said = run_here(words, here, capfd)
    for line in said.split("\n"):
        assert printable(line) == line, (words, line)
    return code, said


def write_data(here: Path) -> None:
    """Folders in which every name steers, with an unreadable image, copies, and a folder beside the classes."""
    write_folder(here / "given" / "train", per_class=12, seed=0)
    write_folder(here / "given" / "test", per_class=8, seed=1)
    for part in ("train", "test"):
        for name in ("real", "fake"):
            made, folder = here / "given" / part / name, here / NAME / part / f"{name}{NAME}"
            for number, file in enumerate(sorted(made.iterdir())):
                group = folder / f"{number % 4}{NAME}"
                group.mkdir(parents=True, exist_ok=True)
                file.rename(group / f"{NAME}{file.name}")
            shutil.copy(group / f"{NAME}{file.name}", group / f"copy{NAME}{file.name}")
            (group / f"broken{NAME}.bmp").write_bytes(b"BM")
        (here / NAME / part / f"other{NAME}").mkdir()


def test_the_audit_names_folders_and_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    classes = f"data.classes={json.dumps({name: name + NAME for name in ('real', 'fake')})}"
    words = ["audit", f"{NAME}/train", "--set", classes]
    code, said = say_all(words, tmp_path, capfd)
    broken = f"  real{SHOWN}/3{SHOWN}/broken{SHOWN}.bmp: not an image of a known format\n"
    assert code == 2
    assert f"/{SHOWN}/train: 2 of 28 files can't be read" in said
    assert broken in said
    code, said = say_all([*words, "--set", "data.max_unreadable=0.5"], tmp_path, capfd)
    assert code == 0
    assert broken in said
    assert f"fake{SHOWN}/3{SHOWN}/copy{SHOWN}011.bmp and" in said


@pytest.mark.parametrize("verb", ["ensemble", "leaderboard", "predict", "evaluate", "export"])
def test_a_run_that_is_none(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).mkdir()
    words = [verb, NAME, "x.jpg"] if verb in ("predict", "evaluate") else [verb, NAME]
    code, said = say_all(words, tmp_path, capfd)
    assert code == 2
    assert f"/{SHOWN}: no" in said


@pytest.mark.parametrize(
    "words",
    [
        [NAME],
        ["tune"],
        ["tune", "a", NAME],
        ["tune", "a", f"--{NAME}"],
        ["tune", NAME, "--set", NAME],
        ["ensemble", "x", "--top-k", NAME],
        ["ensemble", "x", "--choose-by", NAME],
        ["serve", NAME, "--port", "99999"],
    ],
)
def test_a_command_line_that_is_none_is_one_line(words: list[str], tmp_path: Path, capfd) -> None:
    code, said = say_all(words, tmp_path, capfd)
    assert code == 2
    assert said.startswith("rfray: ")
    assert said.count("\n") == 1

"""rfray.report.verdict_rows: every format gives back what went in."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.errors import InputError
from rfray.report.verdict_rows import VERDICT_FORMATS, format_of, verdict_rows

FIRST = pd.DataFrame({"path": ['a "b",c.jpg'], "p_fake": [0.1 + 0.2], "verdict": ["real"], "m": [1.0], "reason": [""]})
SECOND = pd.DataFrame({"path": ["é\n.jpg"], "p_fake": [np.nan], "verdict": [""], "m": [np.nan], "reason": ["gone"]})
BOTH = pd.concat([FIRST, SECOND], ignore_index=True)


def written(file: Path, form: str) -> pd.DataFrame:
    with verdict_rows(file, form) as write:
        write(FIRST)
        write(SECOND)
    if form == "parquet":
        return pd.read_parquet(file)
    if form == "jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return pd.DataFrame(rows)
    return pd.read_csv(file, keep_default_na=False, na_values={"p_fake": [""], "m": [""]}, float_precision="round_trip")


@pytest.mark.parametrize("form", VERDICT_FORMATS)
def test_two_tables_become_one_file(form: str, tmp_path: Path) -> None:
    found = written(tmp_path / "rows", form)
    pd.testing.assert_frame_equal(found, BOTH, check_dtype=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows"]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def interrupted() -> None:
        with verdict_rows(tmp_path / "rows.csv", "csv") as write:
            write(FIRST)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_standard_output_has_one_header(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with verdict_rows(None, "csv") as write:
        write(FIRST)
        write(FIRST)
    assert out.getvalue() == "path,p_fake,verdict,m,reason\n" + 2 * '"a ""b"",c.jpg",0.30000000000000004,real,1.0,\n'


def test_formats_by_name() -> None:
    assert format_of(None, None) == "csv"
    assert format_of(Path("x.CSV"), None) == "csv"
    assert format_of(Path("x.ndjson"), None) == "jsonl"
    assert format_of(Path("x.txt"), "parquet") == "parquet"
    for out, asked, reason in [
        (None, "parquet", "it needs a file, --out FILE.parquet"),
        (None, "cvs", "no such format; allowed: csv, jsonl, parquet; nearest: csv"),
        (Path("x.txt"), None, r"--out x.txt: allowed: a name that ends in .csv, .jsonl, .ndjson, .parquet"),
    ]:
        with pytest.raises(InputError, match=reason):
            format_of(out, asked)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_names_that_would_steer_it_and_a_pipe_gets_them(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    with verdict_rows(None, "csv") as write:
        write(FIRST.assign(path="\x1b[2J=1\n"))
        write(FIRST.assign(path="=1"))
    first, second = (r"\x1b[2J=1\n", "'=1") if terminal else ('"\x1b[2J=1\n"', "'=1")
    expected = f"path,p_fake,verdict,m,reason\n{first},0.30000000000000004,real,1.0,\n{second},0.3"
    assert out.getvalue().startswith(expected)


def test_what_a_killed_command_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / ".rows.0123abcd.part.csv"
    for path in (left, tmp_path / ".rows.0123abcd.part.jsonl", tmp_path / ".other.0123abcd.part.csv"):
        path.touch()
        os.utime(path, (0, 0))
    (live := tmp_path / ".rows.4567cdef.part.csv").touch()  # of a command that has not locked it yet
    with verdict_rows(tmp_path / "rows.csv", "csv"):
        assert not left.exists()
        with verdict_rows(tmp_path / "rows.csv", "csv"):  # another command, which leaves this one's
            assert len(list(tmp_path.glob(".rows.*.part.csv"))) == 3
    live.unlink()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".other.0123abcd.part.csv", ".rows.0123abcd.part.jsonl", "rows.csv"]

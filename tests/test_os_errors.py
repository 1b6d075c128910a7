"""What a disk, a user's rights or a terminal refuses is one line with the path and the way out, from every command."""

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from ray.exceptions import RayTaskError

import rfray.commands
from rfray.errors import InputError, RfrayError, of_system, readable
from rfray.report.verdict_rows import verdict_rows
from rfray.store.files import read_json, user_cache
from tests.synthetic import small_run
from tests.test_cli import SWEEP, VERBS, run_here

NOBODY = 65534
COMMANDS = Path(rfray.commands.__file__).parent
LONG = "n" * 300
WORDS = {
    "tune": ["sweep.yaml"],
    "audit": ["sweep.yaml"],
    "ensemble": ["run"],
    "predict": ["run", "sweep.yaml", "--out", "rows.csv"],
    "evaluate": ["run", "run"],
    "export": ["run"],
    "serve": ["run", "--port", "0"],
    "fetch": ["s3://bucket/x"],
    "leaderboard": ["run"],
    "compare": ["run", "run", "--out", "rows.csv"],
    "schema": [],
    "job": ["0", "tune"],
}
"""Every command; for each some words, with which it writes where it can."""
PLACES = {
    "tune": ["sweep.yaml", "--run"],
    "audit": ["sweep.yaml", "--run"],
    "ensemble": [],
    "leaderboard": [],
    "predict": [],
    "evaluate": [],
    "export": [],
    "serve": [],
    "fetch": ["s3://bucket/x", "--to"],
    "compare": ["run"],
}
"""Commands that take a place, which comes last."""


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a sweep and a run, in which this process may read alone; and it has no home."""
    for module in (
        "tuning.preflight",
        "cluster.connect",
        *(f"commands.{file.stem}" for file in COMMANDS.glob("[a-z]*.py")),
    ):
        import_module(f"rfray.{module}")  # while this process may read them
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        shutil.copytree(small_run(folder / "made").path, folder / "run")
        (folder / "sweep.yaml").write_text(SWEEP)
        for one in (folder, *folder.rglob("*")):
            one.chmod(0o555 if one.is_dir() else 0o444)
        monkeypatch.setenv("HOME", "/nonexistent")
        monkeypatch.delenv("RFRAY_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if root := os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            for one in (folder, *folder.rglob("*")):
                one.chmod(0o755)


def check(verb: str, words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> str:
    code, said = run_here([verb, *words], here, capfd)  # another error than SystemExit fails the test
    assert "Traceback" not in said
    assert code in (0, 1, 2)
    if code and "Usage:" not in said:
        assert said.count("rfray: ") == 1, said
    return f"{code} {said}"


def test_every_command_is_here() -> None:
    assert sorted(WORDS) == sorted(VERBS)


@pytest.mark.parametrize("verb", WORDS)
def test_where_nothing_can_be_written_and_there_is_no_home(
    verb: str, read_only: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = check(verb, WORDS[verb], read_only, capfd)
    if verb in ("tune", "audit", "ensemble"):
        assert said.startswith("2 ")
        assert "Permission denied. This user may not do so there; name another place (--run, --out" in said
    if verb in ("leaderboard", "schema"):  # they only read
        assert "denied" not in said


@pytest.mark.parametrize("verb", PLACES)
@pytest.mark.parametrize("place", ["sweep.yaml/x", LONG, f"{LONG}/x", "circle/x", "caf\udce9/x", "x\n/y", "a" * 5000])
def test_places_that_can_not_be(verb: str, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("source: demo", "train: gone, test: gone"))
    (tmp_path / "circle").symlink_to("circle")
    if verb == "tune" and place.endswith(("9/x", "/y")):
        pytest.skip("these can be made, and then Ray starts")
    more = ["gone.jpg"] if verb in ("predict", "evaluate") else []
    assert check(verb, [*PLACES[verb], place, *more], tmp_path, capfd).startswith("2 ")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EROFS, InputError, r"^/x: Read-only file system\. .*--run"),
        (errno.ENAMETOOLONG, InputError, r"^/x: File name too long\. .*255 bytes"),
        (errno.EMFILE, RfrayError, r"^/x: Too many open files\. .*ulimit"),
        (errno.EFBIG, RfrayError, r"^/x: File too large\. .*ulimit -f"),
        (errno.EIO, RfrayError, r"^/x: Input/output error\. The disk fails"),
        (errno.EXDEV, InputError, r"^/x: Invalid cross-device link\. "),
    ],
)
def test_an_error_of_the_system(number: int, kind: type[RfrayError], said: str) -> None:
    error = of_system(OSError(number, os.strerror(number), "/x"))
    assert type(error) is kind
    with pytest.raises(kind, match=said):
        raise error


def test_an_error_without_a_file() -> None:
    assert str(of_system(OSError("first\nsecond"))).startswith("first second. ")
    assert str(of_system(FileNotFoundError(2, "No such file or directory"))).startswith("the working folder: No such")
    none = FileNotFoundError(2, "No usable temporary directory found in ['/gone']")
    assert str(of_system(none)) == f"{none.strerror}. Set TMPDIR to a folder in which you may write"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y\nz"), r"rfray: /x/y\nz: No space left on device. The"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "rfray: /x: Permission denied. This user"),
        (InputError("a word is wrong"), "rfray: a word is wrong\n"),
    ],
)
def test_what_a_task_on_ray_has_raised_is_said_without_its_traceback(
    cause: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    of_ray = RayTaskError("task", "Traceback (most recent call last):\n  File x", cause).as_instanceof_cause()

    def app(standalone_mode: bool) -> None:
        raise of_ray

    monkeypatch.setattr("rfray.cli.app", app)
    with pytest.raises(SystemExit) as end:
        check_quietly()
    shown = "".join(capfd.readouterr())
    assert shown.startswith(said)
    assert shown.count("\n") == 1
    assert end.value.code == (1 if "space" in said else 2)


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        (
            "> /dev/full",
            1,
            "rfray: No space left on device. The disk is full: make room, or name a place on another one\n",
        ),
        (">&-", 0, ""),
    ],
)
def test_a_standard_output_that_takes_nothing(out: str, code: int, said: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m rfray.cli --help {out}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (code, said)


def test_rows_have_nowhere_to_go_where_the_standard_output_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match=r"standard output is closed; .*--out"), verdict_rows(None, "csv"):
        pass
    with verdict_rows(tmp_path / "rows.csv", "csv") as write:
        write(pd.DataFrame({"path": ["a"]}))
    assert (tmp_path / "rows.csv").read_text() == "path\na\n"


@pytest.mark.parametrize("verb", ["leaderboard", "tune", "predict", "serve"])
def test_a_working_folder_that_is_gone(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = Path.cwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert "the working folder: " in check_in_place(
            [verb, *(str(tmp_path / word) for word in WORDS[verb][:2])], capfd
        )
    finally:
        os.chdir(before)


def check_in_place(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    from rfray.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rfray", *words])
        patch.setattr("signal.signal", lambda *handler: None)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 2
    return "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MemoryError(), "rfray: memory ran out. Free some, allow more (ulimit -v unlimited)"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "rfray: a library can't be loaded: libtorch_cpu.so: failed to map segment from shared object. Install",
        ),
    ],
)
def test_memory_that_runs_out(
    raised: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(standalone_mode: bool) -> None:
        raise raised

    monkeypatch.setattr("rfray.cli.app", app)
    with pytest.raises(SystemExit) as end:
        check_quietly()
    assert end.value.code == 1
    assert capfd.readouterr().err.startswith(said)


def test_a_record_is_read_with_no_more_memory_than_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + 16_000_000, before[1]))
    try:
        assert read_json(tmp_path / "x.json") == {}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def address_space() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RFRAY_CACHE", raising=False)
    monkeypatch.setattr("rfray.store.files.user_cache_path", lambda name: Path("~/.cache", name))
    with pytest.raises(InputError, match="no home folder for the cache; set RFRAY_CACHE"):
        user_cache()


@pytest.mark.parametrize(
    ("name", "shown"), [("caf\udce9.jpg", r"caf\xe9.jpg"), ("é.jpg", "é.jpg"), ("\ud800", r"\ud800")]
)
def test_a_name_that_is_not_utf_8(name: str, shown: str) -> None:
    assert readable(name) == shown


def test_a_terminal_that_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("rfray.cli._run_command", lambda: print("café \udce9"))
    check_quietly()
    out.flush()
    assert out.buffer.getvalue() == rb"caf\xe9 \udce9" + b"\n"


def test_text_that_no_file_takes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rfray.cli.app", lambda standalone_mode: "runs/caf\udce9".encode())
    said = check_in_place([], capfd)
    assert said == "rfray: runs/caf\\xe9: this name is not UTF-8; rename it\n"


def check_quietly() -> None:
    from rfray.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *handler: None)
        main()

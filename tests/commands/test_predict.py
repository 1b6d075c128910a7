"""`rfray predict` and `rfray export` as a user meets them."""

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rfray.api import load
from rfray.cli import main
from rfray.data import decoder_process
from rfray.errors import RunError
from rfray.inference import bulk
from rfray.models.bundle import detect, load_bundle
from rfray.spec.sweep import Resources
from rfray.store.sealed import table_bytes
from tests.object_store import bucket_here, upload
from tests.test_cli import rfray
from tests.two_models import concluded, two_models

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def here(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicting")
    concluded(two_models(folder, pictures))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The same as `rfray`, in this process, which has imported torch already."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(here)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["rfray", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(words, int(end.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("out", ["rows.csv", "none/"])
def test_a_standard_input_that_is_closed_names_no_file(
    out: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = command("predict", "run", "-", "--out", out)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "rfray: no image to predict: no path was given"
    assert done.stderr.count("rfray: ") == 1


def test_a_carriage_return_in_a_name_from_the_standard_input_stays(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"gone\rx.jpg\ngone.jpg\n")))
    done = command("predict", "run", "-", "--format", "jsonl")
    assert done.returncode == 1
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["gone\rx.jpg", "gone.jpg"]


def test_evidence_that_can_not_be_written_costs_no_rows(here: Path, command: Command) -> None:
    (here / "seen" / "000003-003.jpg").mkdir(parents=True)  # in the place of a picture
    words = ("predict", "run", "images/test/real", "--batch-size", "2", "--explain", "seen", "--out", "seen.csv")
    done = command(*words)
    assert done.returncode == 2
    assert "000003-003.jpg: Is a directory. A folder is where a file must be" in done.stderr
    rows = pd.read_csv(here / "seen.csv", keep_default_na=False)
    assert len(rows) == 16
    assert list(rows["evidence"][:2]) == ["000000-000.jpg", "000001-001.jpg"]
    assert set(rows["evidence"][2:]) == {""}
    assert (rows["verdict"] != "").all()
    done = command(*words[:3], "broken.jpg", *words[3:])
    assert done.returncode == 1
    assert "1 of 17 files could not be read" in done.stderr
    assert "000003-003.jpg: Is a directory. A folder is where a file must be" in done.stderr


def test_rows_on_the_standard_output_and_an_exit_code_that_tells(here: Path, command: Command) -> None:
    done = command("predict", "run", "images/test/real", "--format", "csv")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 17), done.stderr
    assert done.stderr.splitlines()[-1].startswith("16 images: ")
    done = rfray("predict", "run/ensemble", "images/test/real/000.bmp", "broken.jpg", "--out", "rows.jsonl", here=here)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "1 of 2 files could not be read: their rows have the reason" in done.stderr
    rows = pd.read_json(here / "rows.jsonl", lines=True)
    assert rows["reason"].tolist() == ["", "not an image of a known format"]
    assert list(rows.columns) == ["path", "p_fake", "verdict", "a", "b", "reason"]


def test_a_wrong_word_is_one_line_and_exit_code_2(command: Command) -> None:
    for words, reason in [
        (["run", "https://example.org/x.jpg"], "download it first"),
        (["images", "broken.jpg"], "no bundle (a folder with ensemble.json), and no run folder"),
        (["run", "broken.jpg", "--out", "broken.jpg/rows.csv"], "--out broken.jpg/rows.csv: File exists"),
        (["run", "broken.jpg", "--explain", "broken.jpg"], "--explain broken.jpg: File exists"),
        (["run", "broken.jpg", "--out", "rows.txt"], "--out rows.txt: allowed: a name that ends in .csv"),
        (["run", "broken.jpg", "--out", "shards/", "--format", "csv"], "rows are written as Parquet"),
    ]:
        done = command("predict", *words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert reason in done.stderr


def test_a_picture_that_takes_too_long_costs_no_other_row(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (7000, 7000)).save(here / "black.png")  # half a second of a core
    monkeypatch.setattr(decoder_process, "SECONDS", 0.1)
    words = ["images/test/real/000.bmp", "black.png", "broken.jpg", "images/test/real/001.bmp"]
    done = command("predict", "run", *words, "--out", "long.jsonl")
    assert (done.returncode, "2 of 4 files could not be read" in done.stderr) == (1, True)
    reasons = pd.read_json(here / "long.jsonl", lines=True)["reason"].tolist()
    assert reasons == ["", "took over 0.1 s to decode", "not an image of a known format", ""]


@pytest.mark.parametrize("out", ["odd.csv", "odd.jsonl", "odd.parquet", None])
def test_a_name_that_is_not_utf_8_costs_no_row(out: str | None, here: Path, command: Command) -> None:
    (here / "odd").mkdir(exist_ok=True)
    for name in ("caf\udce9.jpg", "ok.jpg"):
        shutil.copyfile(here / "images/test/real/000.bmp", here / "odd" / name)
    words = ["odd", "x" * 300, "gone\udcff.jpg"]
    done = command("predict", "run", *words, *(["--out", out] if out else []))
    assert done.returncode == 1
    assert "2 of 4 files could not be read" in done.stderr
    written = pq.read_table(here / out).to_pandas().to_csv() if out == "odd.parquet" else None
    text = written or ((here / out).read_text() if out else done.stdout)
    assert text.replace("\\\\", "\\").count(r"odd/caf\xe9.jpg") == 1
    assert text.count("odd/ok.jpg") == 1


def test_a_name_that_is_not_utf_8_among_shards(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "odd").mkdir(exist_ok=True)
    shutil.copyfile(here / "images/test/real/000.bmp", here / "odd" / "caf\udce9.jpg")
    out, run = here / "odd-shards", str(here / "run")
    for _ in range(2):
        assert bulk.claim(out, run, [str(here / "odd" / "caf\udce9.jpg"), str(here / "broken.jpg")]) == 2
    bulk.ShardPredictor(1, *bulk.Task(out, run, batch_size=5)).predict(0)
    rows = pd.read_parquet(out / "part-000000.parquet")
    assert rows["path"].tolist() == [rf"{here}/odd/caf\xe9.jpg", str(here / "broken.jpg")]
    assert rows["reason"].tolist() == ["", "not an image of a known format"]


def test_shards_are_made_once_and_say_what_one_file_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(bulk, "SHARD", 12)
    out, run = here / "shards", str(here / "run")
    for _ in range(2):
        assert bulk.claim(out, run, ["images/test", "broken.jpg"]) == 33
    assert pq.read_metadata(out / "files.parquet").num_row_groups == 3
    predictor = bulk.ShardPredictor(1, *bulk.Task(out, run, batch_size=5))
    made = [predictor.predict(shard) for shard in range(3)]
    assert [(shard, counts.total()) for shard, counts in made] == [(0, 12), (1, 12), (2, 9)]
    rows = pd.concat(pd.read_parquet(file) for file in sorted(out.glob("part-*.parquet")))
    assert rows["path"].tolist()[-1] == str(here / "broken.jpg")
    assert rows["reason"].tolist()[-1] == "not an image of a known format"
    ((table, _),) = detect(load_bundle(run), rows["path"].tolist()[:-1], batch_size=40, threads=2)
    np.testing.assert_allclose(rows[["a", "b"]].to_numpy()[:-1], table[["a", "b"]], rtol=0, atol=1e-5)
    with pytest.raises(RunError, match="holds predictions of another bundle, or of other files"):
        bulk.claim(out, run, ["images/test"])
    counts = lambda: [one.total() for one in bulk.predict_shards(out, run, 5, Resources(cpu=1), None)]  # noqa: E731
    for shard in range(3):
        bulk.vouch(out, shard)
    assert counts() == [12, 12, 9]  # all are there, so no Ray is asked
    monkeypatch.setattr(bulk, "connected", lambda *_: 1 / 0)
    first, second = out / "part-000000.parquet", out / "part-000001.parquet"
    sound = first.read_bytes(), second.read_bytes()
    flipped = bytearray(sound[1])
    flipped[len(flipped) // 2] ^= 1
    edited = table_bytes(pa.Table.from_pandas(pd.read_parquet(second).assign(p_fake=0.5), preserve_index=False))
    # a bit, a table of rfray's own writer, and shards that have changed places
    for contents in ((sound[0], bytes(flipped)), (sound[0], edited), sound[::-1]):
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])
        with pytest.raises(ZeroDivisionError):
            counts()
    first.write_bytes(sound[0])
    for odd in (table_bytes(pa.table({"path": ["a"]})), b"no table"):  # though their digests fit
        second.write_bytes(odd)
        bulk.vouch(out, 1)
        with pytest.raises(ZeroDivisionError):
            counts()
    second.write_bytes(sound[1])
    bulk.vouch(out, 1)
    with (out / "shards.csv").open("a") as lines:
        lines.write("2,cut sho")  # the last word on it, so it is made anew
    with pytest.raises(ZeroDivisionError):
        counts()
    for name, said in (("files.parquet", "is damaged or gone"), ("plan.json", "is damaged: .*choose another folder")):
        before = (out / name).read_bytes()
        (out / name).write_bytes(before[:-9] + b"x" + before[-8:])
        with pytest.raises(RunError, match=said):
            bulk.claim(out, run, ["images/test", "broken.jpg"])
        (out / name).write_bytes(before)
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").touch()
    with pytest.raises(RunError, match="is not empty, and not of `rfray predict`"):
        bulk.claim(here / "mine", run, ["images/test"])


@pytest.mark.slow
def test_only_what_is_missing_is_predicted_on_ray(here: Path, ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SHARD", 12)
    out, run = here / "killed", str(here / "run")
    bulk.claim(out, run, [str(here / "images/test")])
    predictor = bulk.ShardPredictor(1, *bulk.Task(out, run, batch_size=5))
    for shard in (0, 2):
        predictor.predict(shard)
        bulk.vouch(out, shard)
    kept = (out / "part-000000.parquet").stat().st_mtime_ns
    monkeypatch.setattr(bulk, "connected", lambda *_: nullcontext())  # it is
    counts = bulk.predict_shards(out, run, 5, Resources(cpu=1), None)
    assert [one.total() for one in counts] == [12, 8, 12]
    assert (out / "part-000000.parquet").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_the_command_writes_shards_and_tells(here: Path) -> None:
    for _ in range(2):  # the second time all is there
        done = rfray("predict", "run", "images/test", "broken.jpg", "--out", "whole/", here=here)
        assert done.returncode == 1
        assert "1 of 33 files could not be read" in done.stderr
        warning, *lines = done.stderr.splitlines()
        assert warning.startswith("No better than guessing on 32 test images"), done.stderr
        assert len(lines) == 1, done.stderr
    assert pq.read_table(here / "whole" / "part-000000.parquet").num_rows == 33


def test_loading_it_in_python_warns_of_a_coin_toss(here: Path) -> None:
    with pytest.warns(UserWarning, match="^No better than guessing on 32 test images"):
        load(here / "run")


def test_export_writes_one_file(here: Path, command: Command) -> None:
    done = command("export", "run", "--format", "pt2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run.pt2: probabilities within ")
    assert done.stdout.splitlines()[1].startswith("No better than guessing on 32 test images")
    assert (here / "run.pt2").exists()


@pytest.mark.slow
def test_pictures_and_bundle_at_an_address(here: Path) -> None:
    with bucket_here() as bucket:
        upload(here / "images" / "test" / "real", f"{bucket}/faces")
        upload(here / "run" / "ensemble", f"{bucket}/detector")
        words = ["predict", f"{bucket}/detector", f"{bucket}/faces", f"{bucket}/faces/gone.jpg", "--out", "far.parquet"]
        done = rfray(*words, here=here)
    assert done.returncode == 1
    rows = pd.read_parquet(here / "far.parquet")
    assert rows["path"].tolist() == [f"{bucket}/faces/{number:03d}.bmp" for number in range(16)] + [
        f"{bucket}/faces/gone.jpg"
    ]
    assert rows["reason"].tolist()[:-1] == [""] * 16
    assert "gone.jpg" in rows["reason"].iloc[-1]
    assert rfray("predict", "run", "images/test/real", "--out", "near.parquet", here=here).returncode == 0
    pd.testing.assert_series_equal(rows["p_fake"][:16], pd.read_parquet(here / "near.parquet")["p_fake"])

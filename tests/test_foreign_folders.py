"""Run folders and shards that somebody else has made: no link leads writing out of them, and no pipe is waited for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rfray.errors import RunError
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import read_leaderboard, write_leaderboard
from rfray.evaluation.mistakes import read_mistakes
from rfray.inference.bulk import claim, predict_shards
from rfray.spec.sweep import Resources
from rfray.store.files import file_digest, write_whole
from rfray.store.ownership import lock_run
from rfray.store.records import write_record
from rfray.store.run_dir import RunDir
from tests.synthetic import small_run


def foreign_run(folder: Path) -> RunDir:
    """A run with an ensemble and a leaderboard."""
    run = small_run(folder)
    write_ensemble(run, choose_members(run, 2))
    write_leaderboard(run)
    return run


@pytest.mark.parametrize("name", ["trials", "trials/001", "ensemble", "plots", "trials/002/tensorboard", "audit"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(name: str, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    link, own = run.path / name, tmp_path / "own"
    own.mkdir()
    (own / ".x.0123abcd.part").write_text("of somebody else")
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(own)
    with pytest.raises(RunError, match=f"run/{name} is a link: a run writes only below its own folder"), lock_run(run):
        pass
    assert [file.name for file in own.iterdir()] == [".x.0123abcd.part"]


def test_a_run_may_be_behind_a_link_and_beside_links_of_others(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    (tmp_path / "run" / "data").symlink_to(tmp_path)
    (tmp_path / "here").symlink_to(tmp_path / "run")
    with lock_run(RunDir(tmp_path / "here")):
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("sweep.yaml", lambda run: run.sweep()),
        ("leaderboard.csv", read_leaderboard),
        ("unreadable.csv", lambda run: run.unreadable()),
        ("digests.json", lambda run: run.check_images()),
        ("catalog.parquet", lambda run: run.catalog()),
        ("trials/001/history.csv", lambda run: run.check_trials()),
        ("trials/005/starts.csv", lambda run: run.trial("005").starts()),
    ],
)
def test_a_pipe_is_not_waited_for(name: str, read: Callable[[RunDir], object], tmp_path: Path) -> None:
    run = foreign_run(tmp_path / "run")
    file = run.path / name
    if name.endswith("history.csv"):
        result = run.trial("001").result()
        assert result is not None
        write_record(run.trial("001").result_file, result.model_copy(update={"files": {file.name: file_digest(file)}}))
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with pytest.raises(RunError):
        read(run)


def test_mistakes_and_digests_are_of_plain_files(tmp_path: Path) -> None:
    run = foreign_run(tmp_path / "run")
    os.mkfifo(run.mistakes_file)
    assert read_mistakes(run) is None
    with pytest.raises(OSError, match="no plain file"):
        file_digest(run.mistakes_file)
    with run.groups_csv.open("wb") as sparse:
        sparse.truncate(10**12)
    with pytest.raises(OSError, match="larger than 100 GB"):
        file_digest(run.groups_csv)


def test_nothing_is_written_through_a_link_among_shards(tmp_path: Path) -> None:
    bundle, out, own = tmp_path / "bundle", tmp_path / "out", tmp_path / "profile"
    write_whole(bundle / "ensemble.json", "{}")
    for path in (tmp_path / "x.bmp", own):
        path.write_text("own")
    assert claim(out, str(bundle), [str(tmp_path / "x.bmp")]) == 1
    (out / "shards.csv").symlink_to(own)
    with pytest.raises(RunError, match=r"shards.csv is no plain file, as all of `rfray predict` are"):
        claim(out, str(bundle), [str(tmp_path / "x.bmp")])
    assert own.read_text() == "own"
    (out / "shards.csv").unlink()
    with (out / "shards.csv").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(RunError, match=r"shards.csv is damaged: larger than 32 MB"):
        list(predict_shards(out, str(bundle), 1, Resources(), None))

"""`rfray ensemble` of a run that came from elsewhere: where its images are now, and what may be set by then."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rfray.cli import app
from rfray.store.run_dir import RunDir
from tests.tuning.test_run_sweep import run_here, sweep_of


@pytest.fixture(scope="module")
def moved(pictures: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Path:
    """A folder with `run` and `pictures`, neither of which is where the sweep had them."""
    first, here = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("moved")
    shutil.copytree(pictures, first / "pictures")
    sweep = sweep_of(
        first / "pictures", first, "search.trials=2", "trial.epochs=1", f"data.cache={{dir: {here}/cache}}"
    )
    run, _ = run_here(sweep, first)
    shutil.move(run.path, here / "run")
    shutil.move(first / "pictures", here / "pictures")
    shutil.rmtree(here / "cache")
    return here


def ensemble(here: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what was said."""
    done = CliRunner().invoke(app, ["ensemble", str(here / "run"), "--format", "csv", *words])
    return (
        (0, done.output) if done.exception is None else (getattr(done.exception, "exit_code", 99), str(done.exception))
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.test={other: nowhere}", "nowhere: no such folder"),
        ("data.test=0.2", 'data.test: "a folder" -> 0.2'),
        ("trial.epochs=2", "--set trial.epochs: the trials are trained; allowed for `rfray ensemble`: "),
        ("data.train=HERE/pictures/test", "images have changed since this sweep began"),
    ],
)
def test_what_can_not_be_set_is_named_and_nothing_is_changed(moved: Path, setting: str, said: str) -> None:
    before = (moved / "run/sweep.yaml").read_bytes()
    code, text = ensemble(moved, "--set", setting.replace("HERE", str(moved)))
    assert (code, said in text) == (2, True), text
    assert (moved / "run/sweep.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_run_from_elsewhere_is_judged_on_images_that_are_here(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.cluster.connect.connected", lambda *_: nullcontext())  # Ray is here
    run = RunDir(moved / "run")
    code, text = ensemble(moved)
    assert code == 2
    assert "pictures/test: no such folder. Where it is elsewhere now: --set data.test=FOLDER" in text
    monkeypatch.chdir(moved)
    code, text = ensemble(moved, "--set", "data.test={new: pictures/test}", "--set", "ensemble.top_k=1")
    assert code == 0, text
    assert run.sweep().data.folder("test") == str(moved / "pictures/test")
    assert len(run.ensemble().members) == 1
    first = run.leaderboard_csv.read_text()
    # it stays so: the next call needs no word
    assert ensemble(moved)[0] == 0
    assert run.leaderboard_csv.read_text() == first
    # of other test images, only copies of training images are found, as these are not here
    shutil.copytree("pictures/test", "more")
    shutil.copy("pictures/train/real/001.bmp", "more/real/copy.bmp")
    code, text = ensemble(moved, "--set", "data.test=more")
    assert code == 0, text
    assert "first" in text
    assert "is not there, so of its images in test only exact copies are found" in text
    assert run.audit().duplicates
    # and with them, all are
    code, text = ensemble(moved, "--set", "data.train=pictures/train", "--set", "data.test=pictures/test")
    assert code == 0, text
    assert "is not there" not in text
    assert run.leaderboard_csv.read_text() == first

"""What runs in a trial's processes: whose the trial is, and which images it has."""

import io
import shutil
from pathlib import Path

from rich.console import Console

from rfray.commands.prepare_data import prepare_training
from rfray.store.records import Start
from rfray.store.run_dir import RunDir
from rfray.tuning.trainable import _is_mine, sweep_images
from tests.tuning.test_run_sweep import sweep_of


def test_a_trial_is_of_the_last_process_that_began_with_it_and_of_none_where_its_folder_is_gone(tmp_path: Path) -> None:
    out = RunDir(tmp_path).trial("00000-aaaaaa")
    first, second = (Start("session", "0", "host", "1", token) for token in ("one", "two"))
    out.write_starts([first])
    assert _is_mine(out, "one")
    out.write_starts([first, second])
    assert not _is_mine(out, "one")
    assert _is_mine(out, "two")
    shutil.rmtree(out.path)
    assert not _is_mine(out, "two")


def test_a_process_keeps_the_images_of_a_run_until_they_are_others(pictures: Path, tmp_path: Path) -> None:
    """The Ray of a notebook gives its processes to one sweep after the other, `--fresh` ones too."""
    run = RunDir(tmp_path / "run")
    catalog = prepare_training(run, sweep_of(pictures, tmp_path), Console(file=io.StringIO()))
    _, data, _ = sweep_images(run.path, "scale", 32)
    assert (len(data.train), len(data.val)) == (60, 20)
    assert sweep_images(run.path, "scale", 32)[1] is data
    run.write_catalog(catalog.drop(catalog.index[catalog["part"] == "train"][0]))
    assert len(sweep_images(run.path, "scale", 32)[1].train) == 59

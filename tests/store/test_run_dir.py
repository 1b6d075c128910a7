"""RunDir and its records: the order of trials, and which damage is named."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rfray.errors import InputError, RunError
from rfray.store.records import write_record
from rfray.store.run_dir import CATALOG, RunDir, newest_run
from rfray.tuning.recorder import repair
from tests.synthetic import catalog_of, finish_trial, new_run, start_trial


def test_a_folder_without_a_sweep_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run folder.*rfray tune"):
        RunDir(tmp_path).sweep()


def test_the_newest_run_is_the_one_started_last(tmp_path: Path) -> None:
    for name, started in (("b", 200), ("c", 300), ("a", 100)):
        os.utime(new_run(tmp_path / name).sweep_file, (started, started))
    (tmp_path / "z").mkdir()
    assert newest_run(tmp_path).path == tmp_path / "c"


def test_without_runs_there_is_no_newest(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run in .*runs; `rfray tune SWEEP` makes one"):
        newest_run(tmp_path / "runs")


def test_trials_come_in_the_order_in_which_they_were_proposed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    for trial_id in ("0010-aaaaaa", "0002-ffffff", "0000-cccccc"):
        start_trial(run, trial_id)
    (run.trials_folder / "0001-without-trial-json").mkdir()
    assert [trial.id for trial in run.trials()] == ["0000-cccccc", "0002-ffffff", "0010-aaaaaa"]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    trial = finish_trial(run, "0000-aaaaaa", 0.875, lr=0.1 + 0.2)
    result = trial.result()
    assert result is not None
    assert (result.id, result.position, result.status, result.score) == ("0000-aaaaaa", 0, "ok", 0.875)
    assert result.trial == trial.start().trial
    assert result.trial.lr == 0.1 + 0.2
    assert trial.history()["epoch"].tolist() == [1, 2]


def test_an_unfinished_trial_has_no_result_and_an_empty_history(tmp_path: Path) -> None:
    trial = start_trial(new_run(tmp_path / "s"), "0000-aaaaaa")
    assert trial.result() is None
    assert trial.history().empty


def test_a_missing_trial_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trials/0000-aaaaaa/trial\.json is missing$"):
        RunDir(tmp_path).trial("0000-aaaaaa").start()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"id": "0000-aaaaaa", "nu', "Unterminated string"),
        (b"\x93\xff\x00", "'utf-8' codec can't decode"),
        (b"[1, 2]", "its content does not match its digest"),
        (b'{"id": "0000-aaaaaa", "number": 3, "results_known": 0, "trial": {"backbone": "x"}}', "its content does not"),
        (b'{"id": "a", "number": 3, "sha256": "0000"}', "its content does not match its digest"),
    ],
)
def test_a_damaged_record_is_named_with_what_is_wrong(content: bytes, reason: str, tmp_path: Path) -> None:
    trial = RunDir(tmp_path).trial("0000-aaaaaa")
    trial.path.mkdir(parents=True)
    trial.start_file.write_bytes(content)
    with pytest.raises(RunError) as damaged:
        trial.start()
    assert str(damaged.value).startswith(f"{trial.start_file} is damaged: {reason}")
    trial.result_file.write_bytes(content)
    with pytest.raises(RunError, match=r"result\.json is damaged: "):
        trial.result()


def test_a_damaged_or_missing_catalog_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(RunError, match=r"catalog\.parquet is missing; .*`rfray tune` makes it again"):
        run.catalog()
    run.catalog_file.write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"catalog\.parquet is damaged: .*`rfray tune` makes it again"):
        run.catalog()


@pytest.mark.parametrize("kept", [0, 30, 300])
def test_a_sweep_cut_short_is_named_and_not_trusted(tmp_path: Path, kept: int) -> None:
    run = new_run(tmp_path / "run")
    run.sweep_file.write_bytes(run.sweep_file.read_bytes()[:kept])
    with pytest.raises(RunError, match=rf"{run.sweep_file} is damaged, or was changed by hand"):
        run.sweep()


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": {"/abs/path": "0" * 64}},
        {"files": {"../../x": "0" * 64}},
        {"files": {"history.csv": "00"}},
        {"id": "../x"},
        {"repeats": "/x"},
    ],
)
def test_a_record_with_a_name_that_leads_elsewhere_is_refused_although_its_digest_is_right(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run")
    out = finish_trial(run, "001", 0.5)
    result = out.result()
    assert result is not None
    write_record(out.result_file, result.model_copy(update=wrong))
    kept = tmp_path / "x"
    kept.write_text("mine")
    with pytest.raises(RunError, match=rf"result\.json is damaged: {next(iter(wrong))}.*: given .*; allowed: "):
        out.result()
    (found,) = repair(run)
    assert found.endswith("; the trial is run again")
    assert kept.read_text() == "mine"
    with pytest.raises(InputError, match="is no name of a file below"):
        run.trial("../../x")


def test_a_catalog_with_a_path_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for path in ("../x.jpg", "/etc/passwd", "real/../../x"):
        run.write_catalog(catalog_of(path=["real/0.jpg", path], part="test"))
        with pytest.raises(RunError, match=rf"catalog\.parquet is damaged: '{path}' is no name of a file below"):
            run.catalog()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (catalog_of(path=["a", "a"], part="test"), "an image is in it twice"),
        (catalog_of(path=[1, 2], part="test"), ""),
        (catalog_of(path=["a", None], part="test"), "an image without a path"),
        *(
            (catalog_of(path=["a", "b"], part="test").drop(columns=name), f"it has no column '{name}'")
            for name in CATALOG
        ),
    ],
)
def test_a_catalog_that_can_be_none_is_called_damaged(table: pd.DataFrame, reason: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.write_catalog(table)
    with pytest.raises(RunError, match=rf"catalog.parquet is damaged: {reason}"):
        run.images("test")

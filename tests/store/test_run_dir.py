"""RunDir: whose folder it is, who holds it, and what is said of damaged records."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rfray.errors import RunError
from rfray.spec.sweep import Sweep
from rfray.store.run_dir import RunDir, newest_run
from tests.synthetic import finish_trial, new_run, start_trial


def sweep(**changes: object) -> Sweep:
    raw = {"name": "s", "data": {"source": "demo"}, "trial": {"backbone": "test_resnet", "lr": 1e-3}}
    return Sweep.model_validate({**raw, **changes})


def test_the_same_sweep_may_claim_its_folder_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    run.claim(sweep())
    run.claim(sweep())
    assert run.sweep() == sweep()


def test_more_resources_may_go_on_with_the_same_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    run.claim(sweep())
    run.claim(sweep(resources={"cpu": 8, "gpu": 1}))
    assert run.sweep().resources.cpu == 8


def test_a_changed_sweep_is_refused_and_the_folder_stays_as_it_was(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    run.claim(sweep())
    changed = sweep(seed=1, trial={"backbone": "test_vit", "lr": [1e-3, 1e-4]})
    with pytest.raises(RunError) as refused:
        run.claim(changed)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{run.path} holds a sweep of this name with other settings:"
    assert lines[1:5] == [
        "  seed: 0 -> 1",
        '  trial.backbone: "test_resnet" -> "test_vit"',
        "  trial.lr: 0.001 -> [0.001, 0.0001]",
        "  trial.seed: 0 -> 1",
    ]
    assert "--run" in lines[5]
    assert "--fresh" in lines[5]
    assert run.sweep() == sweep()


def test_a_folder_without_a_sweep_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run folder.*rfray tune"):
        RunDir(tmp_path).sweep()


def test_moved_aside_keeps_everything_and_makes_room(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    start_trial(run, "0000-aaaaaa")
    aside = run.move_aside()
    assert aside is not None
    aside = Path(aside)
    assert aside.parent == tmp_path
    assert aside.name.startswith("s.")
    assert [trial.id for trial in RunDir(aside).trials()] == ["0000-aaaaaa"]
    assert not run.path.exists()
    assert run.move_aside() is None


HOLDER = """
import sys
from pathlib import Path
from rfray.store.run_dir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_holds_the_folder_until_it_is_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "s")
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"s is in use by process {holder.pid} on \S+ \(since .*--run"), run.lock():
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with run.lock():
        pass


def test_the_lock_stays_in_force_when_the_folder_is_moved_aside(tmp_path: Path) -> None:
    run = new_run(tmp_path / "s")
    with run.lock():
        run.move_aside()
        run.claim(sweep())
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on "), RunDir(run.path).lock():
            pass


def test_locking_alone_makes_no_folder_and_ends_with_an_exception(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "s")
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        assert not run.path.exists()


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
        run.read_catalog()
    run.catalog_file.write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"catalog\.parquet is damaged: .*`rfray tune` makes it again"):
        run.read_catalog()


@pytest.mark.parametrize("kept", [0, 30, 300])
def test_a_sweep_cut_short_is_named_and_not_trusted(tmp_path: Path, kept: int) -> None:
    run = new_run(tmp_path / "run")
    run.sweep_file.write_bytes(run.sweep_file.read_bytes()[:kept])
    with pytest.raises(RunError, match=rf"{run.sweep_file} is damaged, or was changed by hand"):
        run.sweep()

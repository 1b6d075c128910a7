"""Hopeless sweeps are ended. Damage is noticed, named and made good: in what a finished trial left, and in what a
running one goes on from."""

from pathlib import Path

import pytest
import torch

from rfray.errors import RunError
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.files import file_digest
from rfray.store.records import Start, TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, TrialDir
from rfray.training.checkpoint import write_history, write_state
from rfray.tuning.recorder import Recorder, reason_to_end, repair, results


def result(number: int, status: str, reason: str | None = None, node: str = "a") -> TrialResult:
    return TrialResult(
        id=f"{number:05d}-abcdef", position=number, status=status, reason=reason, trial=Trial(backbone="resnet18"),
        metric="auc", score=0.5 if status == "ok" else None, epochs=1, seconds=1.0, node=node, files={},
    )  # fmt: skip


def test_five_failures_in_a_row_with_one_reason_are_enough() -> None:
    fails = [result(number, "failed", f"OSError: no GPU {number}") for number in range(5)]
    assert reason_to_end(fails[:4]) is None
    assert reason_to_end(fails) == "5 trials in a row failed with the same error: OSError: no GPU 4"
    assert reason_to_end([*fails[:2], result(2, "ok"), *fails[2:]]) is None
    assert reason_to_end([*fails[:4], result(4, "failed", "another reason")]) is None


def test_a_node_on_which_every_trial_fails_is_named() -> None:
    bad = [result(number, "failed", f"reason {chr(97 + number)}", node="bad") for number in range(5)]
    good = [result(number, "ok", node="good") for number in range(5, 8)]
    assert reason_to_end([*good, *bad]) == "every trial on node bad failed (5 of 5), e.g. reason e"
    assert reason_to_end([*good, *bad[:4]]) is None
    assert reason_to_end([*good, result(9, "ok", node="bad"), *bad]) is None


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two ended trials with files that their results vouch for."""
    run = RunDir(tmp_path / "run")
    for number in range(2):
        start = TrialStart(
            id=f"{number:05d}-abcdef", number=number, results_known=number, trial=Trial(backbone="resnet18")
        )
        out = run.trial(start.id)
        write_record(out.start_file, start, out.mirror)
        out.history_file.write_text("epoch,seconds\n1,2.0\n")
        out.weights_file.write_bytes(b"weights")
        out.predictions_file("val").write_bytes(b"predictions")
        vouched = (out.start_file, out.history_file, out.weights_file, out.predictions_file("val"))
        files = {file.name: file_digest(file) for file in vouched}
        run.write_result(out, result(number, "ok").model_copy(update={"files": files}))
    return run


def test_a_folder_that_was_removed_while_its_trial_ran_is_said_with_what_to_do(run: RunDir) -> None:
    sweep = Sweep.model_validate({"name": "s", "data": {"source": "demo"}, "trial": {"backbone": "resnet18"}})
    out = run.trial("00002-abcdef")
    out.write_starts([Start("session", "0", "host", "1", "token")])  # as the next process has, too late
    with pytest.raises(RunError, match="00002-abcdef was removed while its trial ran; the same command trains it"):
        Recorder(run, sweep).record(out)
    assert not out.result_file.exists()


def test_whole_files_stay(run: RunDir) -> None:
    assert repair(run) == []
    assert [one.position for one in results(run)] == [0, 1]


@pytest.mark.parametrize("name", ["best.safetensors", "predictions-val.parquet", "history.csv"])
@pytest.mark.parametrize("harm", ["one bit", "cut short", "emptied"])
def test_a_damaged_file_is_named_and_its_trial_runs_again(run: RunDir, name: str, harm: str) -> None:
    out = run.trials()[1]
    file = out.path / name
    content = file.read_bytes()
    file.write_bytes(
        {"one bit": bytes([content[0] ^ 1]) + content[1:], "cut short": content[:-1], "emptied": b""}[harm]
    )
    (found,) = repair(run)
    assert found == f"{file} is damaged: its content does not match its digest; the trial is run again"
    assert out.result() is None
    assert not file.exists()
    assert [one.position for one in results(run)] == [0]


@pytest.mark.parametrize("harm", ["a digit", "cut short", "emptied"])
def test_a_damaged_result_is_named_and_its_trial_runs_again(run: RunDir, harm: str) -> None:
    file = run.trials()[0].result_file
    text = file.read_text()
    file.write_text(
        {"a digit": text.replace('"score": 0.5', '"score": 0.9'), "cut short": text[:-20], "emptied": ""}[harm]
    )
    (found,) = repair(run)
    assert found.startswith(f"{file} is damaged")
    assert [one.position for one in results(run)] == [1]


def test_an_edited_result_is_named_and_its_trial_runs_again(run: RunDir) -> None:
    out = run.trials()[1]
    first = out.result()
    assert first is not None
    write_record(out.result_file, first.model_copy(update={"score": 0.99}))
    (found,) = repair(run)
    wrong = "is not what was written: its digest is not in digests.json; the trial is run again"
    assert found == f"{out.result_file} {wrong}"
    assert out.result() is None


def test_without_the_digests_no_trial_is_thrown_away(run: RunDir) -> None:
    run.digests_file.unlink()
    with pytest.raises(RunError, match=r"digests\.json knows no result\.json, .*: put it back, or start anew"):
        repair(run)
    assert len(results(run)) == 2


def test_an_edited_start_is_refused(run: RunDir) -> None:
    out = run.trials()[1]
    write_record(out.start_file, out.start().model_copy(update={"results_known": 0}))
    with pytest.raises(RunError, match=r"trial\.json is damaged: .*, and the search can't be retraced without it"):
        repair(run)


def test_weights_that_were_not_kept_are_not_missed(run: RunDir) -> None:
    run.trials()[0].weights_file.unlink()
    assert repair(run) == []
    run.trials()[0].predictions_file("val").unlink()
    assert len(repair(run)) == 1


def test_the_ensemble_names_damaged_files_too(run: RunDir) -> None:
    run.check_trials()
    file = run.trials()[1].weights_file
    file.write_bytes(b"weightz")
    with pytest.raises(RunError, match=f"{file} is damaged"):
        run.check_trials()


ROWS: list[dict[str, float | None]] = [{"epoch": epoch, "ended": 9.5, "val_auc": 0.625} for epoch in (1, 2)]


@pytest.fixture
def running(run: RunDir) -> TrialDir:
    """A third trial that was killed after two epochs."""
    start = TrialStart(id="00002-abcdef", number=2, results_known=2, trial=Trial(backbone="resnet18"))
    out = run.trial(start.id)
    write_record(out.start_file, start, out.mirror)
    write_history(out, ROWS)
    write_state(out, 2, {"epoch": {"epoch": 2}, "history": ROWS, "weights": torch.arange(100.0)})
    return out


def test_a_running_trial_goes_on_with_whole_files(run: RunDir, running: TrialDir) -> None:
    assert repair(run) == []
    assert len(running.state_files()) == 1
    write_history(running, [*ROWS, {"epoch": 3, "ended": 9.5, "val_auc": 0.5}])  # killed before the state was there
    assert repair(run) == []


@pytest.mark.parametrize("cut", [1, 5, 14, 28, 40])
def test_a_history_cut_short_is_written_anew_from_the_state(run: RunDir, running: TrialDir, cut: int) -> None:
    whole = running.history_file.read_bytes()
    running.history_file.write_bytes(whole[:-cut])
    (found,) = repair(run)
    assert found.startswith(f"{running.history_file} is damaged")
    assert running.history_file.read_bytes() == whole


def test_a_trial_whose_state_is_damaged_starts_over(run: RunDir, running: TrialDir) -> None:
    (state,) = running.state_files()
    state.write_bytes(state.read_bytes()[:-7])
    (found,) = repair(run)
    assert found == f"{state} is damaged: its content does not match its name; the trial starts over"
    assert running.state_files() == []
    assert not running.history_file.exists()

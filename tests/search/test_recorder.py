"""Results written down, damage noticed, hopeless sweeps ended."""

from pathlib import Path

import pytest

from rfray.config import Trial
from rfray.files import file_digest
from rfray.run import RunDir, TrialResult, TrialStart
from rfray.search.recorder import hopeless, reopen_damaged, results


def result(number: int, status: str, reason: str | None = None, node: str = "a") -> TrialResult:
    return TrialResult(
        id=f"{number:05d}-abcdef", position=number, status=status, reason=reason, trial=Trial(backbone="resnet18"),
        metric="auc", score=0.5 if status == "ok" else None, epochs=1, seconds=1.0, node=node, files={},
    )  # fmt: skip


def test_five_failures_in_a_row_with_one_reason_are_enough() -> None:
    fails = [result(number, "failed", f"OSError: no GPU {number}") for number in range(5)]
    assert hopeless(fails[:4]) is None
    assert hopeless(fails) == "5 trials in a row failed with the same error: OSError: no GPU 4"
    assert hopeless([*fails[:2], result(2, "ok"), *fails[2:]]) is None
    assert hopeless([*fails[:4], result(4, "failed", "another reason")]) is None


def test_a_node_on_which_every_trial_fails_is_named() -> None:
    bad = [result(number, "failed", f"reason {chr(97 + number)}", node="bad") for number in range(5)]
    good = [result(number, "ok", node="good") for number in range(5, 8)]
    assert hopeless([*good, *bad]) == "every trial on node bad failed (5 of 5), e.g. reason e"
    assert hopeless([*good, *bad[:4]]) is None
    assert hopeless([*good, result(9, "ok", node="bad"), *bad]) is None


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two ended trials with files that their results vouch for."""
    run = RunDir(tmp_path / "run")
    for number in range(2):
        start = TrialStart(
            id=f"{number:05d}-abcdef", number=number, results_known=number, trial=Trial(backbone="resnet18")
        )
        out = run.trial(start.id)
        out.write_start(start)
        out.history_file.write_text("epoch,seconds\n1,2.0\n")
        out.weights_file.write_bytes(b"weights")
        out.predictions_file("select").write_bytes(b"predictions")
        vouched = (out.history_file, out.weights_file, out.predictions_file("select"))
        files = {file.name: file_digest(file) for file in vouched}
        out.write_result(result(number, "ok").model_copy(update={"files": files}))
    return run


def test_whole_files_stay(run: RunDir) -> None:
    assert reopen_damaged(run) == []
    assert [one.position for one in results(run)] == [0, 1]


@pytest.mark.parametrize("name", ["best.safetensors", "predictions-select.parquet", "history.csv"])
@pytest.mark.parametrize("harm", ["one bit", "cut short", "emptied"])
def test_a_damaged_file_is_named_and_its_trial_runs_again(run: RunDir, name: str, harm: str) -> None:
    out = run.trials()[1]
    file = out.path / name
    content = file.read_bytes()
    file.write_bytes(
        {"one bit": bytes([content[0] ^ 1]) + content[1:], "cut short": content[:-1], "emptied": b""}[harm]
    )
    (found,) = reopen_damaged(run)
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
    (found,) = reopen_damaged(run)
    assert found.startswith(f"{file} is damaged")
    assert [one.position for one in results(run)] == [1]


def test_weights_that_were_not_kept_are_not_missed(run: RunDir) -> None:
    run.trials()[0].weights_file.unlink()
    assert reopen_damaged(run) == []
    run.trials()[0].history_file.unlink()
    assert len(reopen_damaged(run)) == 1

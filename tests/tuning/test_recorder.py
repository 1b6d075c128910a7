"""Hopeless sweeps are ended."""

from rfray.spec.trial import Trial
from rfray.store.records import TrialResult
from rfray.tuning.recorder import reason_to_end


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

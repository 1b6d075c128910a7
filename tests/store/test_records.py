"""rfray.store.records: a record with a fitting digest, but what no run can have in it, is refused by its key."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rfray.errors import RunError
from rfray.spec.trial import Trial
from rfray.store.bundle_record import Bundle
from rfray.store.records import Measured, TrialResult, read_record, write_record

RESULT = TrialResult(
    id="a", position=0, status="ok", trial=Trial(backbone="resnet18"), metric="auc", score=1.0000000000000002,
    epochs=0, seconds=0.0, node="here", files={"history.csv": "0" * 64},
)  # fmt: skip
MEASURED = Measured(
    setting="", backbone="a", image_size=32, device="cpu", device_memory=0, memory=0, host_memory=1, micro_batch=1,
    images_per_second=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"score": 5.0}, "score"),
        ({"score": -0.1}, "score"),
        ({"score": float("nan")}, "score"),
        ({"position": -1}, "position"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 10**400}, "epochs"),
        ({"best_epoch": 0}, "best_epoch"),
        ({"id": "."}, "id"),
        ({"id": ""}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "a\u2215b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "a\\b"}, "id"),
        ({"id": "C:a"}, "id"),
        ({"id": "a\0"}, "id"),
        ({"id": "a" * 201}, "id"),
        ({"repeats": "~"}, "repeats"),
        ({"files": {"../x": "0" * 64}}, "files"),
        ({"files": {"/etc/passwd": "0" * 64}}, "files"),
        ({"files": {"x": "0" * 63}}, "files"),
    ],
)
def test_a_result_that_no_trial_has(wrong: dict[str, Any], key: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_record(file, RESULT)
    assert read_record(file, TrialResult) == RESULT
    write_record(file, RESULT.model_copy(update=wrong))
    with pytest.raises(RunError, match=rf"^{re.escape(str(file))} is damaged: {key}\b.*: given .*; allowed: ") as error:
        read_record(file, TrialResult)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"images_per_second": 0.0}, {"micro_batch": 0}, {"host_memory": 0}, {"memory": -1}])
def test_a_measurement_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Measured(**{**dict(MEASURED), **wrong})


def test_figures_are_not_negative() -> None:
    sound: dict[str, Any] = {"members": [], "reencode": None, "files": {}, "test_digest": "", "audit_stamp": ""}
    Bundle(**sound, versions={}, figures={"tn": 0.0, "auc": None})
    with pytest.raises(ValidationError, match=r"figures\.tn"):
        Bundle(**sound, versions={}, figures={"tn": -1.0})

"""rfray.spec.parts: what test sets may be called, and which parts, keys and words stand for them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.evaluation.ensemble import TEST_COLUMNS, WORST
from rfray.evaluation.leaderboard import column_types
from rfray.spec.parts import SetName, is_test
from rfray.spec.sweep import DataSettings, Sweep


def data(test: object) -> DataSettings:
    return DataSettings.model_validate({"train": "/a", "test": test})


def test_the_first_test_set_is_the_part_test() -> None:
    several = data({"valid": "/b", "phone": "s3://c/d", "3": "/e"})
    assert several.test_parts == ("test", "test-phone", "test-3")
    assert several.test_folders == {"test": "/b", "test-phone": "s3://c/d", "test-3": "/e"}
    assert several.test_sets == {"valid": "test", "phone": "test-phone", "3": "test-3"}
    assert [several.folder(part) for part in ("train", "val", "test", "test-phone", "test-other")] == [
        *("/a", None, "/b", "s3://c/d", None)
    ]
    assert [several.key(part) for part in ("train", "test", "test-phone")] == [
        *("data.train", "data.test.valid", "data.test.phone")
    ]
    assert [several.title(part) for part in ("val", "test", "test-3")] == ["val", "test (valid)", "test (3)"]
    assert [*filter(is_test, ("train", "val", "left out", *several.test_parts))] == [*several.test_parts]


@pytest.mark.parametrize("test", ["/b", {"only": "/b"}, 0.2])
def test_one_test_set_needs_no_name(test: object) -> None:
    one = data(test)
    assert (one.test_parts, one.test_sets) == (("test",), {})
    assert (one.key("test"), one.title("test")) == ("data.test", "test")
    assert one.folder("test") == (None if test == 0.2 else "/b")


def test_no_name_is_one_that_another_column_has() -> None:
    trial = {"backbone": "x", **{name: {"log": [1e-3, 0.1]} for name in ("lr", "weight_decay")}}
    search = {"trials": 9, "finalists": 1, "seeds": 2}
    sweep = Sweep.model_validate({"name": "a", "data": {"source": "demo"}, "trial": trial, "search": search})
    columns = {*column_types(sweep), *TEST_COLUMNS, WORST, "auc_mean", "auc_worst", "auc_phone_low", "auc_phone_high"}
    taken = {
        column.removeprefix(before)
        for column in columns
        for before in ("auc_", "accuracy_", "n_")
        if column.startswith(before)
    }
    assert len(taken) > len(CORRUPTION_NAMES) + 8
    taken |= {name.removesuffix("_low").removesuffix("_high") for name in taken}  # their columns come with a name, too
    taken -= {"phone"}
    for name in (*taken, "WORST", "x-jpeg_50", "a/b", "..", "", "a" * 41, "-a", "é"):
        with pytest.raises(ValidationError):
            TypeAdapter(SetName).validate_python(name)
    for name in ("phone", "stylegan3-ffhq", "Midjourney_v6", "test", "0", "lowlight"):
        assert TypeAdapter(SetName).validate_python(name) == name

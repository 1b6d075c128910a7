"""The error classes and the text that lists allowed names."""

import io
import pickle

import pytest
from rich.console import Console

from rfray.cli import main
from rfray.data.listing import PassedOver
from rfray.errors import (
    DataError,
    InputError,
    RfrayError,
    RunError,
    check_no_secret,
    first_line,
    nearest_first,
    printable,
    without_secrets,
)
from rfray.progress.phases import say


def all_classes(base: type[RfrayError]) -> list[type[RfrayError]]:
    return [base, *(found for child in base.__subclasses__() for found in all_classes(child))]


def test_the_input_is_exit_code_2_an_interruption_130_and_all_else_1() -> None:
    here = [found for found in all_classes(RfrayError) if found.__module__ == "rfray.errors"]
    assert len(here) == 15
    for found in here:
        assert found.exit_code == (130 if found.__name__ == "Interrupted" else 1 + issubclass(found, InputError))


def test_the_nearest_names_come_first_then_the_others_as_they_were() -> None:
    assert nearest_first("asa", ["none", "pbt", "asha"]) == "asha, none, pbt; nearest: asha"


def test_without_a_near_name_the_order_is_kept() -> None:
    assert nearest_first("xyz", ["none", "asha"]) == "none, asha"


def test_case_and_what_stands_between_the_parts_of_a_name_make_no_difference() -> None:
    assert nearest_first("AUC", ["f1", "auc"]) == "auc, f1; nearest: auc"
    assert nearest_first("top-K", ["k", "top_k"]) == "top_k, k; nearest: top_k"
    assert nearest_first("val_auc", ["f1", "auc"]) == "auc, f1; nearest: auc"
    assert nearest_first("convnext", ["a", "test_convnext", "convnext_tiny"]).endswith("nearest: convnext_tiny")


def test_a_long_list_is_cut_but_never_the_nearest() -> None:
    names = [*"abcd", "resnet50"]
    assert nearest_first("resnet5", names, limit=3) == "resnet50, a, b, … (5 in all); nearest: resnet50"


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA0:canary@bucket/runs/x",
        "s3://AKIA0:can/canary+y@bucket/runs/x",
        "gs://canary@bucket",
        "hf://user:canary@datasets/x",
        "http://me:canary@127.0.0.1:8265",
        "s3://bucket/x?secret_key=canary&region=eu",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=canary",
        "train: s3://AKIA0:canary@bucket  # ours",
        f"https://bucket/x?X-Amz-Security-Token={'canary' * 200}&region=eu",
        f"gs://{'canary' * 300}@bucket",
    ],
)
def test_a_key_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(InputError, match="a key in an address would be kept in files and logs; allowed: ") as refused:
        check_no_secret(address)
    assert "canary" not in str(refused.value)
    assert "://" in str(refused.value)
    assert "canary" not in without_secrets(f"can't read {address}: no")


@pytest.mark.parametrize(
    "text", ["s3://bucket/icon@2x.png", "http://127.0.0.1:8265/a@b", "me@home:x", "a?key=1", "train: s3://b/x  # a@b.c"]
)
def test_what_is_no_key(text: str) -> None:
    check_no_secret(text)


STEERING = {
    "\x1b[2J": r"\x1b[2J", "a\nb": r"a\nb", "a\rb": r"a\rb", "a\tb": r"a\tb", "\x9b31m": r"\x9b31m", "\x07": r"\x07",
    "\u202egnp.exe": r"\u202egnp.exe", "\u2028": r"\u2028", "\udcff": r"\udcff", "größe 你 🙂": "größe 你 🙂",
}  # fmt: skip


@pytest.mark.parametrize("name", STEERING)
def test_a_name_does_not_steer_the_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(name) == STEERING[name]
    console = Console(file=io.StringIO(), width=200, force_terminal=True, highlight=False)
    say(console, name, "next")
    assert console.file.getvalue() == f"{STEERING[name]}\nnext\n"  # type: ignore[attr-defined]
    error = RunError(f"{name}: damaged", f"  {name}")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"{STEERING[name]}: damaged\n  {STEERING[name]}"
    assert str(DataError(f"test: {RunError(name)}")) == f"test: {STEERING[name]}"
    passed = PassedOver(folders=[f"x{name}"])
    assert STEERING[name] in str(passed)
    monkeypatch.setattr("sys.argv", ["rfray", "leaderboard", f"no{name}run"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert f"no{STEERING[name]}run" in said
    assert said.count("\n") == 1


def test_an_error_without_words_has_a_first_line() -> None:
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(ValueError("\n first \nsecond")) == "first"


def test_an_address_that_is_public_has_no_secret() -> None:
    check_no_secret("gs://anonymous@bucket/faces")

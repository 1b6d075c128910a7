"""The first inputs of one seed: nothing but the documented outcomes. And faults that were planted are found."""

import os
import signal
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.__main__ import INPUTS
from tests.fuzz.runner import CPU_SECONDS, Check, Input, Make, again, findings, kept

SEED = 0
SAID = (
    "",
    "ZeroDivisionError",
    f"no end after {CPU_SECONDS} s of CPU time",
    "it took 2.0 GB of memory",
    "the process ended: SIGSEGV",
    "the process ended: exit code 3",
)
"""What is found with each of the outcomes that `prepare` has planted."""


def prepare(folder: Path) -> tuple[Make, Check]:
    """A kind of input like those of tests/fuzz: what happens depends on its byte."""

    def check(given: Input) -> None:
        match given.data[0] % len(SAID):
            case 1:
                1 / 0  # noqa: B018
            case 2:
                while True:
                    pass
            case 3:
                assert bytearray(2_000_000_000).count(1) == 0
            case 4:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 5:
                os._exit(3)

    return lambda random: Input("a/planted", random.randbytes(1)), check


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", INPUTS)
def test_nothing_but_the_documented_outcomes(kind: str) -> None:
    if kind == "requests":
        pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")
    found = list(findings(f"tests.fuzz.{kind}", SEED, range(INPUTS[kind])))
    assert not found, "\n\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_faults_that_were_planted_are_found_and_can_be_had_again(tmp_path: Path) -> None:
    outcomes = [Random(f"{__name__} {(SEED, number)}").randbytes(1)[0] % len(SAID) for number in range(200)]
    wanted = [outcomes.index(outcome) for outcome in (0, *range(len(SAID)), 0)]
    found = list(findings(__name__, SEED, wanted))
    assert [one.number for one in found] == wanted[2:-1]  # what comes after one is tried in a new process
    for one, said in zip(found, SAID[1:], strict=True):
        assert said in str(one)
    again_by = found[0].keep(tmp_path)
    folder = tmp_path / f"test_fuzz-{SEED}-{wanted[2]}"
    assert again_by == f"python -m tests.fuzz test_fuzz --again {folder}"
    assert kept(folder) == found[0].given
    assert "ZeroDivisionError" in again(__name__, kept(folder))
    assert again(__name__, Input("a/planted", b"\0")) == ""

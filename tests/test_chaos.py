"""Two orders of kills, and killed sweeps against whole ones; `make chaos` tries more."""

import subprocess
import sys

import pytest


def chaos(*arguments: str) -> None:
    # a process of its own: its Ray is not the one of the other tests
    done = subprocess.run([sys.executable, "-m", "tests.chaos", *arguments], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_on_a_cluster_leave_a_whole_run() -> None:
    chaos("--first", "1", "--seeds", "2", "--kills", "2", "--interrupted")  # all, the driver; a trial, a node


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_a_killed_sweep_gives_the_leaderboard_of_a_whole_one(scheduler: str) -> None:
    chaos("--seeds", "0", "--kills", "2", "--interrupted", scheduler)

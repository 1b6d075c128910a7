"""`rfray.open` and what it gives, on a run whose predictions are all there."""

from pathlib import Path

import pytest

import rfray
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from tests.object_store import bucket_here, upload
from tests.synthetic import FIRST, as_predicted, finish_trial, new_run, predictions


def opened(folder: Path, labels: list[int], p_fake: list[float]) -> rfray.Run:
    run = new_run(folder)
    finish_trial(run, "001", 0.9, predictions(FIRST), predictions(p_fake, labels))
    as_predicted(run)
    write_ensemble(run, choose_members(run, 1))
    write_leaderboard(run)
    return rfray.open(run.path)


def test_a_leaderboard_warns_of_a_coin_toss(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", [0, 1] * 4, [0.1, 0.1, 0.9, 0.9] * 2)
    with pytest.warns(UserWarning, match="guessing") as told:
        board = run.leaderboard()
    (warning,) = [one for one in told if "guessing" in str(one.message)]
    assert str(warning.message).startswith("No better than guessing on 8 test images: AUC 0.500 (95 % interval ")
    assert warning.filename == __file__  # where it was asked for
    assert board["name"].tolist() == ["001", "ensemble", "always-real"]


def test_one_that_is_better_does_not(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    opened(tmp_path / "run", [0, 1] * 20, [0.1, 0.9] * 20).leaderboard()
    assert not [one for one in recwarn if "guessing" in str(one.message)]


def test_one_at_an_address_is_brought_here_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened(tmp_path / "run", [0, 1] * 20, [0.1, 0.9] * 20)
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "cache"))
    with bucket_here() as bucket:
        upload(tmp_path / "run", f"{bucket}/runs/x")
        assert rfray.open(f"{bucket}/runs/x").leaderboard().equals(here.leaderboard())

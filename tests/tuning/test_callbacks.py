"""What is done with Ray Tune's events: a disk that fills up ends the sweep; the curves, as TensorBoard reads them."""

import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from rfray.errors import DiskFullError
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.store.run_dir import RunDir
from rfray.tuning.callbacks import DiskMonitor, SweepCallback, TensorBoard
from tests.tuning.test_run_sweep import run_here, sweep_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """40 MB of their own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill_after_the_first_epoch(folder: Path) -> None:
    for _ in range(1000):
        if list(folder.glob("run/trials/*/history.csv")):
            break
        time.sleep(0.05)
    try:
        with (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 10_000)
    except OSError:
        pass


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_cleanly_and_nothing_is_lost(
    pictures: Path, tmp_path: Path, small_disk: Path, ray_here: None
) -> None:
    sweep = sweep_of(pictures, tmp_path, "search.trials=2", "trial.epochs=12", "search.concurrent=1")
    filler = threading.Thread(target=fill_after_the_first_epoch, args=(small_disk,))
    filler.start()
    with pytest.raises(
        DiskFullError, match=rf"no room on the disk for {small_disk}.*needs [\d.]+ MB.*[\d.]+ MB are free"
    ):
        run_here(sweep, small_disk)
    filler.join()
    assert not list(small_disk.rglob("*.part*"))  # nothing half-written
    (small_disk / "filler").unlink()
    run, done = run_here(sweep, small_disk)
    assert [result.status for result in done] == ["ok", "ok"]
    assert all(list(run.trial(result.id).history()["epoch"]) == list(range(1, 13)) for result in done)


def test_the_folder_of_ray_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.tuning.callbacks.RAY_NEEDS", 10**18)
    monitor = DiskMonitor(tmp_path)
    with pytest.raises(DiskFullError, match=f"no room on the disk for {tmp_path}: it needs 1000000000000"):
        monitor.on_step_end()


def test_an_error_ends_the_sweep_after_the_step() -> None:
    callback = SweepCallback()
    callback.on_step_end()
    with callback.ending_the_sweep():
        raise DiskFullError("no room")
    with pytest.raises(DiskFullError, match="no room"):
        callback.on_step_end()


def events(file: Path) -> list[Event]:
    """A TFRecord file: each record is its length (8 bytes), a checksum (4), itself, a checksum (4)."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_every_epoch_is_readable_at_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    folder = run.trial("00000-a").tensorboard
    folder.parent.mkdir(parents=True)
    board = TensorBoard(run, "auc")
    for epoch in (1, 2):
        result = {EPOCH: epoch, SCORE: 0.25 * epoch, "lr": 0.5, "train_loss": None}
        board.on_trial_result(trial="00000-a", result=result)
        [file] = folder.iterdir()
        first, *epochs = events(file)
        assert first.file_version == "brain.Event:2"
        assert [event.step for event in epochs] == list(range(1, epoch + 1))
        assert {value.tag: value.simple_value for value in epochs[-1].summary.value} == {
            "val/auc": 0.25 * epoch,
            "lr": 0.5,
        }

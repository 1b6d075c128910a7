"""The curves of a trial, as TensorBoard reads them."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.store.run_dir import RunDir
from rfray.tuning.trackers import TensorBoard


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
        board.on_trial_result(0, [], "00000-a", {EPOCH: epoch, SCORE: 0.25 * epoch, "lr": 0.5, "train_loss": None})
        [file] = folder.iterdir()
        first, *epochs = events(file)
        assert first.file_version == "brain.Event:2"
        assert [event.step for event in epochs] == list(range(1, epoch + 1))
        assert {value.tag: value.simple_value for value in epochs[-1].summary.value} == {
            "val/auc": 0.25 * epoch,
            "lr": 0.5,
        }

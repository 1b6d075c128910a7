"""Ray Tune's events -> TensorBoard event files in each trial's folder, and MLflow where its variables are set."""

import os
import socket
import time
from typing import Any

from ray.tune import Callback
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from rfray.errors import InputError
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import Sweep
from rfray.store.files import is_disk_full, no_room
from rfray.store.run_dir import RunDir
from rfray.tuning.callbacks import Follower

SERIES = ("best_score", "train_loss", "lr", "images_per_second", "seconds")
"""What is followed besides the val metric."""


class EventFile(RecordWriter):
    """Hands each epoch to the system at once, but does not have the disk wait for it: curves are no record."""

    def flush(self) -> None:
        """Raises OSError where the disk is full."""
        self._writer.flush()


class TensorBoard(Follower):
    """One event file a trial: `tensorboard --logdir runs/<name>/trials`."""

    def __init__(self, run: RunDir, metric: str) -> None:
        self._run = run
        self._metric = metric
        self._writers: dict[str, EventFile] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Adds one epoch. Raises DiskFullError."""
        name, now = str(trial), time.time()
        folder = self._run.trial(name).tensorboard
        values = {f"val/{self._metric}": result[SCORE], **{key: result.get(key) for key in SERIES}}
        with self.stopping():
            try:
                if name not in self._writers:
                    folder.mkdir(exist_ok=True)
                    path = folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}"
                    self._writers[name] = EventFile(str(path))
                    self._write(name, Event(wall_time=now, file_version="brain.Event:2"))
                told = {tag: value for tag, value in values.items() if value is not None}
                curves = [Summary.Value(tag=tag, simple_value=value) for tag, value in told.items()]
                self._write(name, Event(wall_time=now, step=result[EPOCH], summary=Summary(value=curves)))
                self._writers[name].flush()
            except OSError as error:
                if is_disk_full(error):
                    raise no_room(folder, 1000) from error
                raise

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the trial's file."""
        writer = self._writers.pop(str(trial), None)
        if writer is not None:
            writer.close()
            out = self._run.trial(str(trial))
            for file in out.tensorboard.iterdir():
                out.mirror.send(file)

    def _write(self, name: str, event: Event) -> None:
        # at once, not through SummaryWriter's thread: that one dies of a full disk, and whoever waits for it hangs
        self._writers[name].write(event.SerializeToString())


def mlflow_callbacks(sweep: Sweep) -> list[Callback]:
    """Ray's own MLflow callback where MLFLOW_TRACKING_URI is set, else nothing.

    MLFLOW_EXPERIMENT_NAME names the experiment (else the sweep's name does). Raises InputError where mlflow is missing.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return []
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise InputError(
            "MLFLOW_TRACKING_URI is set, but mlflow is not installed: pip install 'rfray[mlflow]', or unset it"
        ) from None
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return [
        MLflowLoggerCallback(
            tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", sweep.name),
            tags={"rfray.sweep": sweep.name},
        )
    ]

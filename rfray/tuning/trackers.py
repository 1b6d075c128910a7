"""Ray Tune's events -> TensorBoard event files in each trial's folder, and MLflow where its variables are set."""

import os
import time
from typing import Any

from ray.tune import Callback
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from rfray.errors import InputError
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import Sweep
from rfray.store.files import is_disk_full, no_room
from rfray.store.run_dir import RunDir
from rfray.tuning.callbacks import SweepCallback

SERIES = ("best_score", "train_loss", "lr", "images_per_second", "seconds")
"""What is logged besides the val metric."""


class TensorBoard(SweepCallback):
    """One event file a trial: `tensorboard --logdir runs/<name>/trials`.

    Not Ray's TBXLoggerCallback: that one writes into Ray's own folder, which goes when the sweep ends, through a thread
    of SummaryWriter that dies of a full disk, so that whoever waits for it hangs.
    """

    def __init__(self, run: RunDir, metric: str) -> None:
        self._run = run
        self._metric = metric
        self._writers: dict[str, EventsWriter] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Adds one epoch. Raises DiskFullError."""
        out = self._run.trial(str(trial))
        values = {f"val/{self._metric}": result[SCORE], **{key: result.get(key) for key in SERIES}}
        curves = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
        with self.ending_the_sweep():
            try:
                out.tensorboard.mkdir(exist_ok=True)
                if out.id not in self._writers:
                    self._writers[out.id] = EventsWriter(str(out.tensorboard / "events"))
                event = Event(wall_time=time.time(), step=result[EPOCH], summary=Summary(value=curves))
                self._writers[out.id].write_event(event)
                self._writers[out.id].flush()
            except OSError as error:
                if is_disk_full(error):
                    raise no_room(out.tensorboard, 1000) from error
                raise

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the trial's file, and sends it to the address of the run, if it has one."""
        if (writer := self._writers.pop(str(trial), None)) is not None:
            writer.close()
            out = self._run.trial(str(trial))
            for file in out.tensorboard.iterdir():
                out.mirror.send(file)


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

"""Ray Tune's events -> TensorBoard event files in each trial's folder, and MLflow where its variables are set."""

import os
from typing import Any

from ray.tune import Callback
from tensorboardX import SummaryWriter

from rfray.config import Sweep
from rfray.errors import InputError
from rfray.run import RunDir
from rfray.search.follower import Follower
from rfray.search.strategies import EPOCH, SCORE

SERIES = ("best_score", "train_loss", "lr", "images_per_second", "seconds")
"""What is followed besides the select metric."""


class TensorBoard(Follower):
    """One event file a trial: `tensorboard --logdir runs/<name>/trials`."""

    def __init__(self, run: RunDir, metric: str) -> None:
        self._run = run
        self._metric = metric
        self._writers: dict[str, SummaryWriter] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Adds one epoch."""
        name = str(trial)
        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self._run.trial(name).tensorboard))
        writer = self._writers[name]
        writer.add_scalar(f"select/{self._metric}", result[SCORE], result[EPOCH])
        for series in SERIES:
            if result.get(series) is not None:
                writer.add_scalar(series, result[series], result[EPOCH])
        writer.flush()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the trial's file."""
        writer = self._writers.pop(str(trial), None)
        if writer is not None:
            writer.close()

    on_trial_error = on_trial_complete


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

"""Ray Tune's events -> a terminal, TensorBoard's files and MLflow; or an error that ends the sweep cleanly."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from rfray.errors import InputError, RfrayError
from rfray.progress import events
from rfray.progress.live import View
from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial, epochs_of
from rfray.store.files import is_disk_full, no_room
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir

RAY_NEEDS = 200_000_000
"""Bytes that stay free where Ray keeps its files: with less, Ray hangs without a word (tried with small disks)."""
SERIES = ("best_score", "train_loss", "lr", "images_per_second", "seconds")
"""What TensorBoard shows besides the val metric."""


class Silence(TrialProgressCallback):
    """Takes the place of Ray's own callback, which prints "completed" of a trial that failed, whatever `verbose` is."""

    def on_trial_complete(self, *arguments: object, **options: object) -> None:
        """Prints nothing."""


class SweepCallback(Callback):
    """A callback that may end the sweep with an error of rfray."""

    _reason: RfrayError | None = None

    @contextmanager
    def ending_the_sweep(self) -> Iterator[None]:
        """Keeps an error of rfray until the step ends: Ray would take it for the failure of the trial at hand."""
        try:
            yield
        except RfrayError as error:
            self._reason = error

    def on_step_end(self, **info: Any) -> None:
        """Raises what was kept."""
        if self._reason is not None:
            raise self._reason

    def __reduce__(self) -> tuple[Callable[[], Callback], tuple[()]]:
        """Pickles, for Ray's snapshot, as a callback that does nothing: rfray never reads that."""
        return Callback, ()


class DiskMonitor(SweepCallback):
    """Ends the sweep while there is still room to end it cleanly."""

    def __init__(self, ray_folder: Path) -> None:
        self._ray_folder = ray_folder

    def on_step_end(self, **info: Any) -> None:
        """Checks about ten times a second. Raises DiskFullError."""
        if shutil.disk_usage(self._ray_folder).free < RAY_NEEDS:
            raise no_room(self._ray_folder, RAY_NEEDS)


class Display(SweepCallback):
    """Shows how the sweep goes in this terminal, or as lines where the command runs as a job."""

    def __init__(
        self,
        began: events.SweepBegan,
        axes: list[str],
        training_images: int,
        has_time: Callable[[Trial], bool],
        console: Console,
    ) -> None:
        """`has_time`: whether a budget, if there is one, leaves a running trial time to go on."""
        self._began, self._axes, self._training_images, self._has_time = began, axes, training_images, has_time
        self._warned: set[str] = set()
        self._view = View(console, "Ctrl-C stops, the same command goes on")
        self._emit: Callable[[events.Event], None] = events.print_event if events.inside_job() else self._view.show

    def setup(self, **info: Any) -> None:
        """Starts the live table."""
        self._emit(self._began)

    def close(self) -> None:
        """Leaves the table as it is and gives the terminal back."""
        self._view.close()

    def on_trial_start(self, trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        setting = " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={str(value).rsplit('/', 1)[-1]}"
            for name, value in ((name, trial.config[name]) for name in self._axes)
        )
        epochs = epochs_of(trial.config, self._training_images)
        self._emit(events.TrialBegan(id=str(trial), setting=setting, epochs=epochs))

    def on_trial_result(self, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """One epoch is done; a warning is shown once, whichever trials have it."""
        for warning in set(str(result.get(WARNINGS) or "").splitlines()) - self._warned:
            self._warned.add(warning)
            self._emit(events.Warned(text=warning))
        fields = {name: result[key] for name, key in (("epoch", EPOCH), ("score", SCORE), ("best", "best_score"))}
        self._emit(events.EpochDone(id=str(trial), images_per_second=result["images_per_second"], **fields))

    def paused(self, name: str) -> None:
        """A trial has paused."""
        self._emit(events.TrialPaused(id=name))

    def ended(self, result: TrialResult) -> None:
        """A trial's result is on disk."""
        fields = result.model_dump(include={"id", "reason", "score", "best_epoch", "epochs"})
        self._emit(events.TrialEnded(by_budget=not self._has_time(result.trial), **fields))


class TensorBoard(SweepCallback):
    """One event file a trial: `tensorboard --logdir runs/<name>/trials`.

    Not Ray's TBXLoggerCallback: that one writes into Ray's own folder, which goes when the sweep ends, through a thread
    of SummaryWriter that dies of a full disk, so that whoever waits for it hangs.
    """

    def __init__(self, run: RunDir, metric: str) -> None:
        self._run, self._metric = run, metric
        self._writers: dict[str, EventsWriter] = {}

    def on_trial_result(self, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Adds one epoch. A full disk ends the sweep."""
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

    def on_trial_complete(self, trial: Any, **info: Any) -> None:
        """Closes the trial's file, and sends it to the address of the run, if it has one."""
        if (writer := self._writers.pop(str(trial), None)) is not None:
            writer.close()
            out = self._run.trial(str(trial))
            with self.ending_the_sweep():
                for file in out.tensorboard.iterdir():
                    out.mirror.send(file)


def mlflow_callbacks(sweep: Sweep) -> list[Callback]:
    """Ray's own MLflow callback where MLFLOW_TRACKING_URI is set, else nothing.

    MLFLOW_EXPERIMENT_NAME names the experiment (else the sweep's name does). Raises InputError where mlflow is missing.
    """
    if not (uri := os.environ.get("MLFLOW_TRACKING_URI")):
        return []
    if find_spec("mlflow") is None:
        raise InputError("MLFLOW_TRACKING_URI is set, but mlflow is missing: pip install 'rfray[mlflow]', or unset it")
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", sweep.name)
    return [MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment, tags={"rfray.sweep": sweep.name})]

"""trials' weights + the test images -> predictions-test.parquet of each, a trial a task on Ray."""

from collections.abc import Callable
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError
from rich.console import Console

from rfray.cluster.slots import autoscaler_notice, worker_slot
from rfray.cluster.tasks import finished, reason_of
from rfray.data.catalog import load_images
from rfray.data.geometry import geometry_of
from rfray.errors import RfrayError
from rfray.inference.missing import prediction_origins
from rfray.models.inference import predict_from_file
from rfray.stats.predictions import write_predictions
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir


def predict_test(run: RunDir, trials: list[TrialDir], connect: Callable[[], object], console: Console) -> None:
    """Predicts the test images with each of the trials, on the Ray that `connect` makes sure of.

    Raises RfrayError, naming the trials that could not.
    """
    console.print(f"Predicting the test images with {len(trials)} trials")
    connect()
    slot = worker_slot(run.sweep().resources)
    if notice := autoscaler_notice(slot):
        console.print(notice, soft_wrap=True)
    task = ray.remote(_predict).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    failed: list[str] = []
    for trial, error in finished({task.remote(run.where, trial.id, slot.threads): trial for trial in trials}):
        if isinstance(error, RayError):
            failed.append(f"{trial.id}: {reason_of(error)}")
        else:
            trial.mirror.fetch(trial.predictions_file("test"))
    if failed:
        raise RfrayError("the test images could not be predicted:\n  " + "\n  ".join(failed))


def _predict(where: Path | str, trial_id: str, threads: int) -> None:
    torch.set_num_threads(threads)
    run = RunDir(where)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    out = run.trial(trial_id)
    out.mirror.pull("result.json", WEIGHTS_FILE)
    result = out.result()
    assert result is not None  # only ended trials have kept weights
    sweep, catalog = run.sweep(), run.catalog()
    test = load_images(catalog, sweep.data, "test", geometry_of(result.trial, sweep.data.reencode))
    predictions = predict_from_file(out.weights_file, result.trial, test)
    origin = prediction_origins([out], catalog, "test")[out.id]
    write_predictions(out.predictions_file("test"), predictions, origin)
    out.mirror.send(out.predictions_file("test"))

"""trials' weights + report part -> predictions-report.parquet of each, in parallel on Ray."""

from collections.abc import Callable
from pathlib import Path

import ray
import torch
from rich.console import Console

from rfray.data.catalog import load_images
from rfray.data.geometry import geometry_of
from rfray.data.parts import prediction_origins
from rfray.errors import RfrayError
from rfray.evaluation.predictions import write_predictions
from rfray.run import WEIGHTS_FILE, RunDir, TrialDir
from rfray.search.cluster import outlook, reason_of, slot_of_one
from rfray.training.inference import predict_from_file


def predict_report_part(run: RunDir, trials: list[TrialDir], connect: Callable[[], object], console: Console) -> None:
    """Predicts the report part with each of the trials, on the Ray that `connect` makes sure of.

    Raises RfrayError, naming the trials that could not.
    """
    console.print(f"Predicting the report part with {len(trials)} trials")
    connect()
    slot = slot_of_one(run.sweep().resources)
    if coming := outlook(slot):
        console.print(coming, soft_wrap=True)
    task = ray.remote(_predict).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    pending = {task.remote(run.where, trial.id, slot.threads): trial for trial in trials}
    failed: list[str] = []
    while pending:
        (ready,), _ = ray.wait(list(pending))
        trial = pending.pop(ready)
        try:
            ray.get(ready)
            trial.mirror.fetch(trial.predictions_file("report"))
        except ray.exceptions.RayError as error:
            failed.append(f"{trial.id}: {reason_of(error)}")
    if failed:
        raise RfrayError("the report part could not be predicted:\n  " + "\n  ".join(failed))


def _predict(where: Path | str, trial_id: str, threads: int) -> None:
    torch.set_num_threads(threads)
    run = RunDir(where)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    out = run.trial(trial_id)
    out.mirror.pull("result.json", WEIGHTS_FILE)
    result = out.result()
    assert result is not None  # only ended trials have kept weights
    sweep, catalog = run.sweep(), run.read_catalog()
    report = load_images(catalog, sweep.data, "report", geometry_of(sweep.data, result.trial))
    predictions = predict_from_file(out.weights_file, result.trial, report)
    origin = prediction_origins([out], catalog, "report")[out.id]
    write_predictions(out.predictions_file("report"), predictions, origin)
    out.mirror.send(out.predictions_file("report"))

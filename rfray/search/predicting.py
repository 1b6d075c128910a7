"""weights of the kept trials + report part -> predictions-report.parquet of each, in parallel on Ray."""

import hashlib
from pathlib import Path

import ray
from rich.console import Console

from rfray.data.catalog import load_images, part_digest
from rfray.errors import RfrayError
from rfray.evaluation.predictions import predictions_metadata, write_predictions
from rfray.run import RunDir, TrialDir
from rfray.search.cluster import connected, slot_for
from rfray.training.inference import predict_from_file


def predict_report_part(run: RunDir, trials: list[TrialDir], address: str | None, console: Console) -> None:
    """Predicts the report part with each trial whose predictions are missing or of other weights or images.

    Raises RfrayError, naming the trials, where some could not be made.
    """
    images = part_digest(run.read_catalog(), "report")
    missing = [trial for trial in trials if not _is_current(trial, images)]
    if not missing:
        return
    console.print(f"Predicting the report part with {len(missing)} of {len(trials)} trials")
    with connected(address):
        slot = slot_for(run.sweep().resources)
        task = ray.remote(_predict).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
        pending = {task.remote(run.path, trial.id, images, slot.threads): trial for trial in missing}
        failed: list[str] = []
        while pending:
            (ready,), _ = ray.wait(list(pending))
            trial = pending.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                failed.append(f"{trial.id}: {str(cause).splitlines()[0]}")
        if failed:
            raise RfrayError("the report part could not be predicted:\n  " + "\n  ".join(failed))


def _is_current(trial: TrialDir, images: str) -> bool:
    if not trial.weights_file.exists():
        return True
    wanted = {"weights": _file_digest(trial.weights_file), "images": images}
    return wanted.items() <= predictions_metadata(trial.predictions_file("report")).items()


def _predict(run_path: Path, trial_id: str, images: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    run = RunDir(run_path)
    out = run.trial(trial_id)
    result = out.result()
    assert result is not None  # only ended trials have kept weights
    report = load_images(run.read_catalog(), run.sweep().data, "report", result.trial.image_size)
    predictions = predict_from_file(out.weights_file, result.trial, report)
    write_predictions(
        out.predictions_file("report"), predictions, {"weights": _file_digest(out.weights_file), "images": images}
    )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

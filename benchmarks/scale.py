"""Trials that sleep instead of train -> what the search layer itself costs, and the share of slot time in use.

Everything else is real: Ray Tune, the searcher, the recorder, TensorBoard, the display, and the files that a trial
writes after every epoch. The slots are Ray's bookkeeping (so many CPUs, whatever the machine has), a process each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.figures import Figure
from rfray.store.files import file_digest, write_whole
from rfray.store.ownership import claim_run
from rfray.store.records import Start
from rfray.store.run_dir import RunDir, TrialDir
from rfray.tuning.trainable import SweepJob

ROOT = Path(__file__).parent.parent
STATE = 1_000_000
"""Bytes of a state, and of weights."""


class Measured(NamedTuple):
    """What one sweep of sleeping trials came to."""

    results: int
    """Epochs reported, of all trials."""
    slept: float
    """Seconds, of all trials."""
    wall: float
    """Seconds from the first trial's first epoch to the end of the last one's last."""
    driver: float
    """CPU seconds of the driver's process meanwhile, Ray's threads in it included."""
    memory: tuple[float, float]
    """Resident megabytes of the driver, before the first trial and after the last."""
    worker: float
    """Megabytes that one trial's process has for itself, after its last epoch; the median."""


def scale(
    folder: Path,
    rounds: int = 1,
    trials: int = 40,
    epochs: int = 5,
    slots: int = 8,
    sleep_ms: int = 1000,
    images: int = 500,
) -> list[Figure]:
    """The search layer with trials that sleep: its overhead for a result, its memory, and how busy the slots are."""
    sizes = {"trials": trials, "epochs": epochs, "slots": slots, "sleep": sleep_ms / 1000, "images": images}
    found = [_measured(folder / f"{number}", sizes) for number in range(rounds)]
    last = found[-1]
    grew = f"driver {last.memory[0]:.0f} MB before, {last.memory[1]:.0f} MB after"
    shortest = slots * last.driver / last.results
    return [
        Figure(
            f"{trials} trials x {epochs} epochs that sleep {sleep_ms / 1000:g} s, {slots} slots",
            "the sleep alone, no slot ever empty",
            [one.wall for one in found],
            [one.slept / slots for one in found],
            least_ratio=0.9,
            note=f"the ratio is the share of slot time in use; {grew}, a trial's process {last.worker:.0f} MB",
        ),
        Figure(
            "the driver's CPU time for a result",
            "the time between two results",
            [one.driver / one.results for one in found],
            [one.slept / slots / one.results for one in found],
            note=f"{slots} slots would keep it busy all the time with epochs of {shortest:.2f} s",
        ),
    ]


def _measured(folder: Path, sizes: Mapping[str, float]) -> Measured:
    """In a process of its own, as the driver's memory and time are what is asked for."""
    folder.mkdir(parents=True)
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    log, out = folder / "log.txt", folder / "measured.json"
    with log.open("w") as said:
        command = [sys.executable, "-m", "benchmarks.scale", str(folder / "run"), str(out), *options]
        ended = subprocess.run(command, cwd=ROOT, stdout=said, stderr=said)
    if ended.returncode:
        raise RuntimeError(f"ended with {ended.returncode}:\n{log.read_text()[-3000:]}")
    found = Measured(**json.loads(out.read_text()))
    share = found.slept / sizes["slots"] / found.wall
    print(f"  {share:.1%} in use, {1000 * found.driver / found.results:.1f} ms of the driver a result", flush=True)
    return found


def sleep_through(config: dict[str, Any], job: SweepJob, sleep: float, images: int) -> None:
    """Stands in for `rfray.tuning.trainable.run_trial`: sleeps, and writes after each epoch what a trial writes.

    A trial's epochs last three to five quarters of `sleep` seconds: some models are slower than others.
    """
    from ray import tune

    from rfray.progress.metric_keys import EPOCH, SCORE, WARNINGS
    from rfray.spec.trial import Trial
    from rfray.stats.predictions import Predictions, write_predictions
    from rfray.training.checkpoint import write_history

    out = RunDir(job.run).trial(tune.get_context().get_trial_name())
    trial = Trial(**{name: value for name, value in config.items() if name != "id"})
    out.write_starts([*out.starts(), Start(job.session, "0", "here", str(os.getpid()), "token")])
    random = np.random.default_rng(int(out.id.split("-")[0]))
    labels = np.arange(images, dtype=np.int8) % 2
    ids = np.array([f"{'fake' if label else 'real'}/{number:06d}.jpg" for number, label in enumerate(labels)])
    pause = float(sleep * random.uniform(0.75, 1.25))
    history: list[dict[str, float | None]] = []
    best, best_epoch = -1.0, 0
    for epoch in range(1, trial.epochs + 1):
        began, memory = time.time(), psutil.Process().memory_full_info().uss / 1e6
        time.sleep(pause)
        score = float(1 - 0.05 * (np.log10(trial.lr) + 3) ** 2 - 0.3 / epoch + 0.02 * random.normal())
        score = min(1.0, max(0.0, score))
        row = {"epoch": epoch, "train_loss": 1 - score, "lr": trial.lr, "seconds": pause, "images_per_second": 100.0}
        history.append(
            {**row, "wait_share": 0.1, "began": began, "ended": time.time(), "memory": memory, "val_auc": score}
        )
        write_history(out, history)
        _write_state(out, epoch)
        if score > best:
            best, best_epoch = score, epoch
            origin = {"epoch": str(epoch), "score": repr(score), "trial": trial.model_dump_json()}
            write_whole(out.weights_file, bytes(STATE))
            p_fake = np.clip(labels * 0.2 + random.uniform(0, 0.8, images), 0, 1)
            write_predictions(out.predictions_file("val"), Predictions(ids, labels, p_fake), origin)
            for file in (out.weights_file, out.predictions_file("val")):
                file_digest(file)
        said = {EPOCH: epoch, SCORE: score, WARNINGS: "", "best_score": best, "best_epoch": best_epoch}
        tune.report({**said, **{name: row[name] for name in ("train_loss", "lr", "images_per_second", "seconds")}})


def _write_state(out: TrialDir, epoch: int) -> None:
    """As `rfray.training.checkpoint.write_state`, without torch."""
    earlier = out.state_files()
    write_whole(out.state_file(epoch, f"{epoch:016d}"), bytes(STATE))
    for file in earlier:
        file.unlink()


def main() -> None:
    """Runs one sweep of sleeping trials and writes what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, help="JSON file")
    for name in ("trials", "epochs", "slots", "images"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--sleep", type=float, required=True, help="seconds of an epoch")
    parser.add_argument("--algorithm", default="optuna")
    parser.add_argument("--scheduler", default="none", help="none: every trial goes through all its epochs")
    given = parser.parse_args()
    given.out.write_text(json.dumps(_sweep(given)._asdict()))


def _sweep(given: argparse.Namespace) -> Measured:
    from rich.console import Console

    from rfray.cluster.slots import Slot
    from rfray.spec.sweep import Sweep
    from rfray.tuning import run_sweep

    sweep = Sweep.model_validate(
        {
            "name": "scale",
            "data": {"source": "demo"},
            "trial": {
                "backbone": ["test_resnet", "test_vit"],
                "augmentation": ["none", "light"],
                "lr": {"log": [1e-5, 1e-1]},
                "epochs": given.epochs,
            },
            "search": {"trials": given.trials, "algorithm": given.algorithm, "scheduler": given.scheduler},
            "resources": {"cpu": 1, "gpu": 0},
        }
    )
    run = RunDir(given.run)
    claim_run(run, sweep)
    driver, memory = psutil.Process(), []
    trainable = partial(sleep_through, sleep=given.sleep, images=given.images)
    with _ray(given.slots) as session:
        memory.append(driver.memory_info().rss / 1e6)
        before = time.process_time()
        with patch.object(run_sweep, "run_trial", trainable):
            run_sweep.run_sweep(run, sweep, Slot(1, 0), session, Console(width=160))
        used = time.process_time() - before
        memory.append(driver.memory_info().rss / 1e6)
    histories = [out.history() for out in run.trials()]
    first = min(history["began"].min() for history in histories)
    last = max(history["ended"].max() for history in histories)
    results = sum(len(history) for history in histories)
    slept = float(sum(history["seconds"].sum() for history in histories))
    worker = float(np.median([history["memory"].iloc[-1] for history in histories]))
    return Measured(results, slept, last - first, used, (memory[0], memory[1]), worker)


@contextmanager
def _ray(slots: int) -> Iterator[Path]:
    import ray

    from rfray.cluster.connect import start_local_ray
    from rfray.cluster.ray_internals import keep_environment

    keep_environment()
    context = start_local_ray({}, slots)
    try:
        yield Path(context.address_info["session_dir"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

"""A run folder made by hand -> the time in which its trials vote and its leaderboard is written, against reading it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import Figure, alternate, timed
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.evaluation.significance import Evaluated, significance
from rfray.stats.metrics import measured, metric
from rfray.stats.predictions import Predictions
from rfray.stats.voting import METHODS
from rfray.store.run_dir import RunDir
from tests.synthetic import as_predicted, finish_trial, new_run


def leaderboard(folder: Path, rounds: int = 3, trials: int = 100, images: int = 2000) -> list[Figure]:
    """`write_leaderboard` of a run in which every trial has predicted test."""
    run = synthetic_run(folder / "run", trials, images)
    files = [out.predictions_file("test") for out in run.trials()]

    def by_rfray() -> float:
        return timed(lambda: write_leaderboard(run))

    def by_reading() -> float:
        return timed(lambda: [pq.read_table(file) for file in files])

    return [
        Figure(
            f"leaderboard of {trials} trials x {images} images",
            "reading the same parquet files",
            *alternate(by_rfray, by_reading, rounds),
            most_seconds=10,
        )
    ]


def votes(folder: Path, rounds: int = 3, trials: int = 50, images: int = 2000) -> list[Figure]:
    """`rfray ensemble` with every method, for a run whose trials have predicted the val and test."""
    run = as_predicted(synthetic_run(folder / "run", trials, images))
    files = [out.predictions_file(part) for out in run.trials() for part in ("val", "test")]
    options = [word for method in ("soft", *METHODS) for word in ("--method", method)]
    command = [sys.executable, "-m", "rfray.cli", "ensemble", str(run.path), *options]

    def by_rfray() -> float:
        return timed(lambda: subprocess.run(command, check=True, capture_output=True))

    def by_reading() -> float:
        return timed(lambda: [pq.read_table(file) for file in files])

    return [
        Figure(
            f"votes of {trials} trials x {images} images, {', '.join(METHODS)}",
            "reading the same parquet files",
            *alternate(by_rfray, by_reading, rounds),
            most_seconds=10,
        )
    ]


def intervals(folder: Path, rounds: int = 3, rows: int = 100, images: int = 10_000) -> list[Figure]:
    """The intervals and paired tests of as many rows of a leaderboard, every one of them bootstrapped."""
    reports = list(_reports(np.random.default_rng(0), rows, images))
    rows_on_test = [Evaluated(f"{number:05d}", "model", 0.5, 0.5, report) for number, report in enumerate(reports)]

    def by_rfray() -> float:
        return timed(lambda: significance(rows_on_test, None, None))

    def by_measuring() -> float:
        return timed(lambda: [measured(report, 0.5) for report in reports])

    return [
        Figure(
            f"intervals and tests of {rows} rows x {images} images",
            "the metrics alone",
            *alternate(by_rfray, by_measuring, rounds),
            most_seconds=5,
        )
    ]


def synthetic_run(folder: Path, trials: int, images: int) -> RunDir:
    """A finished run whose trials tell real from fake a little better than chance, no two of them alike."""
    run = new_run(folder)
    generator = np.random.default_rng(0)
    reports = _reports(generator, trials, images)
    for number, report in enumerate(reports):
        val = next(_reports(generator, 1, images))
        finish_trial(run, f"{number:05d}-abcdef", metric("auc", val), val, report)
    return run


def _reports(generator: np.random.Generator, count: int, images: int) -> Iterator[Predictions]:
    labels = (np.arange(images) % 2).astype(np.int8)
    ids = np.array([f"{'fake' if label else 'real'}/{number:06d}.jpg" for number, label in enumerate(labels)])
    for _ in range(count):
        yield Predictions(ids, labels, 1 / (1 + np.exp(-generator.normal(labels - 0.5))))

"""python -m benchmarks.unseen FOLDER: which detector is better on a generator that no trial has seen.

FOLDER has train/ and test/ with real/<source>/ and fake/<source>/ inside. With each seed one generator and one source
of photographs are held back from training. Two sweeps, side by side on a core each, have the same seed, settings and
budget: one chooses on a random share of the training images (`search.judge: val`), the other on sources that it leaves
out in turn (`search.judge: unseen`). Their votes are judged on the test images of what was held back.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.record import RESULTS, hardware
from benchmarks.sweeps import run_command, tune_command
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.evaluation.significance import SINGLE
from rfray.spec.sweep import CLASSES
from rfray.store.run_dir import RunDir

WAYS = {"val": "a random split", "unseen": "left-out sources"}
"""`search.judge` -> what models are chosen on."""
ONE_SOURCE = 300
"""Images of each class that are taken of a further folder: about as many as a source of the first one has."""
SWEEP = """
name: unseen
seed: {seed}
data:
  train: {folder}/train
  test: {{unseen: {folder}/unseen, seen: {folder}/seen}}
  group: subfolder
  reencode: {{size: {side}, quality: 90}}
trial:
  backbone: tf_efficientnet_lite0
  pretrained: {weights}
  augmentation: [none, light, strong, compression]
  image_size: {side}
  lr: {{log: [1.0e-4, 5.0e-3]}}
  drop_rate: [0.0, 0.4]
  layer_decay: [1.0, 0.7]
  epochs: 40
  batch_size: 32
search: {{budget: {seconds}s, judge: {judge}, concurrent: 1}}
resources: {{cpu: 1, gpu: 0}}
"""


def sources_of(folder: Path, label: str) -> list[str]:
    """The sources of a class, by name."""
    return sorted(one.name for one in (folder / "train" / label).iterdir() if one.is_dir())


def hold_back(folder: Path, others: Sequence[Path], seed: int, out: Path) -> dict[str, str]:
    """Writes train/, unseen/ and seen/ of links to the images; class -> the source that is held back."""
    held = {label: (names := sources_of(folder, label))[seed % len(names)] for label in CLASSES}
    for label, part in product(CLASSES, ("train", "test")):
        for source in (folder / part / label).iterdir():
            place = part if part == "train" else "unseen" if source.name == held[label] else "seen"
            if part == "test" or source.name != held[label]:
                _link(source.iterdir(), out / place / label / source.name)
    for other, label in product(others, CLASSES):
        files = sorted((other / "train" / label).rglob("*.*"))
        _link(random.Random(seed).sample(files, min(ONE_SOURCE, len(files))), out / "train" / label / other.name)
    return held


def _link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


def measured(folder: Path, judge: str, seed: int, seconds: int, weights: Path, side: int) -> dict[str, object]:
    """One sweep and its vote: AUC on what was held back and on the other sources, of the vote and the best model."""
    sweep, run = folder / f"{judge}.yaml", folder / judge
    sweep.write_text(SWEEP.format(**locals()))
    cache, log = folder / f"cache-{judge}", folder / f"{judge}.log"
    tune = tune_command(sweep, run)
    run_command(tune, cache, log)
    run_command([*tune[:3], "ensemble", str(run), "--format", "csv"], cache, folder / f"{judge}-ensemble.log")
    frame = read_leaderboard(RunDir(run))
    vote, best = frame[frame["name"] == "ensemble"].iloc[0], frame[frame["kind"].isin(SINGLE)].iloc[0]
    trials = frame[(frame["kind"] == "model") & (frame["epochs"] > 0)]
    return {
        "unseen": float(vote["auc"]),
        "seen": float(vote["auc_seen"]),
        "best_model_unseen": float(best["auc"]),
        "members": str(vote["members"]),
        "claimed": float(vote["val_auc_unseen" if judge == "unseen" else "val_auc"]),
        "trials": len(trials),
        "epochs": int(trials["epochs"].sum()),
        "n": int(vote["n"]),
    }


def difference(pairs: Sequence[Mapping[str, Mapping[str, float]]], figure: str) -> tuple[float, float, float]:
    """Mean of left-out sources minus random split, and its 95 % interval (Student's t, paired by seed)."""
    found = np.array([pair["unseen"][figure] - pair["val"][figure] for pair in pairs])
    reach = stats.t.ppf(0.975, len(found) - 1) * stats.sem(found) if len(found) > 1 else float("nan")
    return float(found.mean()), float(found.mean() - reach), float(found.mean() + reach)


HEADER = (
    "| budget | seeds | what is judged | by a random split | by left-out sources | difference (95 % interval) |\n"
    "|---|---:|---|---:|---:|---:|"
)
FIGURES = {
    "unseen": "AUC of the vote on the generator and the photographs that were held back",
    "best_model_unseen": "the same of the best single model",
    "seen": "AUC of the vote on test images of the sources it has learned from",
    "claimed": "AUC that the vote is chosen by",
}
"""Figure of `measured` -> what it is."""


def rows(seconds: int, pairs: Sequence[Mapping[str, Mapping[str, float]]]) -> Iterable[str]:
    """The table's rows of a budget."""
    for figure, what in FIGURES.items():
        means = [f"{np.mean([pair[judge][figure] for pair in pairs]):.3f}" for judge in WAYS]
        mean, low, high = difference(pairs, figure)
        yield f"| {seconds} s | {len(pairs)} | {what} | {' | '.join(means)} | {mean:+.3f} ({low:+.3f} to {high:+.3f}) |"


def main(words: Iterable[str] | None = None, show: Callable[[str], object] = print) -> None:
    """Measures, prints the table, and writes results/unseen.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders whose train/ is one more source")
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0 (.safetensors)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, nargs="+", default=[120, 240])
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(None if words is None else list(words))
    record = []
    for seconds, seed in product(asked.seconds, range(asked.seeds)):
        with tempfile.TemporaryDirectory(prefix="rfray-bench-") as place, ThreadPoolExecutor() as pool:
            held = hold_back(asked.folder, asked.also, seed, Path(place))
            given = seed, seconds, asked.weights.resolve(), asked.side
            tasks = {judge: pool.submit(measured, Path(place), judge, *given) for judge in WAYS}
            found = {judge: task.result() for judge, task in tasks.items()}
        record.append({"seconds": seconds, "seed": seed, "held_back": held, **found})
        show(json.dumps(record[-1]))
    asked.results.mkdir(parents=True, exist_ok=True)
    whole = {"date": date.today().isoformat(), "hardware": hardware(), "side": asked.side, "sweeps": record}
    (asked.results / "unseen.json").write_text(json.dumps(whole, indent=1) + "\n")
    show(HEADER)
    for seconds in asked.seconds:
        for row in rows(seconds, [one for one in record if one["seconds"] == seconds]):
            show(row)


if __name__ == "__main__":
    main()

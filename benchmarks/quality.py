"""A folder and a time budget -> how good the detectors are that rfray, and others in the same time, come to.

python -m benchmarks quality         on the demo data
python -m benchmarks.quality FOLDER  on a folder with train/ and valid/ inside -> results/quality-<name>.json, README.md
python -m benchmarks.quality FOLDER --ablation [NAME …]
                                     rfray with one thing switched off -> results/ablation-<name>.json, README.md

Every way searches the same space on the same slots until the time is up, chooses by its own val and predicts
the valid folder afterwards; one function, `score`, judges all of them by what they predicted.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.figures import Figure
from benchmarks.record import README, RESULTS, table, write_result, write_table
from benchmarks.resampled import write_resampled
from benchmarks.sweeps import run_command, tune_command, warm_up
from rfray.data.catalog import load_images
from rfray.data.demo import make_demo
from rfray.data.geometry import geometry_of
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.evaluation.significance import SINGLE
from rfray.stats.metrics import metric
from rfray.stats.paired_tests import placements
from rfray.stats.predictions import (
    Predictions,
    predictions_metadata,
    read_predictions,
    trial_predictions,
    write_predictions,
)
from rfray.store.bundle_record import vote_name
from rfray.store.files import file_digest
from rfray.store.run_dir import RunDir, TrialDir

PREDICTED = {"id": object, "label": np.int8, "p_fake": np.float64}
"""Columns of a peer's predictions -> their types."""

# torch and timm are imported inside the functions: a list of the benchmarks needs neither.

RFRAY = "rfray"
WAYS = {RFRAY: "rfray", "ray-tune": "plain Ray Tune", "optuna": "Optuna and a loop", "random": "random search"}
"""Name -> what it is called; the others are those of `benchmarks.quality_peers`."""


@dataclass(frozen=True)
class SwitchedOff:
    """rfray without one thing of it."""

    what: str
    changes: tuple[str, ...]
    """For `rfray tune --set`."""


ABLATIONS = {
    "no-probe": SwitchedOff("probes, and heads that come from them", ("search.probe=false", "trial.head=random")),
    "no-probe-head": SwitchedOff("heads that come from probes", ("trial.head=random",)),
    "no-asha": SwitchedOff("stopping early", ("search.scheduler=none",)),
    "no-optuna": SwitchedOff("where the search begins, and optuna", ("search.algorithm=random",)),
    "no-flip": SwitchedOff("mirror images that must prove themselves", ("trial.tta=none",)),
    "no-ema": SwitchedOff("a constant rate, and weights averaged over steps", ("trial.schedule=cosine", "trial.ema=0")),
}
CALLED = WAYS | {name: f"rfray without {one.what}" for name, one in ABLATIONS.items()}
MARKS = ("<!-- quality: written by python -m benchmarks -->", "<!-- end of quality -->")
ABLATION_MARKS = ("<!-- ablation: written by python -m benchmarks -->", "<!-- end of ablation -->")
LEAST_RATIO = 4
"""The goal: the AUC that another way ends with in a quarter of its time."""


@dataclass(frozen=True)
class Task:
    """What every way is given: the images, the space, and what it may use."""

    name: str
    """What the images are called."""
    train: str
    """Folder with real/ and fake/ inside."""
    test: str
    """The same, held out."""
    weights: dict[str, str | None]
    """Backbone -> file of the weights that it starts from; None: from scratch. One axis of the space."""
    side: int
    """Of the square that models see, in pixels."""
    lr: tuple[float, float]
    """Lowest and highest learning rate, log-uniform: the other axis."""
    epochs: int
    """Of one trial, at the most."""
    val: float
    weight_decay: float = 0.05
    batch_size: int = 32
    slots: int = 2
    """Trials at once, a CPU thread each."""
    top_k: int = 3
    """Members of the vote."""


@dataclass(frozen=True)
class Step:
    """What would have been handed over from a moment on: the best single model by val so far."""

    seconds: float
    """Since the start of the process."""
    val_auc: float
    report: Predictions
    """Of the held-out images."""


@dataclass(frozen=True)
class Arm:
    """What one way came to in one round."""

    seconds: float
    """From the start of its process to the end of its last training."""
    trials: int
    """That came as far as one epoch."""
    steps: list[Step]
    """In order; the last one is the best single model of all."""
    vote: Predictions
    """Of the held-out images."""


def quality(folder: Path, minutes: int = 1, seconds: int = 0, seeds: int = 1, ways: int = len(WAYS)) -> list[Figure]:
    """The AUC of what rfray, plain Ray Tune, Optuna and random search come to in the same time, on the demo data."""
    demo = make_demo(folder / "demo")
    backbones = ("test_resnet", "test_efficientnet", "mobilenetv3_small_050")
    task = Task(
        name="demo",
        train=str(demo / "train"),
        test=str(demo / "test"),
        weights=dict.fromkeys(backbones),
        side=96,
        lr=(3e-4, 3e-3),
        epochs=6,
        val=0.22,
    )
    return measure(folder, task, 60 * minutes + seconds, range(seeds), tuple(WAYS)[:ways])


Round = Mapping[str, Mapping[str, Any]]
"""Way -> what `score` says of it, of one seed."""


def measure(
    folder: Path,
    task: Task,
    budget: int,
    seeds: Iterable[int],
    ways: Sequence[str] = tuple(WAYS),
    known_rounds: Sequence[Round] = (),
) -> list[Figure]:
    """Runs every way with every seed, in turn and in another order each time; `budget` is in seconds.

    What is in `folder` already, from a call before that was stopped, is not measured again; the figures are of
    `known_rounds`, too. Raises ValueError where `folder` is of another task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, asked = folder / "task.json", json.dumps({**asdict(task), "budget": budget}, indent=1)
    if known.exists() and known.read_text() != asked:
        raise ValueError(f"{folder} holds another measurement: what it was is in {known}")
    known.write_text(asked)
    scored: list[Round] = list(known_rounds)
    for seed in seeds:
        for name in in_turn(seed, ways):
            out = folder / f"{seed}-{name}"
            if not (out / "arm.json").exists():
                if not (folder / "warm-up.txt").exists():
                    warm_up(folder)
                _run(name, task, budget, seed, out)
        arms = {name: read_arm(folder / f"{seed}-{name}") for name in ways}
        scored.append({name: {**found, "seed": seed, "date": f"{date.today()}"} for name, found in score(arms).items()})
        for name, found in scored[-1].items():
            best, vote = found["best"]["auc"], found["vote"]["auc"]
            print(f"  seed {seed} {name:9} best {best:.4f} vote {vote:.4f} ({found['trials']} trials)", flush=True)
    return figures(task, budget, scored)


def in_turn(seed: int, ways: Sequence[str] = tuple(WAYS)) -> list[str]:
    """The ways in the order in which they run with this seed: each is the first one once in as many seeds."""
    names = list(ways)
    return names[seed % len(names) :] + names[: seed % len(names)]


def score(arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
    """Judges what all ways (name -> arm, `RFRAY` among them) say of the same held-out images, in one round.

    Of each: `best` and `vote` with `auc`, `low` and `high` (95 %, DeLong) and the same of its difference to rfray's
    vote (`minus`, `minus_low`, `minus_high`, paired); `curve`, [seconds, AUC] of each step; and `seconds_to`: of each
    way, when this one's curve came to the AUC of the best single model that the other ended with, and stayed there.
    Raises ValueError where they speak of different images.
    """
    rows: dict[tuple[str, str], Predictions] = {(RFRAY, "vote"): arms[RFRAY].vote}
    for name, arm in arms.items():
        rows |= {(name, "vote"): arm.vote, (name, "best"): arm.steps[-1].report}
    labels, scores = _aligned(list(rows.values()))
    placed = placements(labels, scores)
    against = placed.minus(0)
    judged = {}
    for row, key in enumerate(rows):
        interval, (low, high) = placed.intervals[row].tolist(), against.intervals[row].tolist()
        judged[key] = {
            "auc": _auc(rows[key]),
            "low": interval[0],
            "high": interval[1],
            "minus": float(against.values[row]),
            "minus_low": low,
            "minus_high": high,
        }
    ends = {name: judged[name, "best"]["auc"] for name in arms}
    found = {}
    for name, arm in arms.items():
        curve = [(step.seconds, _auc(step.report)) for step in arm.steps]
        found[name] = {
            "seconds": arm.seconds,
            "trials": arm.trials,
            "best": judged[name, "best"],
            "vote": judged[name, "vote"],
            "curve": curve,
            "seconds_to": {other: seconds_to(curve, auc) for other, auc in ends.items()},
        }
    return found


def seconds_to(curve: Sequence[tuple[float, float]], auc: float) -> float | None:
    """When a curve of (seconds, AUC) came to `auc` and stayed there or above until its end; None if it is not there.

    Not the first time that it is met: a curve that goes on and falls again was not there yet.
    """
    reached = None
    for seconds, value in reversed(curve):
        if value < auc:
            break
        reached = seconds
    return reached


def rounds_in(file: Path, task: Task, budget: int) -> list[Round]:
    """The rounds that a result has, in order of their seeds; none where there is no file.

    Raises ValueError where it is of another task.
    """
    if not file.exists():
        return []
    ways = [figure["details"] for figure in json.loads(file.read_text())["figures"]]
    for one in (one for details in ways for one in details):
        if {"task": one["task"], "budget": one["budget"]} != json.loads(json.dumps(_setting(task, budget))):
            raise ValueError(f"{file} holds another measurement, so there is nothing to go on from")
    return [{one["way"]: one for one in together} for together in zip(*ways, strict=True)]


def _setting(task: Task, budget: int) -> dict[str, Any]:
    """Task and budget without the folders of this machine."""
    return {"task": {**asdict(task), "train": "", "test": "", "weights": _named(task.weights)}, "budget": budget}


def figures(task: Task, budget: int, scored: Sequence[Round]) -> list[Figure]:
    """A row for rfray's own time, and one for each other way: its time against rfray's to the same AUC."""

    def details(name: str) -> list[dict[str, Any]]:
        return [{**found[name], "way": name, **_setting(task, budget)} for found in scored]

    own = [found[RFRAY]["seconds"] for found in scored]
    made = [Figure(f"{task.name}: rfray tune", "its budget", own, [float(budget)] * len(own), details=details(RFRAY))]
    for name in [name for name in scored[0] if name != RFRAY]:
        reached = [found[RFRAY]["seconds_to"][name] for found in scored]
        made.append(
            Figure(
                f"{task.name}: rfray's best single model as good as the other's",
                f"{CALLED[name]}, {budget} s",
                [math.inf if seconds is None else seconds for seconds in reached],
                [found[name]["seconds"] for found in scored],
                least_ratio=LEAST_RATIO if name in WAYS else None,
                details=details(name),
            )
        )
    return made


def quality_table(folder: Path, of: str = "quality") -> str:
    """What results/quality*.json (or ablation*.json) say of AUCs as Markdown: a row for each way on each folder."""
    lines = [
        "| images, time | way | trials | best single | vote of its best | vote minus rfray's | vote ≥ best |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for path in sorted(folder.glob(f"{of}*.json")):
        record = json.loads(path.read_text())
        lines += [_quality_row(figure["details"]) for figure in record["figures"]]
    return "\n".join(lines)


def _read(file: Path) -> Predictions:
    """What a peer has written, who seals nothing: id, label, p_fake."""
    table = pd.read_parquet(file)
    return Predictions(*(table[name].to_numpy(dtype) for name, dtype in PREDICTED.items()))


def read_arm(out: Path) -> Arm:
    """What a way has left in its folder: arm.json, step-<n>.parquet, vote.parquet."""
    record = json.loads((out / "arm.json").read_text())
    start = json.loads((out / "task.json").read_text())["start"]
    steps = [
        Step(step["ended"] - start, step["val_auc"], _read(out / f"step-{number}.parquet"))
        for number, step in enumerate(record["steps"])
    ]
    return Arm(record["ended"] - start, record["trials"], steps, _read(out / "vote.parquet"))


def _quality_row(rounds: Sequence[Mapping[str, Any]]) -> str:
    first = rounds[0]
    budget, way = first["budget"], first["way"]
    no_worse = sum(one["vote"]["auc"] >= one["best"]["auc"] for one in rounds)
    minus = "" if way == RFRAY else _middle(rounds, "vote", "minus", "+.3f")
    cells = (
        f"{first['task']['name']}, " + (f"{budget // 60} min" if budget % 60 == 0 else f"{budget} s"),
        CALLED[way],
        f"{median(one['trials'] for one in rounds):g}",
        _middle(rounds, "best", "auc", ".3f"),
        f"**{_middle(rounds, 'vote', 'auc', '.3f')}**",
        minus,
        f"{no_worse} of {len(rounds)}",
    )
    return f"| {' | '.join(cells)} |"


def _middle(rounds: Sequence[Mapping[str, Any]], which: str, what: str, form: str) -> str:
    """The median round's value with its interval, and the range over the rounds where there are several."""
    low, high = ("low", "high") if what == "auc" else (f"{what}_low", f"{what}_high")
    ordered = sorted((one[which] for one in rounds), key=lambda one: one[what])
    middle = ordered[(len(ordered) - 1) // 2]
    text = f"{middle[what]:{form}} ({middle[low]:{form}} to {middle[high]:{form}})"
    if len(ordered) == 1:
        return text
    return f"{text}; {ordered[0][what]:{form}} … {ordered[-1][what]:{form}}"


def _run(name: str, task: Task, budget: int, seed: int, out: Path) -> None:
    """One way, from its start to its predictions. What an attempt before has left is not used."""
    place = out.with_name(f"{out.name}-{time.strftime('%H%M%S')}")
    place.mkdir(parents=True)
    start = time.time()
    whole = {**asdict(task), "seed": seed, "start": start, "until": start + budget, "out": str(place)}
    (place / "task.json").write_text(json.dumps(whole, indent=1))
    if name == RFRAY or name in ABLATIONS:
        changes = ABLATIONS[name].changes if name in ABLATIONS else ()
        _by_rfray(task, budget, seed, start, place, changes)
    else:
        command = [sys.executable, "-m", "benchmarks.quality_peers", name, str(place / "task.json")]
        run_command(command, place / "cache", place / "log.txt")
    os.replace(place, out)


SWEEP = """
name: quality
seed: {seed}
data: {{train: {train}, test: {test}, val: {val}}}
trial:
  backbone: [{backbones}]
  pretrained: {pretrained}
  augmentation: flip
  image_size: {side}
  lr: {{log: [{lr[0]}, {lr[1]}]}}
  epochs: {epochs}
  batch_size: {batch_size}
  weight_decay: {weight_decay}
augmentations: {{flip: [{{HorizontalFlip: {{p: 0.5}}}}]}}
search: {search}
resources: {{cpu: 1, gpu: 0}}
ensemble: {{top_k: {top_k}}}
"""


def _search(budget: int, slots: int) -> str:
    """How rfray is told of its time."""
    return f"{{budget: {budget}s, concurrent: {slots}}}"


def _by_rfray(task: Task, budget: int, seed: int, start: float, out: Path, changes: Sequence[str]) -> None:
    """`rfray tune`, and after its end `rfray ensemble`; what stands on the leaderboard is handed over."""
    run, sweep, kept = RunDir(out / "run"), out / "sweep.yaml", out / "kept"
    kept.mkdir()
    pretrained = {backbone: file for backbone, file in task.weights.items() if file is not None}
    settings = {**asdict(task), "seed": seed, "backbones": ", ".join(task.weights)}
    settings |= {"train": json.dumps(task.train), "test": json.dumps(task.test)}
    settings |= {"pretrained": json.dumps(pretrained or False), "search": _search(budget, task.slots)}
    sweep.write_text(SWEEP.format(**settings))
    with ThreadPoolExecutor(1) as pool:
        command = [*tune_command(sweep, run.path), *(word for change in changes for word in ("--set", change))]
        tuning = pool.submit(run_command, command, out / "cache", out / "log.txt")
        candidates = _watched(run, kept, tuning)
        tuning.result()
    ended = time.time()
    command = [sys.executable, "-m", "rfray.cli", "ensemble", str(run.path)]
    run_command(command, out / "cache", out / "ensemble-log.txt")
    board = read_leaderboard(run)
    singles = board[board["kind"].isin(SINGLE) & board["status"].isin(["ok", "not kept"])]
    best = singles.loc[singles["val_auc"].idxmax()]
    steps = [{"ended": at, "val_auc": auc} for at, auc, _, _ in candidates]
    reports = _predicted(run, candidates, out / "cache")
    if not candidates or candidates[-1][2] != best["name"]:  # it came and went between two looks
        steps.append({"ended": ended, "val_auc": float(best["val_auc"])})
        reports.append(trial_predictions(run.trial(best["name"]), "test"))
    for number, report in enumerate(reports):
        write_predictions(out / f"step-{number}.parquet", report, {})
    write_predictions(
        out / "vote.parquet", read_predictions(run.ensemble_predictions_file(vote_name("soft"), "test")), {}
    )
    record = {"ended": ended, "steps": steps, "trials": len(singles)}
    (out / "arm.json").write_text(json.dumps(record, indent=1))


Candidate = tuple[float, float, str, Path]
"""Seconds since 1970, AUC on val, the trial's id, its weights."""


def _watched(run: RunDir, kept: Path, tuning: Future[None]) -> list[Candidate]:
    """The models that were the best so far at any time of the sweep, in order. Their weights stay in `kept`.

    A trial's weights are replaced whenever it gets better, and removed when others are; a link keeps them.
    """
    found: dict[Path, Candidate] = {}
    over = False
    while not over:
        over = tuning.done()  # and look once more
        for trial in run.models():
            _keep(trial, kept, found)
        time.sleep(0.5)
    steps: list[Candidate] = []
    for one in sorted(found.values()):
        if not steps or one[1] > steps[-1][1]:
            steps.append(one)
    return steps


def _keep(trial: TrialDir, kept: Path, found: dict[Path, Candidate]) -> None:
    try:
        at = trial.weights_file.stat().st_mtime
        link = kept / f"{trial.id}-{at:.3f}.safetensors"
        if link in found:
            return
        if not link.exists():
            os.link(trial.weights_file, link)
        val = trial.predictions_file("val")
        if predictions_metadata(val).get("weights") == file_digest(link):  # else they are just being written
            auc = _auc(read_predictions(val))
            found[link] = (at, auc, trial.id, link)
    except FileNotFoundError:  # no weights yet, or not any more
        return


def _predicted(run: RunDir, candidates: Sequence[Candidate], cache: Path) -> list[Predictions]:
    """Test as each of them sees it."""
    from rfray.models.inference import predict_from_file

    settings = run.sweep().data
    settings = settings.model_copy(update={"cache": settings.cache.model_copy(update={"dir": str(cache)})})
    catalog, reports = run.catalog(), []
    for _, _, trial_id, weights in candidates:
        result = run.trial(trial_id).result()
        trial = run.trial(trial_id).start().trial if result is None else result.trial  # a probe has a result alone
        images = load_images(catalog, settings, "test", geometry_of(trial, settings.reencode))
        reports.append(predict_from_file(weights, trial, images))
    return reports


def _aligned(predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) labels and (k, n) p_fake, images in order of their ids."""
    orders = [np.argsort(one.ids) for one in predictions]
    first, order = predictions[0], orders[0]
    for one, own in zip(predictions, orders, strict=True):
        if not (
            np.array_equal(one.ids[own], first.ids[order]) and np.array_equal(one.labels[own], first.labels[order])
        ):
            raise ValueError("the held-out images are not the same ones")
    return first.labels[order], np.stack([one.p_fake[own] for one, own in zip(predictions, orders, strict=True)])


def _auc(predictions: Predictions) -> float:
    auc = metric("auc", predictions)
    if auc is None:
        raise ValueError("an AUC needs images of both classes")
    return auc


def _named(weights: Mapping[str, str | None]) -> dict[str, str | None]:
    """Without the folders of this machine."""
    return {backbone: file and Path(file).name for backbone, file in weights.items()}


def write_quality_tables() -> None:
    """Writes the two tables of what is in results/ into README.md."""
    write_table(README, quality_table(RESULTS), MARKS)
    write_table(README, quality_table(RESULTS, "ablation"), ABLATION_MARKS)


def main(words: Sequence[str] | None = None) -> None:
    """Measures on a folder of one's own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument(
        "images", type=Path, metavar="FOLDER", help="with {train,test}/{real,fake} inside (or valid for test)"
    )
    parser.add_argument("--name", help="what the images are called; by default as the folder is")
    parser.add_argument("--resampled", action="store_true", help="make another data set of its real images")
    parser.add_argument("--weights", action="append", default=[], metavar="BACKBONE=FILE", help="may be repeated")
    parser.add_argument("--scratch", nargs="*", default=[], metavar="BACKBONE", help="that start from random weights")
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, nargs=2, default=(2e-4, 2e-3), metavar=("LOW", "HIGH"))
    parser.add_argument("--slots", type=int, default=2, help="trials at once, a thread each")
    parser.add_argument("--minutes", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=0, help="beside the minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    less = "rfray with one thing switched off, not other ways: all of them, or " + ", ".join(ABLATIONS)
    parser.add_argument("--ablation", nargs="*", choices=ABLATIONS, metavar="NAME", help=less)
    parser.add_argument("--go-on", action="store_true", help="keep the rounds that the results have; measure the rest")
    parser.add_argument("--work", type=Path, help="folder that stays: the same command goes on where it was stopped")
    parser.add_argument("--results", type=Path, help="folder for the results; the tables in README.md are left alone")
    asked = parser.parse_args(words)
    weights = {name: str(Path(file).absolute()) for name, _, file in (one.partition("=") for one in asked.weights)}
    weights |= dict.fromkeys(asked.scratch)
    if not weights:
        parser.error("no backbone: give --weights BACKBONE=FILE or --scratch BACKBONE")
    name = asked.name or asked.images.name + ("-resampled" if asked.resampled else "")
    budget = 60 * asked.minutes + asked.seconds
    with tempfile.TemporaryDirectory(prefix="rfray-bench-") as temporary:
        folder = (asked.work or Path(temporary)).absolute()
        images = _resampled(asked.images, folder / "images") if asked.resampled else asked.images.absolute()
        task = Task(
            name=name,
            train=str(images / "train"),
            test=str(_test_folder(images)),
            weights=weights,
            side=asked.side,
            lr=tuple(asked.lr),
            epochs=asked.epochs,
            val=0.15,
            slots=asked.slots,
        )
        kind, ways = "quality", list(WAYS)
        if asked.ablation is not None:
            kind, ways = "ablation", [RFRAY, *(asked.ablation or ABLATIONS)]
        benchmark = f"{kind}-{name}"
        print(f"{benchmark} {budget} s", flush=True)
        results = asked.results or RESULTS
        known = rounds_in(results / f"{benchmark}.json", task, budget) if asked.go_on else []
        seeds = range(asked.first_seed + len(known), asked.first_seed + asked.seeds)
        made = measure(folder, task, budget, seeds, ways, known)
    sizes = {"seconds": budget, "seeds": asked.seeds, "first_seed": asked.first_seed}
    print(f"  -> {write_result(results, benchmark, sizes, made)}", flush=True)
    if asked.results is None:
        write_quality_tables()
    print(table(results, [benchmark]), quality_table(results, kind), sep="\n\n")


def _resampled(images: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, source in {"train": images / "train", "test": _test_folder(images)}.items():
        if not (folder / part).exists():
            with tempfile.TemporaryDirectory(dir=folder) as whole:  # a kill leaves nothing that looks finished
                os.replace(write_resampled(source / "real", Path(whole, part)), folder / part)
    return folder


def _test_folder(images: Path) -> Path:
    """`test`, or `valid`, as some data sets call it."""
    return images / ("test" if (images / "test").is_dir() else "valid")


if __name__ == "__main__":
    main()

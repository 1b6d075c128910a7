"""python -m benchmarks.wrong_labels: labels flipped at random -> how many of them are listed, and what that is worth.

Of the training images (train and val) a share gets the other label. The probe is learned on those labels as `rfray
tune` does, and the labels are doubted as `rfray audit RUN` does. Then the head is learned again without every image
that is listed, and without those alone that a person who looks through the list would find wrong; the AUC on the test
images, whose labels are right, says what that is worth. Features are extracted once; what is learned is a linear head.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.record import RESULTS, hardware
from rfray.commands.prepare_data import prepare_test, prepare_training
from rfray.data.catalog import load_images
from rfray.data.geometry import geometries
from rfray.spec.sweep import Sweep
from rfray.stats.confident_learning import doubt_labels
from rfray.store.run_dir import RunDir
from rfray.training.probe import LearnedHead, frozen_features, learn_head

ARMS = ("flipped", "without listed", "without found", "clean")
"""Test AUC of the head on the flipped labels; without all images listed; without those listed that are flipped; on the
right labels."""


class Part(NamedTuple):
    """The images of one part."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def parts_of(data: dict[str, object], weights: str, image_size: int, folder: Path, threads: int) -> dict[str, Part]:
    """train, val and test of a data set: features of the frozen backbone, right labels, and what belongs together."""
    trial = {"backbone": "tf_efficientnet_lite0", "pretrained": weights, "image_size": image_size}
    sweep = Sweep.model_validate({"name": "labels", "data": data, "trial": trial})
    run, console = RunDir(folder), Console(file=StringIO())
    prepare_training(run, sweep, console)
    prepare_test(run, sweep, console)
    catalog, (geometry,), (probe,) = run.catalog(), geometries(sweep), sweep.probes()
    found = {}
    for part in ("train", "val", "test"):
        images = load_images(catalog, sweep.data, part, geometry)
        groups = catalog[catalog["part"] == part].set_index("path")["group_id"].loc[images.ids].to_numpy()
        found[part] = Part(frozen_features(probe, images, threads), images.labels, groups)
    return found


def measured(parts: dict[str, Part], share: float, seed: int) -> dict[str, float]:
    """One draw of flipped labels: how many are listed, and the test AUC of each of ARMS but the last."""
    train, val, test = parts["train"], parts["val"], parts["test"]
    count = len(train.labels) + len(val.labels)
    flipped = np.zeros(count, bool)
    flipped[np.random.default_rng([seed, round(1000 * share)]).permutation(count)[: round(share * count)]] = True
    labels = np.concatenate([train.labels, val.labels]) ^ flipped
    own, learned = labels[: len(train.labels)], flipped[: len(train.labels)]

    def learn(given: np.ndarray, kept: np.ndarray) -> LearnedHead:
        return learn_head(train.features[kept], given[kept], train.groups[kept], "auc", seed)

    everything = np.ones(len(own), bool)
    head = learn(own, everything)
    doubts = doubt_labels(labels, np.concatenate([head.out_of_fold, predicted(head, val.features)]))
    listed = np.isin(np.arange(count), doubts.doubted)
    of_train = listed[: len(own)]
    heads = (head, learn(own, ~of_train), learn(own, ~(of_train & learned)))
    return {
        "found": (listed & flipped).sum() / flipped.sum(),
        "listed": listed.mean(),
        "precision": (listed & flipped).sum() / max(listed.sum(), 1),
        "expected": doubts.expected_wrong.sum() / count,
        "judge": roc_auc_score(labels, np.concatenate([head.out_of_fold, predicted(head, val.features)])),
        **{
            arm: roc_auc_score(test.labels, predicted(one, test.features))
            for arm, one in zip(ARMS[:-1], heads, strict=True)
        },
    }


def predicted(head: LearnedHead, features: np.ndarray) -> np.ndarray:
    """(n,) float64: p_fake."""
    return np.asarray(head.regression.predict_proba((features - head.centre) / head.scale)[:, 1])


def rows(name: str, draws: pd.DataFrame) -> Iterator[str]:
    """The table's rows of a data set: means over the draws; gains with a 95 % interval (t, paired by draw)."""
    for share, some in draws.groupby("share"):
        cells = [name, f"{share:.0%}", f"{len(some)}", f"{some['judge'].mean():.3f}"]
        cells += [f"**{some['found'].mean():.0%}** ({some['found'].min():.0%} to {some['found'].max():.0%})"]
        cells += [f"{some[column].mean():.0%}" for column in ("listed", "precision", "expected")]
        cells += [f"{some[arm].mean():.3f}" for arm in ("flipped", "clean")]
        for arm in ("without listed", "without found"):
            gain = some[arm] - some["flipped"]
            reach = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain) if len(gain) > 1 else float("nan")
            cells.append(f"{gain.mean():+.3f} ({gain.mean() - reach:+.3f} to {gain.mean() + reach:+.3f})")
        yield f"| {' | '.join(cells)} |"


HEADER = (
    "| data | flipped | draws | judge's AUC | of the flipped listed (least to most) | images listed | of them flipped "
    "| expected wrong | test AUC, flipped labels | right labels | gain without all listed | without those found |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def main(words: Iterable[str] | None = None, show: Callable[[str], object] = print) -> None:
    """Measures, prints the table, and writes results/wrong-labels.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wrong_labels", description=__doc__)
    parser.add_argument("--weights", required=True, help="ImageNet weights of tf_efficientnet_lite0 (.safetensors)")
    parser.add_argument("--ciplab", type=Path, help="CIPLab's folder, with train and valid")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(None if words is None else list(words))
    sets: dict[str, tuple[dict[str, object], int]] = {"demo": ({"source": "demo"}, 96)}
    if asked.ciplab:
        sets["ciplab"] = ({"train": str(asked.ciplab / "train"), "test": str(asked.ciplab / "valid")}, 128)
    record: dict[str, object] = {"date": date.today().isoformat(), "hardware": hardware()}
    lines = [HEADER]
    for name, (data, image_size) in sets.items():
        with tempfile.TemporaryDirectory(prefix="rfray-bench-") as folder:
            parts = parts_of(data, asked.weights, image_size, Path(folder, "labels"), asked.threads)
        sizes = {part: len(one.labels) for part, one in parts.items()}
        train, test = parts["train"], parts["test"]
        head = learn_head(train.features, train.labels, train.groups, "auc", 0)
        clean = roc_auc_score(test.labels, predicted(head, test.features))
        found = [
            {"share": share, "seed": seed, "clean": clean, **measured(parts, share, seed)}
            for share in (0.05, 0.1)
            for seed in range(asked.draws)
        ]
        record[name] = {"images": sizes, "draws": found}
        lines += rows(f"{name} ({sizes['train'] + sizes['val']:,} + {sizes['test']:,} test)", pd.DataFrame(found))
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "wrong-labels.json").write_text(json.dumps(record, indent=1, default=float) + "\n")
    show("\n".join(lines))


if __name__ == "__main__":
    main()

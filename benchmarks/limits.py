"""python -m benchmarks.limits -> what one more trial, result or image costs: the figures of docs/scale.md.

CPU seconds, so that other work beside it matters little; memory is what the process has more than before.
"""

import argparse
import gc
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import optuna
import pandas as pd
import psutil

from benchmarks.leaderboard import synthetic_run
from benchmarks.pictures import write_pictures
from rfray.data.catalog import divide, load_images, part_digest
from rfray.data.decoding import decode
from rfray.data.fingerprints import KEYPOINTS, Fingerprint, fingerprint
from rfray.data.folders import list_images
from rfray.data.geometry import Geometry
from rfray.data.images import CachedPixels, Images, pixel_file
from rfray.data.near_duplicates import candidates
from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.spec.sweep import CacheSettings, DataSettings, Sweep
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.run_dir import RunDir
from rfray.tuning.recorder import results
from rfray.tuning.strategies import SCHEDULERS, SEARCHERS

MILLION = 1_000_000
SIDE = 224
NOBODY = SimpleNamespace(get_live_trials=list)
"""Takes the place of Ray's controller: no trial is live."""


def main() -> None:
    """Measures everything once and prints it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--images", type=int, default=MILLION, help="rows of the catalog")
    parser.add_argument("--trials", type=int, default=10_000, help="that a searcher and a scheduler know")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rfray-limits-") as folder:
        for measure in (_searchers, _schedulers, _records, _listing, _prints, _duplicates, _predictions, _catalog):
            measure(Path(folder), given)


def _searchers(folder: Path, given: argparse.Namespace) -> None:
    for known in (given.trials // 10, given.trials):
        searcher: Any = SEARCHERS["optuna"](_sweep("optuna", "none"))
        random = np.random.default_rng(0)
        for _ in range(known):
            values = {name: _drawn(kind, random) for name, kind in searcher._distributions.items()}
            score = float(random.uniform())
            searcher._study.add_trial(
                optuna.trial.create_trial(params=values, distributions=searcher._distributions, value=score)
            )
        searcher.ask()
        _say(f"optuna: a proposal when {known} trials are known", _seconds(searcher.ask, 5) * 1e3, "ms")


def _drawn(kind: optuna.distributions.BaseDistribution, random: np.random.Generator) -> Any:
    if isinstance(kind, optuna.distributions.CategoricalDistribution):
        return int(random.integers(len(kind.choices)))
    assert isinstance(kind, optuna.distributions.FloatDistribution)
    return float(np.exp(random.uniform(np.log(kind.low), np.log(kind.high))))


class _Named:
    """What a scheduler asks of a trial of Ray's."""

    config: ClassVar[dict[str, int]] = {"epochs": 10}

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


def _schedulers(folder: Path, given: argparse.Namespace) -> None:
    """Twenty trials more, after as many as are asked for."""
    for name in ("asha", "median"):
        for known in (given.trials // 50, given.trials // 10):
            scheduler: Any = SCHEDULERS[name](_sweep("random", name), 100)
            random = np.random.default_rng(0)

            told = 0
            for trial in range(known + 20):
                if trial == known:
                    told, before = 0, time.process_time()
                known_as = _Named(f"{trial:05d}")
                scheduler.on_trial_add(NOBODY, known_as)
                for epoch in range(1, 11):
                    score, told = float(random.uniform()), told + 1
                    if scheduler.on_trial_result(NOBODY, known_as, {EPOCH: epoch, SCORE: score}) != "CONTINUE":
                        break
            took = (time.process_time() - before) / told
            _say(f"{name}: an epoch when {known} trials of at most 10 are known", took * 1e3, "ms")


def _records(folder: Path, given: argparse.Namespace) -> None:
    count = 500
    run = synthetic_run(folder / "run", count, 100)
    _say("a start of a sweep: one result.json more", _seconds(lambda: results(run), 1) / count * 1e3, "ms")


def _listing(folder: Path, given: argparse.Namespace) -> None:
    count = 20_000
    for number in range(count):
        path = folder / "listed" / ("fake" if number % 2 else "real") / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settings = DataSettings(train=str(folder / "listed"), test=0.2)
    _say("listing one image file", _seconds(lambda: list_images(settings, "train"), 1) / count * 1e6, "µs")
    shutil.rmtree(folder / "listed")


def _prints(folder: Path, given: argparse.Namespace) -> None:
    count = 300
    files = sorted(write_pictures(folder / "pictures", count).rglob("*.jpg"))
    data = [file.read_bytes() for file in files]
    found = []

    def look() -> None:
        found.extend(fingerprint(one, decode(one)) for one in data)

    _say("audit: the fingerprint of an image of 256 px", _seconds(look, 1) / count * 1e3, "ms of a core")
    table = pd.DataFrame(found, columns=Fingerprint._fields)
    _say("audit: its size", table.memory_usage(deep=True).sum() / count, "bytes")
    _say("audit: its keypoints", sum(len(one) // 16 for one in table["keypoints"]) / count, "")


def _duplicates(folder: Path, given: argparse.Namespace) -> None:
    """Of fingerprints that are drawn at random, as full as they can be: none are alike, so no picture is compared."""
    random = np.random.default_rng(0)
    for n in (given.images // 50, given.images // 10):
        points = [random.bytes(16 * KEYPOINTS) for _ in range(n)]
        hashes = random.integers(0, 2**64, (2, n), np.uint64)
        table = pd.DataFrame({"phash": hashes[0], "phash_mirrored": hashes[1], "keypoints": points})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took, _ = _took(partial(candidates, table))
        grew = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        _say(f"audit: looking for duplicates among {n} images, for each", took / n * 1e3, "ms")
        _say(f"audit: the most memory that takes among {n}, for each", grew / n, "bytes")


def _predictions(folder: Path, given: argparse.Namespace) -> None:
    n = 100_000
    labels = np.arange(n, dtype=np.int8) % 2
    said = Predictions(np.array(_names(n)), labels, np.random.default_rng(0).uniform(size=n))
    file = folder / "predictions.parquet"
    _say("predictions: writing one image", _seconds(lambda: write_predictions(file, said, {}), 1) / n * 1e6, "µs")
    _say("predictions: one image in the file", file.stat().st_size / n, "bytes")
    _say("predictions: reading one image", _seconds(lambda: read_predictions(file), 1) / n * 1e6, "µs")


def _names(n: int) -> list[str]:
    return [f"{'fake' if number % 2 else 'real'}/{number // 1000:05d}/{number:08d}.jpg" for number in range(n)]


def _catalog(folder: Path, given: argparse.Namespace) -> None:
    n, settings = given.images, DataSettings(source="demo")
    random = np.random.default_rng(0)
    names = _names(n)
    digests = [random.bytes(32).hex() for _ in range(n)]
    images = pd.DataFrame(
        {
            "path": names,
            "label": np.arange(n, dtype=np.int8) % 2,
            "folder": "train",
            "subfolder": "",
            "digest": digests,
            "width": 256,
            "height": 256,
            "size": random.integers(10_000, 50_000, n),
            "modified": random.integers(10**18, 2 * 10**18, n),
        }
    )
    del names, digests
    took, catalog = _took(partial(divide, images, settings, 0, np.zeros((0, 2), int)))
    _say("catalog: dividing one image", took / n * 1e6, "µs")
    run = RunDir(folder / "catalog")
    took, _ = _took(partial(run.write_catalog, catalog))
    _say("catalog: writing one row", took / n * 1e6, "µs")
    _say("catalog: one row of the file", run.catalog_file.stat().st_size / n, "bytes")
    took, _ = _took(partial(part_digest, catalog, "train"))
    _say("catalog: the digest of a part, for one image", took / n * 1e6, "µs")
    _pretend_pixels(folder / "cache", catalog["digest"].tolist())
    del catalog, images
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        read, loaded, kept = fresh.submit(_as_a_trial, folder).result()
    _say("a trial's process: reading the catalog, for one image", read / n * 1e6, "µs")
    _say("a trial's process: its images, the pixels being there, for one", loaded / n * 1e6, "µs")
    _say("a trial's process: what it keeps of one image", kept / n, "bytes")
    _say(f"the cache of pixels at {SIDE} px: one image", 3 * SIDE**2, "bytes")


def _pretend_pixels(cache: Path, digests: list[str]) -> None:
    """A file of pixels without content, which takes no room."""
    cache.mkdir()
    file = pixel_file(digests, Geometry("scale", SIDE, None), cache)
    with file.open("wb") as pixels:
        pixels.truncate(3 * SIDE**2 * len(digests))


def _as_a_trial(folder: Path) -> tuple[float, float, float]:
    """CPU seconds to read the catalog, and to have its images; bytes that stay."""
    settings = DataSettings(train=str(folder), test=str(folder), cache=CacheSettings(dir=str(folder / "cache")))
    before = psutil.Process().memory_full_info().uss
    read, known = _took(RunDir(folder / "catalog").catalog)
    loaded, images = _took(partial(_both_parts, known, settings))
    del known
    gc.collect()
    kept = psutil.Process().memory_full_info().uss - before
    assert all(isinstance(part.source, CachedPixels) for part in images)
    return read, loaded, kept


def _both_parts(catalog: pd.DataFrame, settings: DataSettings) -> list[Images]:
    return [load_images(catalog, settings, part, Geometry("scale", SIDE, None)) for part in ("train", "val")]


def _sweep(algorithm: str, scheduler: str) -> Sweep:
    axes = {"backbone": ["a", "b"], "lr": {"log": [1e-5, 1e-1]}, "weight_decay": {"log": [1e-4, 1e-1]}, "epochs": 10}
    search = {"trials": 10, "algorithm": algorithm, "scheduler": scheduler}
    return Sweep.model_validate({"name": "limits", "data": {"source": "demo"}, "trial": axes, "search": search})


def _seconds(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one of so many."""
    before = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - before) / times


def _took(work: Callable[[], Any]) -> tuple[float, Any]:
    before = time.process_time()
    made = work()
    return time.process_time() - before, made


def _say(what: str, number: float, unit: str) -> None:
    print(f"{what:90} {number:12,.2f} {unit}", flush=True)


if __name__ == "__main__":
    main()

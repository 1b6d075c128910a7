"""a sweep + the images -> probes/: a frozen pass of every backbone on the cluster's slots, and a head on what it saw.

And what follows from them for the search: the backbones in order, without those that are clearly worse, and where to
begin. A share of a pass is kept once it is there, a probe once its head is: a command that was killed goes on.
"""

import socket
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rfray.cluster.slots import Slot, worker_slot
from rfray.cluster.tasks import reason_of
from rfray.spec.sweep import Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats.metrics import metric
from rfray.stats.paired_tests import clearly_worse
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import file_digest, write_whole
from rfray.store.records import Fold, TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, probe_id
from rfray.store.tables import read_catalog
from rfray.tuning import space
from rfray.tuning.trial_job import sweep_images

IMAGES, A_SECOND = 20_000, 5
"""A probe learns from at most so many train images, drawn by chance, and so many for each second of a budget: more of
them change little, and what is seen in them has to fit into memory."""
SHARE, SHARES = 2048, 4
"""A task passes at most so many of them through a backbone; a small part is cut into so many shares."""
LOOKING, LEARNING = 0.3, 0.6
"""Parts of the time that there is after which no more images are looked at, and no more heads learned and judged."""
CLEARLY = 1.25
"""1 - AUC of a probe whose backbone is left out, proven, is more than so many times that of the best one."""


@dataclass(frozen=True)
class Probed:
    """A probe that has succeeded."""

    trial: Trial
    score: float
    """The val metric of `out_of_fold`, in [0, 1]."""
    out_of_fold: Predictions
    """Of the train images, each by a head that had not learned from it."""


@dataclass(frozen=True)
class Share:
    """Some of the images of one probe."""

    probe: Trial
    first: int
    last: int
    """Positions among those that it learns from, the last one not included."""


def probe_backbones(run: RunDir, sweep: Sweep, deadline: float | None, console: Console) -> None:
    """Makes the probes that the sweep asks for and that are not there. One that fails has its reason on record.

    At the most LEARNING of the time until `deadline` (seconds since 1970) is used: a probe learns from as many images
    as were looked at, and one for which that was too short is not made. Raises DiskFullError.
    """
    missing = [probe for probe in sweep.probes() if not run.trial(probe_id(probe)).result_file.exists()]
    if not missing:
        return
    began = time.time()
    until_seen, until_learned = (
        None if deadline is None else began + part * (deadline - began) for part in (LOOKING, LEARNING)
    )
    catalog = read_catalog(run)
    count = len(learned_from(int((catalog["part"] == "train").sum()), sweep))
    console.print(f"Probing {len(missing)} frozen backbones on {count} train images", soft_wrap=True)
    slot = worker_slot(sweep.resources)
    shares = _cut(missing, count)
    seen, problems = _seen(run, shares, slot, until_seen)
    parts = {probe: part for probe in missing if probe not in problems and (part := _without_gap(seen, probe))}
    for probe, part in parts.items():
        if part[-1].last < count:
            text = f"There was time for {part[-1].last} of these images for the probe of {probe.backbone}"
            console.print(text, soft_wrap=True, markup=False)
    position = len(run.probes())
    for probe, came_to in _learned(run, parts, seen, slot, until_learned):
        if isinstance(came_to, str):
            problems[probe] = came_to
        else:
            _record(run, sweep, probe, position, came_to)
            position += 1
    for probe, reason in problems.items():
        console.print(f"{probe.backbone} could not be probed: {reason}", soft_wrap=True, markup=False)
        _record(run, sweep, probe, position, reason)
        position += 1
    if not_made := [p.backbone for p in missing if not run.trial(probe_id(p)).result_file.exists()]:
        console.print(f"There was no time for the probes of {', '.join(not_made)}", soft_wrap=True, markup=False)
    console.print(f"Probed in {time.time() - began:.0f} s")


def learn_without_folds(run: RunDir, sweep: Sweep, starts: Sequence[TrialStart], deadline: float | None) -> None:
    """Learns the heads that trials judged on folds begin with: a probe's own has learned from most of every fold.

    Until `deadline`, in seconds since 1970. Where one can't be learned the trial says so. Raises DiskFullError.
    """
    wanted = {
        (sweep.probe(start.trial), start.fold)
        for start in starts
        if start.fold is not None and start.trial.head == "probe"
    }
    missing = [
        (probe, fold) for probe, fold in wanted if not run.trial(probe_id(probe)).fold_weights_file(fold).exists()
    ]
    if not missing:
        return
    count = len(learned_from(int((read_catalog(run)["part"] == "train").sum()), sweep))
    slot = worker_slot(sweep.resources)
    probes = list({probe.digest: probe for probe, _ in missing}.values())
    seen, _ = _seen(run, _cut(probes, count), slot, deadline)
    task = ray.remote(_learn_without).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    pending = []
    for probe, fold in missing:
        if part := _without_gap(seen, probe):
            pending.append(task.remote(run.where, probe, fold, slot.threads, *(seen[share] for share in part)))
    while (ready := _ready(pending, deadline)) is not None:
        pending.remove(ready)


def narrowed(run: RunDir, sweep: Sweep, console: Console) -> Sweep:
    """The sweep with its backbones in the order of their probes, best first, and without the clearly worse ones.

    Backbones that were not probed come last. Where trials begin with probes for which a budget had no time, their
    backbones are left out; where there is no other, trials begin with random heads. Says what the probes came to.
    """
    best = _best_of_each(_probed(run, sweep))
    unmade = _unmade(run, sweep)
    if unmade and not unmade < set(sweep.trial.choices("backbone")):
        console.print("Without their probes, trials begin with random heads")
        return sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"head": "random"})})
    if not best:
        return sweep
    for one in best:
        console.print(
            f"Probe of {one.trial.backbone} at {one.trial.image_size} px: {sweep.search.metric} {one.score:.4f} "
            "on train images that its head had not learned from",
            soft_wrap=True,
            markup=False,
        )
    worse = _clearly_worse(best, sweep.search.probe_keep)
    if worse:
        listed = ", ".join(f"{name} (p = {p:.2g})" for name, p in worse.items())
        console.print(
            f"Left out of the sweep, as clearly worse than {best[0].trial.backbone}: {listed}. search.probe_keep keeps "
            "more",
            soft_wrap=True,
            markup=False,
        )
    ranked = [one.trial.backbone for one in best]
    others = [name for name in sweep.trial.choices("backbone") if name not in ranked]
    if unmade:
        console.print(f"Left out of the sweep, as not probed: {', '.join(sorted(unmade))}", soft_wrap=True)
    kept = [name for name in (*ranked, *others) if name not in worse.keys() | unmade]
    if kept == sweep.trial.choices("backbone"):
        return sweep
    return sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"backbone": kept})})


def _unmade(run: RunDir, sweep: Sweep) -> set[str]:
    """Backbones whose trials would begin with a probe that is not there, as a budget had no time for it."""
    if "probe" not in sweep.trial.choices("head"):
        return set()
    return {one.backbone for one in sweep.probes() if not run.trial(probe_id(one)).result_file.exists()}


def beginnings(run: RunDir, sweep: Sweep) -> list[dict[str, Any]]:
    """Where a search begins: for each backbone, best first, the places on the axes that its best probe points to.

    On the axes that it says nothing of, the search may do as it likes.
    """
    axes = sweep.trial.axes()
    told = {name: axis for name, axis in axes.items() if name in (*PROBED, "head")}
    if not told:
        return []
    by_choice = "probe" in sweep.trial.choices("head")
    found = []
    for one in _best_of_each(_probed(run, sweep)):
        trial = one.trial.model_copy(update={} if by_choice else {"head": "random"})
        if (drawn := space.params_of(trial, told)) is not None:
            found.append(drawn)
    return found


def _probed(run: RunDir, sweep: Sweep) -> list[Probed]:
    """Those of the sweep's backbones that have succeeded."""
    found = []
    for probe in sweep.probes():
        out = run.trial(probe_id(probe))
        out.mirror.fetch(out.out_of_fold_file)
        result = out.result()
        if result is not None and result.status == "ok":
            predictions = read_predictions(out.out_of_fold_file)
            found.append(Probed(probe, metric(sweep.search.metric, predictions) or 0.0, predictions))
    return found


def _best_of_each(probed: Sequence[Probed]) -> list[Probed]:
    """The best probe of each backbone, best first; among equals the one that the sweep names first."""
    best: dict[str, Probed] = {}
    for one in sorted(probed, key=lambda one: -one.score):
        best.setdefault(one.trial.backbone, one)
    return list(best.values())


def _clearly_worse(best: Sequence[Probed], keep: int) -> dict[str, float]:
    """Backbone -> p, corrected, of its AUC's difference from that of the first; without the first `keep`.

    On the images that all have learned from, which are the first ones of each.
    """
    count = min(len(one.out_of_fold) for one in best)
    p_fake = np.stack([one.out_of_fold.p_fake[:count] for one in best])
    worse = clearly_worse(best[0].out_of_fold.labels[:count], p_fake, CLEARLY)
    return {best[row].trial.backbone: p for row, p in worse.items() if row >= keep}


def learned_from(count: int, sweep: Sweep) -> np.ndarray:
    """(m,) int: positions of those among `count` train images that probes learn from; a larger budget adds others."""
    most = IMAGES if sweep.budget is None else min(IMAGES, max(SHARE, int(A_SECOND * sweep.budget.seconds)))
    return np.random.default_rng(sweep.seed).permutation(count)[:most]


def _cut(probes: Sequence[Trial], count: int) -> list[Share]:
    """The shares of these probes, each of which learns from `count` images: first the first one of each."""
    size = min(SHARE, -(-count // SHARES))
    return [Share(probe, first, min(first + size, count)) for first in range(0, count, size) for probe in probes]


def _without_gap(seen: Collection[Share], probe: Trial) -> list[Share]:
    """The shares of a probe that were seen, in order, up to the first that was not."""
    found: list[Share] = []
    for share in sorted((one for one in seen if one.probe == probe), key=lambda one: one.first):
        if share.first != (found[-1].last if found else 0):
            break
        found.append(share)
    return found


def _seen(
    run: RunDir, shares: Sequence[Share], slot: Slot, until: float | None
) -> tuple[dict[Share, Any], dict[Trial, str]]:
    """Share -> what was seen in it (held by Ray); and the probes that failed, with the reason."""
    seen: dict[Share, Any] = {}
    problems: dict[Trial, str] = {}
    task = ray.remote(_look).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Probing", total=sum(share.last - share.first for share in shares))
        pending = {}
        for share in shares:
            if (kept := _read(_file(run, share), share.last - share.first)) is not None:
                seen[share] = ray.put(kept)
                progress.advance(bar, share.last - share.first)
            else:
                pending[task.remote(run.where, share, slot.threads)] = share
        while (ready := _ready(pending, until)) is not None:
            share = pending.pop(ready)
            try:
                write_whole(_file(run, share), save({"features": ray.get(ready)}))
                seen[share] = ready
            except RayError as error:
                problems[share.probe] = reason_of(error)
            progress.advance(bar, share.last - share.first)
    return seen, problems


def _learned(
    run: RunDir, parts: dict[Trial, list[Share]], seen: dict[Share, Any], slot: Slot, until: float | None
) -> Iterator[tuple[Trial, float | str]]:
    """Each probe with the seconds that it took to learn, or why it could not."""
    task = ray.remote(_learn).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    pending = {}
    for probe, part in parts.items():
        pending[task.remote(run.where, probe, slot.threads, *(seen[share] for share in part))] = probe
    while (ready := _ready(pending, until)) is not None:
        probe = pending.pop(ready)
        try:
            yield probe, ray.get(ready)
        except RayError as error:
            yield probe, reason_of(error)


def _ready(pending: Collection[Any], until: float | None) -> Any:
    """The first task that is done; None where there is none, or the time is over, and then the others are ended."""
    if not pending:
        return None
    ready, others = ray.wait(list(pending), timeout=None if until is None else max(0.0, until - time.time()))
    if ready:
        return ready[0]
    for task in others:
        ray.cancel(task, force=True)
    return None


def _record(run: RunDir, sweep: Sweep, probe: Trial, position: int, came_to: float | str) -> None:
    """Writes result.json of a probe, the last of its files: `came_to` are its seconds, or why it failed."""
    out = run.trial(probe_id(probe))
    out.path.mkdir(parents=True, exist_ok=True)
    out.mirror.pull(without=("features/*",))
    files = (out.weights_file, out.out_of_fold_file, out.predictions_file("val"))
    outcome: dict[str, Any]
    if isinstance(came_to, str):
        outcome = {"status": "failed", "reason": came_to, "seconds": 0.0}
    else:
        score = metric(sweep.search.metric, read_predictions(out.predictions_file("val")))
        outcome = {"status": "ok", "score": score, "seconds": came_to}
    result = TrialResult(
        id=out.id,
        position=position,
        kind="probe",
        trial=probe,
        metric=sweep.search.metric,
        epochs=0,
        node=socket.gethostname(),
        files={file.name: file_digest(file) for file in files if file.exists()},
        **outcome,
    )
    write_record(out.result_file, result, out.mirror)


def _file(run: RunDir, share: Share) -> Path:
    return run.trial(probe_id(share.probe)).features_file(share.first)


def _read(file: Path, count: int) -> np.ndarray | None:
    """What an earlier command has seen in a share; None where it is not there, or not whole, or of another size."""
    try:
        features = load_file(file)["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    return features if len(features) == count else None


def _look(where: Path | str, share: Share, threads: int) -> np.ndarray:
    """What a task does with a share: (n, F) float32."""
    from rfray.training.probe import frozen_features

    sweep, data, _ = sweep_images(where, share.probe.resize, share.probe.image_size)
    chosen = data.train.at(learned_from(len(data.train), sweep)[share.first : share.last])
    return frozen_features(share.probe, chosen, threads)


def _learn(where: Path | str, probe: Trial, threads: int, *seen: np.ndarray) -> float:
    """What a task does once all shares of a probe are there: its files, but for the record; the seconds it took."""
    import torch
    from threadpoolctl import threadpool_limits

    from rfray.models.inference import predict_from_file
    from rfray.training.probe import learn_head, save_probe

    began = time.perf_counter()
    torch.set_num_threads(threads)
    sweep, data, _ = sweep_images(where, probe.resize, probe.image_size)
    run = RunDir(where)
    run.mirror.pull("catalog.parquet")
    catalog, out = read_catalog(run), run.trial(probe_id(probe))
    features = np.concatenate(seen)
    train = data.train.at(learned_from(len(data.train), sweep)[: len(features)])
    groups = _groups(catalog, train.ids)
    with threadpool_limits(threads):
        head = learn_head(features, train.labels, groups, sweep.search.metric, sweep.seed)
    save_probe(out.weights_file, probe, head)
    weights = {"weights": file_digest(out.weights_file)}
    write_predictions(out.out_of_fold_file, Predictions(train.ids, train.labels, head.out_of_fold), weights)
    write_predictions(out.predictions_file("val"), predict_from_file(out.weights_file, probe, data.val), weights)
    for file in (out.weights_file, out.out_of_fold_file, out.predictions_file("val")):
        out.mirror.send(file)
    return time.perf_counter() - began


def _groups(catalog: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    """(n,) int: `group_id` of train images."""
    return catalog[catalog["part"] == "train"].set_index("path")["group_id"].loc[ids].to_numpy()


def _learn_without(where: Path | str, probe: Trial, fold: Fold, threads: int, *seen: np.ndarray) -> None:
    """What a task does for one fold: the weights of the probe, whose head learns from the images of the others."""
    import torch
    from threadpoolctl import threadpool_limits

    from rfray.training.probe import learn_head, save_probe

    torch.set_num_threads(threads)
    sweep, data, _ = sweep_images(where, probe.resize, probe.image_size)
    _, others, _ = sweep_images(where, probe.resize, probe.image_size, fold)
    run = RunDir(where)
    features = np.concatenate(seen)
    train = data.train.at(learned_from(len(data.train), sweep)[: len(features)])
    here = np.flatnonzero(np.isin(train.ids, others.train.ids))
    groups = _groups(read_catalog(run), train.ids[here])
    with threadpool_limits(threads):
        head = learn_head(features[here], train.labels[here], groups, sweep.search.metric, sweep.seed)
    out = run.trial(probe_id(probe))
    file = out.fold_weights_file(fold)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_probe(file, probe, head)
    out.mirror.send(file)

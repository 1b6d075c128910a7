"""a sweep + its images -> probes/: frozen backbones under a linear head; and what they say of where a search begins.

Ray tasks extract each backbone's features and learn its head. Features are kept once they are extracted, and a probe
once its head is learned: a command that was killed goes on with the rest.
"""

import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import product, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import RayError
from rich.console import Console

from rfray.cluster.slots import worker_slot
from rfray.cluster.tasks import finished, reason_of
from rfray.data.rotations import fold_count
from rfray.evaluation.left_out import probe_left_out
from rfray.progress.phases import counting, doing, say
from rfray.spec.sweep import Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats.best import clearly_worse
from rfray.stats.clusters import groups_in, groups_of_images
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import file_digest
from rfray.store.ownership import holder_of, work_for
from rfray.store.records import Fold, TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, probe_id
from rfray.store.sealed import find_array, write_array
from rfray.tuning.strategies import params_of
from rfray.tuning.trainable import sweep_images

MAX_IMAGES, IMAGES_PER_SECOND = 20_000, 5
"""A probe learns from at most so many train images, and so many for each second of a budget (our choice): more of them
change little, and their features must fit into memory."""
SPAN_IMAGES, SPANS = 2048, 4
"""A task extracts the features of at most so many images; few images are cut into so many spans (our choice)."""
FEATURES_UNTIL, HEADS_UNTIL = 0.3, 0.6
"""Fractions of the time until the deadline after which extracting features, and learning heads, ends (our choice)."""
CLEARLY_WORSE = 1.25
"""A backbone is left out where 1 - AUC of its probe is proven to be more than so many times that of the best one."""


class Probed(NamedTuple):
    """A probe that has succeeded; its predictions of train images, each by a head that had not learned from it."""

    trial: Trial
    score: float
    """The val metric of `out_of_fold`, in [0, 1]; or where that is what counts the mean AUC on left-out sources."""
    out_of_fold: Predictions
    is_unseen: bool


def probe_backbones(run: RunDir, sweep: Sweep, deadline: float | None, console: Console) -> None:
    """Makes the probes that the sweep asks for and that are missing. One that fails is recorded with its reason.

    At most HEADS_UNTIL of the time until `deadline` (seconds since 1970) is used: a probe learns from the images whose
    features were extracted in time, and is not made where there are none. Raises DiskFullError.
    """
    missing = _missing_probes(run, sweep)
    if not missing:
        return
    began, tell = time.time(), partial(say, console)
    features_end, heads_end = (
        None if deadline is None else began + part * (deadline - began) for part in (FEATURES_UNTIL, HEADS_UNTIL)
    )
    outcomes = _learned(run, sweep, [(probe, None) for probe in missing], features_end, heads_end, tell)
    for position, (probe, outcome) in enumerate(outcomes, start=len(run.probes())):
        out = run.trial(probe_id(probe))
        out.path.mkdir(parents=True, exist_ok=True)
        out.mirror.pull(without=("features/*",))
        files = (out.weights_file, out.out_of_fold_file, out.left_out_file, out.predictions_file("val"))
        fields: dict[str, Any]
        if isinstance(outcome, RayError):
            fields = {"status": "failed", "reason": reason_of(outcome), "seconds": 0.0}
            tell(f"{probe.backbone} could not be probed: {fields['reason']}")
        else:
            score = metric(sweep.search.metric, read_predictions(out.predictions_file("val")))
            fields = {"status": "ok", "score": score, "seconds": outcome}
        result = TrialResult(
            id=out.id,
            position=position,
            kind="probe",
            trial=probe,
            metric=sweep.search.metric,
            epochs=0,
            node=socket.gethostname(),
            files={file.name: file_digest(file) for file in files if file.exists()},
            **fields,
        )
        run.write_result(out, result)
    if too_late := _missing_probes(run, sweep):
        tell(f"There was no time for the probes of {', '.join(probe.backbone for probe in too_late)}")
    tell(f"Probed in {time.time() - began:.0f} s")


def learn_fold_heads(run: RunDir, sweep: Sweep, starts: Iterable[TrialStart], deadline: float | None) -> None:
    """Learns the heads that trials judged on a fold begin with: the probe's own has learned from most of every fold.

    Until `deadline`, in seconds since 1970. Where a head can't be learned, the trial that needs it fails and says so.
    Raises DiskFullError.
    """
    needed = {(sweep.probe(start.trial), start.fold) for start in starts if start.fold and start.trial.head == "probe"}
    _learn_heads(run, sweep, needed, deadline)


def learn_rotation_heads(run: RunDir, sweep: Sweep, deadline: float | None, console: Console) -> None:
    """The same for all trials of a search that leave out sources: the heads without each of these."""
    if "probe" in sweep.trial.choices("head"):
        count = fold_count(run, sweep)
        with doing(console, "Learning heads without each of the left-out sources"):
            _learn_heads(run, sweep, product(sweep.probes(), ((turn, count) for turn in range(1, count + 1))), deadline)


def _learn_heads(run: RunDir, sweep: Sweep, wanted: Iterable[tuple[Trial, Fold]], deadline: float | None) -> None:
    files = {one: run.trial(probe_id(one[0])).fold_weights_file(one[1]) for one in wanted}
    changed = {*run.not_vouched(*files.values())}
    run.mirror.remove(changed)
    if missing := [one for one, file in files.items() if file in changed or not file.exists()]:
        list(_learned(run, sweep, missing, deadline, deadline))
        for file in map(files.__getitem__, missing):
            run.mirror.fetch(file)
        run.vouch({files[one]: file_digest(files[one]) for one in missing if files[one].exists()})


def rank_backbones(run: RunDir, sweep: Sweep, console: Console) -> Sweep:
    """The sweep with its backbones in the order of their probes, best first, and without the clearly worse ones.

    Backbones that were not probed come last; they are left out where trials begin with probes, as a budget had no time
    for theirs. Where no backbone has the probe that trials begin with, trials begin with random heads. Prints what the
    probes have shown.
    """
    tell = partial(say, console)
    backbones, best = sweep.trial.choices("backbone"), _best_probes(run, sweep)
    needed = "probe" in sweep.trial.choices("head")
    missing = {probe.backbone for probe in _missing_probes(run, sweep)} if needed else set()
    if missing and missing >= set(backbones):
        tell("Without their probes, trials begin with random heads")
        return sweep.with_trial(head="random")
    if not best:
        return sweep
    for one in best:
        what, judged = ("AUC", "sources") if one.is_unseen else (sweep.search.metric, "train images")
        figure = f"Probe of {one.trial.backbone} at {one.trial.image_size} px: {what} {one.score:.4f}"
        tell(f"{figure} on {judged} that its head had not learned from")
    # compared on the images that all probes have learned from, which are the first ones of each
    count = min(len(one.out_of_fold) for one in best)
    p_fake = np.stack([one.out_of_fold.p_fake[:count] for one in best])
    images = best[0].out_of_fold.at(slice(count))
    groups = groups_of_images(images.ids, groups_in(run, "train"))
    found = clearly_worse(images.labels, p_fake, CLEARLY_WORSE, groups)
    ranked = list(dict.fromkeys([*(one.trial.backbone for one in best), *backbones]))
    keep = len(best) if sweep.judges_unseen else sweep.search.probe_keep  # these are images of sources that it has seen
    worse = {best[row].trial.backbone: p for row, p in found.items() if row >= keep}
    if worse:
        listed = ", ".join(f"{name} (p = {p:.2g})" for name, p in worse.items())
        tell(f"Left out of the sweep, as clearly worse than {ranked[0]}: {listed}. search.probe_keep keeps more")
    if missing:
        tell(f"Left out of the sweep, as not probed: {', '.join(sorted(missing))}")
    kept = [name for name in ranked if name not in worse.keys() | missing]
    return sweep if kept == backbones else sweep.with_trial(backbone=kept)


def points_to_evaluate(run: RunDir, sweep: Sweep) -> list[dict[str, Any]]:
    """Where a search begins: for each backbone, best first, the params of its best probe (`params_of`).

    A point has no value on the axes that probes say nothing about: the search is free there.
    """
    axes = {name: axis for name, axis in sweep.trial.axes().items() if name in (*PROBED, "head")}
    if not axes:
        return []
    head = "probe" if "probe" in sweep.trial.choices("head") else "random"
    trials = [one.trial.model_copy(update={"head": head}) for one in _best_probes(run, sweep)]
    return [point for trial in trials if (point := params_of(trial, axes)) is not None]


def _best_probes(run: RunDir, sweep: Sweep) -> list[Probed]:
    """The best probe of each backbone, best first; among equals the one that the sweep names first."""
    found = []
    for probe in sweep.probes():
        out = run.trial(probe_id(probe))
        out.mirror.fetch(out.out_of_fold_file)
        result = out.result()
        if result is not None and result.status == "ok":
            predictions = read_predictions(out.out_of_fold_file)
            left_out = probe_left_out(out, result) if sweep.judges_unseen else None
            unseen = left_out.mean if left_out is not None else None
            score = metric(sweep.search.metric, predictions) or 0.0 if unseen is None else unseen
            found.append(Probed(probe, score, predictions, unseen is not None))
    best: dict[str, Probed] = {}
    for one in sorted(found, key=lambda one: -one.score):
        best.setdefault(one.trial.backbone, one)
    return list(best.values())


def probe_images(count: int, sweep: Sweep) -> np.ndarray:
    """(m,) int: positions of those among `count` train images that probes learn from; a larger budget adds others."""
    most = MAX_IMAGES
    if sweep.budget is not None:
        most = min(MAX_IMAGES, max(SPAN_IMAGES, int(IMAGES_PER_SECOND * sweep.budget.seconds)))
    return np.random.default_rng(sweep.seed).permutation(count)[:most]


def _missing_probes(run: RunDir, sweep: Sweep) -> list[Trial]:
    return [probe for probe in sweep.probes() if not run.trial(probe_id(probe)).result_file.exists()]


def _learned(
    run: RunDir,
    sweep: Sweep,
    wanted: Collection[tuple[Trial, Fold | None]],
    features_end: float | None,
    heads_end: float | None,
    tell: Callable[[str], object] = lambda text: None,
) -> Iterator[tuple[Trial, Any]]:
    """Extracts features, then learns heads of probes, each on all images or on those of all folds but one.

    Each probe with the seconds that its head took, or with its RayError; none that there was no time for.
    """
    slot, probes = worker_slot(sweep.resources), list(dict.fromkeys(probe for probe, _ in wanted))
    count = len(probe_images(int((run.catalog()["part"] == "train").sum()), sweep))
    tell(f"Probing {len(probes)} frozen backbones on {count} train images")
    size = min(SPAN_IMAGES, -(-count // SPANS))
    spans = [range(first, min(first + size, count)) for first in range(0, count, size)]
    features: dict[Trial, dict[range, Any]] = {probe: {} for probe in probes}  # Ray's references to them
    problems: dict[Trial, RayError] = {}
    task = ray.remote(extract_features).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    pending = {}
    for images, probe in product(spans, probes):  # first some of each, so that all get some in a short time
        file = run.trial(probe_id(probe)).features_file(images.start)
        kept = None if run.not_vouched(file) else find_array(file)
        if kept is not None and len(kept) == len(images):
            features[probe][images] = ray.put(kept)
        else:
            pending[task.remote(run.where, probe, images, slot.threads)] = probe, images, file
    ended = finished(pending, features_end)
    for (probe, images, file), result in counting(ended, "Probing", len(pending)):
        if isinstance(result, RayError):
            problems[probe] = result
        else:
            write_array(file, result)
            run.vouch({file: file_digest(file)})
            features[probe][images] = ray.put(result)
    # a probe learns from its images up to the first ones whose features are missing
    found = {probe: list(takewhile(features[probe].__contains__, spans)) for probe in probes if probe not in problems}
    for probe, its in found.items():
        if its and its[-1].stop < count:
            tell(f"There was time for {its[-1].stop} of these images for the probe of {probe.backbone}")
    yield from problems.items()
    task = ray.remote(learn_probe).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)
    heads = {
        task.remote(
            run.where, holder_of(run), probe, fold, slot.threads, *(features[probe][images] for images in found[probe])
        ): probe
        for probe, fold in wanted
        if found.get(probe)
    }
    yield from finished(heads, heads_end)


def extract_features(where: Path | str, probe: Trial, images: range, threads: int) -> np.ndarray:
    """Ray task: the features, (n, F) float32, of the images at these positions among those it learns from."""
    from rfray.training.probe import frozen_features

    sweep, data, _ = sweep_images(where, probe.resize, probe.image_size)
    chosen = data.train.at(probe_images(len(data.train), sweep)[images.start : images.stop])
    return frozen_features(probe, chosen, threads)


def learn_probe(
    where: Path | str, holder: str, probe: Trial, fold: Fold | None, threads: int, *features: np.ndarray
) -> float:
    """Ray task: learns a probe's head and writes the probe's files, but for its record; returns the seconds it took.

    With a `fold`, writes weights only, whose head has learned from the images of the other folds.
    """
    import torch
    from threadpoolctl import threadpool_limits

    from rfray.models.inference import predict_from_file
    from rfray.training.left_out import judge_left_out
    from rfray.training.probe import learn_head, save_probe

    began = time.perf_counter()
    torch.set_num_threads(threads)
    sweep, data, _ = sweep_images(where, probe.resize, probe.image_size)
    run, seen = RunDir(where), np.concatenate(features)
    work_for(run, holder)
    train = data.train.at(probe_images(len(data.train), sweep)[: len(seen)])
    if fold is not None:
        _, others, _ = sweep_images(where, probe.resize, probe.image_size, fold)
        chosen = np.flatnonzero(np.isin(train.ids, others.train.ids))
        seen, train = seen[chosen], train.at(chosen)
    catalog = run.catalog()
    known = catalog[catalog["part"] == "train"].set_index("path").loc[train.ids]
    groups, sources = known["group_id"].to_numpy(), known["source"].to_numpy(dtype=np.str_)
    with threadpool_limits(threads):
        head = learn_head(seen, train.labels, groups, sweep.search.metric, sweep.seed)
        left_out = judge_left_out(seen, train.labels, sources, groups, head, sweep.seed) if fold is None else None
    out = run.trial(probe_id(probe))
    file = out.weights_file if fold is None else out.fold_weights_file(fold)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_probe(file, probe, head)
    out.mirror.send(file)
    if left_out is not None:
        write_record(out.left_out_file, left_out, out.mirror)
        origin, val = {"weights": file_digest(file)}, out.predictions_file("val")
        write_predictions(out.out_of_fold_file, Predictions(train.ids, train.labels, head.out_of_fold), origin)
        write_predictions(val, predict_from_file(file, probe, data.val), origin)
        out.mirror.send(out.out_of_fold_file)
        out.mirror.send(val)
    return time.perf_counter() - began

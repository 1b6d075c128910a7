"""a sweep + its images -> probes/: each backbone's features, extracted by Ray tasks, and a linear head learned on them.

The backbone is frozen. Features are kept once they are extracted, and a probe once its head is learned: a command that
was killed goes on with the rest.
"""

import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rfray.cluster.slots import Slot, worker_slot
from rfray.cluster.tasks import finished, reason_of
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import file_digest, write_whole
from rfray.store.records import Fold, TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, probe_id
from rfray.tuning.trainable import sweep_images

Key = TypeVar("Key")

MAX_IMAGES, IMAGES_PER_SECOND = 20_000, 5
"""A probe learns from at most so many train images, and so many for each second of a budget (our choice): more of them
change little, and their features must fit into memory."""
SPAN_IMAGES, SPANS = 2048, 4
"""A task extracts the features of at most so many images; few images are cut into so many spans (our choice)."""
FEATURES_UNTIL, HEADS_UNTIL = 0.3, 0.6
"""Fractions of the time until the deadline after which extracting features, and learning heads, ends (our choice)."""


@dataclass(frozen=True)
class ImageSpan:
    """Some of the images of one probe: a task's share of the work."""

    probe: Trial
    images: range
    """Positions among the images that it learns from."""

    def file(self, run: RunDir) -> Path:
        """Where their features are kept."""
        return run.trial(probe_id(self.probe)).features_file(self.images.start)


Features = dict[ImageSpan, Any]
"""Span -> Ray's reference to its features, in the order of the images."""


def probe_backbones(run: RunDir, sweep: Sweep, deadline: float | None, console: Console) -> None:
    """Makes the probes that the sweep asks for and that are missing. One that fails is recorded with its reason.

    At most HEADS_UNTIL of the time until `deadline` (seconds since 1970) is used: a probe learns from the images whose
    features were extracted in time, and is not made where there are none. Raises DiskFullError.
    """
    missing = _missing_probes(run, sweep)
    if not missing:
        return
    began, tell = time.time(), partial(console.print, soft_wrap=True, markup=False)
    features_end, heads_end = (
        None if deadline is None else began + part * (deadline - began) for part in (FEATURES_UNTIL, HEADS_UNTIL)
    )
    spans, slot = _spans(run, sweep, missing), worker_slot(sweep.resources)
    count = spans[-1].images.stop
    tell(f"Probing {len(missing)} frozen backbones on {count} train images")
    features, problems = _features(run, spans, slot, features_end)
    for probe, found in features.items():
        if (extracted := list(found)[-1].images.stop) < count:
            tell(f"There was time for {extracted} of these images for the probe of {probe.backbone}")
    outcomes = chain(problems.items(), _heads(run, [(probe, None) for probe in features], features, slot, heads_end))
    for position, (probe, outcome) in enumerate(outcomes, start=len(run.probes())):
        if isinstance(outcome, RayError):
            tell(f"{probe.backbone} could not be probed: {reason_of(outcome)}")
        _record(run, sweep, probe, position, outcome)
    if too_late := _missing_probes(run, sweep):
        tell(f"There was no time for the probes of {', '.join(probe.backbone for probe in too_late)}")
    tell(f"Probed in {time.time() - began:.0f} s")


def learn_fold_heads(run: RunDir, sweep: Sweep, starts: Iterable[TrialStart], deadline: float | None) -> None:
    """Learns the heads that trials judged on a fold begin with: the probe's own has learned from most of every fold.

    Until `deadline`, in seconds since 1970. Where a head can't be learned, the trial that needs it fails and says so.
    Raises DiskFullError.
    """
    wanted = {(sweep.probe(start.trial), start.fold) for start in starts if start.fold and start.trial.head == "probe"}
    missing = [one for one in wanted if not run.trial(probe_id(one[0])).fold_weights_file(one[1]).exists()]
    if missing:
        spans, slot = _spans(run, sweep, {probe for probe, _ in missing}), worker_slot(sweep.resources)
        features, _ = _features(run, spans, slot, deadline)
        list(_heads(run, missing, features, slot, deadline))


def probe_images(count: int, sweep: Sweep) -> np.ndarray:
    """(m,) int: positions of those among `count` train images that probes learn from; a larger budget adds others."""
    most = MAX_IMAGES
    if sweep.budget is not None:
        most = min(MAX_IMAGES, max(SPAN_IMAGES, int(IMAGES_PER_SECOND * sweep.budget.seconds)))
    return np.random.default_rng(sweep.seed).permutation(count)[:most]


def _missing_probes(run: RunDir, sweep: Sweep) -> list[Trial]:
    return [probe for probe in sweep.probes() if not run.trial(probe_id(probe)).result_file.exists()]


def _spans(run: RunDir, sweep: Sweep, probes: Collection[Trial]) -> list[ImageSpan]:
    """The spans of all images of these probes: first the first one of each, so that all get some in a short time."""
    count = len(probe_images(int((run.catalog()["part"] == "train").sum()), sweep))
    size = min(SPAN_IMAGES, -(-count // SPANS))
    firsts = range(0, count, size)
    return [ImageSpan(probe, range(first, min(first + size, count))) for first in firsts for probe in probes]


def _features(
    run: RunDir, spans: Sequence[ImageSpan], slot: Slot, until: float | None
) -> tuple[dict[Trial, Features], dict[Trial, RayError]]:
    """Probe -> the features of its spans up to the first one that is missing; and probe -> its error."""
    extracted: Features = {}
    problems: dict[Trial, RayError] = {}
    task, pending = _task(extract_features, slot), {}
    for span in spans:
        if (kept := _read_features(span.file(run), len(span.images))) is not None:
            extracted[span] = ray.put(kept)
        else:
            pending[task.remote(run.where, span, slot.threads)] = span
    ended, console = finished(pending, until), Console(stderr=True)
    for span, result in track(ended, "Probing", len(pending), console=console, transient=True):
        if isinstance(result, RayError):
            problems[span.probe] = result
        else:
            write_whole(span.file(run), save({"features": result}))
            extracted[span] = ray.put(result)
    features: dict[Trial, Features] = {}
    for probe in dict.fromkeys(span.probe for span in spans):
        own = (span for span in spans if span.probe == probe and probe not in problems)
        if found := {span: extracted[span] for span in takewhile(extracted.__contains__, own)}:
            features[probe] = found
    return features, problems


def _heads(
    run: RunDir,
    wanted: Iterable[tuple[Trial, Fold | None]],
    features: dict[Trial, Features],
    slot: Slot,
    until: float | None,
) -> Iterator[tuple[Trial, Any]]:
    """Learns heads, on all folds but one or on all images; each probe with the seconds it took, or its RayError."""
    task = _task(learn_probe, slot)
    return finished(
        {
            task.remote(run.where, probe, fold, slot.threads, *features[probe].values()): probe
            for probe, fold in wanted
            if probe in features
        },
        until,
    )


def _task(function: Callable[..., Any], slot: Slot) -> Any:
    return ray.remote(function).options(num_cpus=slot.cpu, num_gpus=slot.gpu, max_retries=1)


def _read_features(file: Path, count: int) -> np.ndarray | None:
    """(count, F) float32, as an earlier command has kept them; None where the file is missing, damaged or shorter."""
    try:
        features = load_file(file)["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    return features if len(features) == count else None


def _record(run: RunDir, sweep: Sweep, probe: Trial, position: int, outcome: float | RayError) -> None:
    """Writes result.json of a probe, the last of its files; `outcome`: the seconds it took, or its error."""
    out = run.trial(probe_id(probe))
    out.path.mkdir(parents=True, exist_ok=True)
    out.mirror.pull(without=("features/*",))
    files = (out.weights_file, out.out_of_fold_file, out.predictions_file("val"))
    fields: dict[str, Any]
    if isinstance(outcome, RayError):
        fields = {"status": "failed", "reason": reason_of(outcome), "seconds": 0.0}
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
    write_record(out.result_file, result, out.mirror)


def extract_features(where: Path | str, span: ImageSpan, threads: int) -> np.ndarray:
    """Ray task: the features of the span's images, (n, F) float32."""
    from rfray.training.probe import frozen_features

    sweep, data, _ = sweep_images(where, span.probe.resize, span.probe.image_size)
    chosen = data.train.at(probe_images(len(data.train), sweep)[span.images.start : span.images.stop])
    return frozen_features(span.probe, chosen, threads)


def learn_probe(where: Path | str, probe: Trial, fold: Fold | None, threads: int, *features: np.ndarray) -> float:
    """Ray task: learns a probe's head and writes the probe's files, but for its record; returns the seconds it took.

    With a `fold`, writes weights only, whose head has learned from the images of the other folds.
    """
    import torch
    from threadpoolctl import threadpool_limits

    from rfray.models.inference import predict_from_file
    from rfray.training.probe import learn_head, save_probe

    began = time.perf_counter()
    torch.set_num_threads(threads)
    sweep, data, _ = sweep_images(where, probe.resize, probe.image_size)
    run, seen = RunDir(where), np.concatenate(features)
    train = data.train.at(probe_images(len(data.train), sweep)[: len(seen)])
    if fold is not None:
        _, others, _ = sweep_images(where, probe.resize, probe.image_size, fold)
        chosen = np.flatnonzero(np.isin(train.ids, others.train.ids))
        seen, train = seen[chosen], train.at(chosen)
    catalog = run.catalog()
    groups = catalog[catalog["part"] == "train"].set_index("path")["group_id"].loc[train.ids].to_numpy()
    with threadpool_limits(threads):
        head = learn_head(seen, train.labels, groups, sweep.search.metric, sweep.seed)
    out = run.trial(probe_id(probe))
    file = out.weights_file if fold is None else out.fold_weights_file(fold)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_probe(file, probe, head)
    out.mirror.send(file)
    if fold is None:
        origin, val = {"weights": file_digest(file)}, out.predictions_file("val")
        write_predictions(out.out_of_fold_file, Predictions(train.ids, train.labels, head.out_of_fold), origin)
        write_predictions(val, predict_from_file(file, probe, data.val), origin)
        out.mirror.send(out.out_of_fold_file)
        out.mirror.send(val)
    return time.perf_counter() - began

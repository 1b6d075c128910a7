"""a sweep + the connected cluster -> what training each backbone takes on each kind of GPU, or on CPUs: a `Packing`."""

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import ray
import torch
from ray.autoscaler.sdk import request_resources
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError
from rich.console import Console

from rfray.cluster.slots import MARGIN, Node, Packing, Slot, TrialSlots, nodes, pack
from rfray.cluster.tasks import finished, on_node, reason_of
from rfray.errors import ClusterError, RunError
from rfray.progress.phases import counting, say
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.records import Measured, Measurements, find_record, write_record
from rfray.store.run_dir import RunDir
from rfray.training.loop import footprint
from rfray.tuning.plan import packing_lines

SETTLE_PAUSE = 2.0
"""Seconds after which `bring_up` asks again whether the node is there."""


def shares_for(sweep: Sweep, run: RunDir, slot: Slot, fresh: bool, console: Console) -> TrialSlots:
    """What each trial gets: the `slot`, or by `resources: auto` what its backbone needs, which is measured first.

    What an earlier start has measured on such nodes is taken from the run folder, unless that will be a `fresh` one.
    Raises ClusterError where a backbone can't be trained on any node, not even image by image.
    """
    if not sweep.resources.auto:
        return slot
    bring_up(slot, console)
    there = nodes()
    if with_gpus := [node for node in there if node.gpu >= 1]:
        tasks = [on_node(node.id, torch.cuda.get_device_name, num_gpus=1).remote() for node in with_gpus]
        there = [replace(node, device=name) for node, name in zip(with_gpus, ray.get(tasks), strict=True)]
    else:
        there = [replace(node, device="cpu") for node in there if node.cpu]
    return pack(_measure(heaviest_trials(sweep), there, [] if fresh else known_measurements(run), console), there)


def bring_up(slot: Slot, console: Console) -> None:
    """Has the autoscaler start a node with room for the slot, if there is none, and waits until it is there."""
    if any(node.room(slot) for node in nodes()):
        return
    say(console, "Waiting for the autoscaler to start a node, on which backbones are measured")
    request_resources(bundles=[slot.resources])
    try:
        while not any(node.room(slot) for node in nodes()):
            time.sleep(SETTLE_PAUSE)
    finally:
        request_resources(bundles=[])


def keep_packing(run: RunDir, shares: TrialSlots, console: Console) -> None:
    """Writes measured.json and prints what follows from it; nothing where nothing was measured."""
    if isinstance(shares, Packing):
        write_record(run.measured_file, Measurements(measured=shares.measured), run.mirror)
        say(console, *packing_lines(shares))


def known_measurements(run: RunDir) -> list[Measured]:
    """What an earlier start has measured; nothing where that is missing or damaged, since it can be measured again."""
    with suppress(RunError):
        if (known := find_record(run.measured_file, Measurements, run.mirror)) is not None:
            return known.measured
    return []


def heaviest_trials(sweep: Sweep) -> list[Trial]:
    """For each backbone and image size the trial that needs most: largest batch, averaged weights, full precision.

    Of other axes the first value; of a range of image sizes the largest.
    """
    values = {
        name: axis[0] if isinstance(axis, list) and name not in ("batch_size", "ema") else max(sweep.trial.ends(name))
        for name, axis in sweep.trial.axes().items()
    }
    if "fp32" in sweep.trial.choices("precision"):
        values["precision"] = "fp32"
    return [
        sweep.trial.trial({**values, "backbone": backbone, "image_size": size})
        for backbone, size in product(sweep.trial.choices("backbone"), sweep.trial.image_sizes(1))
    ]


def _measure(trials: Sequence[Trial], there: Sequence[Node], known: list[Measured], console: Console) -> list[Measured]:
    """All trials on every kind of node; those that can't be trained on some kinds are missing there."""
    kinds: defaultdict[str, list[Node]] = defaultdict(list)
    for node in there:
        kinds[node.device].append(node)
    found = {(one.setting, one.device): one for one in known}
    problems: dict[str, str] = {}
    pending: dict[Any, tuple[Trial, Node, int]] = {}

    def start(trial: Trial, node: Node, micro_batch: int) -> None:
        """In a process of its own, with a GPU to itself; on CPUs as many at once as there are cores, as trials will."""
        cores = max(1, int(node.cpu // node.gpu)) if node.gpu else 1
        amounts = {"num_cpus": min(cores, node.cpu), "num_gpus": 1 if node.gpu else 0}
        task = on_node(node.id, footprint, **amounts, max_calls=1, max_retries=0)
        pending[task.remote(trial, cores, micro_batch)] = trial, node, micro_batch

    for number, (trial, device) in enumerate(product(trials, kinds)):
        if (trial.digest, device) not in found:  # the nodes of a kind take turns
            start(trial, kinds[device][number % len(kinds[device])], trial.batch_size)
    ended, count = finished(pending), len(pending)
    for (trial, node, size), outcome in counting(ended, "Measuring backbones", count):
        too_large = isinstance(outcome, WorkerCrashedError | OutOfMemoryError)
        if isinstance(outcome, Measured):
            too_large = outcome.host_memory * MARGIN > node.memory
        if too_large and size > 1:
            start(trial, node, size // 2)
        elif isinstance(outcome, RayError):
            problems[trial.digest] = reason_of(outcome)
        else:
            found[trial.digest, node.device] = outcome
    hopeless = [
        f"  {trial.backbone} at {trial.image_size} px: {problems[trial.digest]}"
        for trial in trials
        if not any((trial.digest, device) in found for device in kinds)
    ]
    if hopeless:
        raise ClusterError("resources: auto can't train on this cluster:", *hopeless)
    keys = product([trial.digest for trial in trials], sorted(kinds))
    return [found[key] for key in keys if key in found]

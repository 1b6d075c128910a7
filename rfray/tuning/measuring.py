"""a sweep + the connected cluster -> what training each backbone takes on each kind of GPU, or on CPUs: a `Packing`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError
from rich.console import Console
from rich.progress import track

from rfray.cluster.autoscaler import bring_up
from rfray.cluster.packing import MARGIN, Packing, pack
from rfray.cluster.slots import Node, Slot, TrialSlots, nodes
from rfray.cluster.tasks import finished, on_node, reason_of
from rfray.errors import ClusterError, RunError
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.store.records import Measured, Measurements, find_record, write_record
from rfray.store.run_dir import RunDir
from rfray.training.loop import footprint
from rfray.tuning.plan import packing_lines


@dataclass(frozen=True)
class Attempt:
    """One trial to be measured."""

    trial: Trial
    node: Node
    micro_batch: int


def shares_for(sweep: Sweep, run: RunDir, slot: Slot, fresh: bool, console: Console) -> TrialSlots:
    """What each trial gets: the `slot`, or by `resources: auto` what its backbone needs, which is measured first.

    What an earlier start has measured on such nodes is taken from the run folder, unless that will be a `fresh` one.
    Raises ClusterError where a backbone can't be trained on any node, not even image by image.
    """
    if not sweep.resources.auto:
        return slot
    bring_up(slot.resources, lambda: any(node.room(slot) for node in nodes()), console)
    there = _with_devices(nodes())
    return pack(_measure(heaviest_trials(sweep), there, [] if fresh else known_measurements(run), console), there)


def keep_packing(run: RunDir, shares: TrialSlots, console: Console) -> None:
    """Writes measured.json and prints what follows from it; nothing where nothing was measured."""
    if isinstance(shares, Packing):
        write_record(run.measured_file, Measurements(measured=shares.measured), run.mirror)
        for line in packing_lines(shares):
            console.print(line, soft_wrap=True, markup=False)


def known_measurements(run: RunDir) -> list[Measured]:
    """What an earlier start has measured; nothing where that is missing or damaged, since it can be measured again."""
    try:
        known = find_record(run.measured_file, Measurements, run.mirror)
    except RunError:
        return []
    return known.measured if known is not None else []


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


def _with_devices(there: list[Node]) -> list[Node]:
    """The nodes that trials can run on (those with GPUs, where there are any), with the name of their GPUs."""
    with_gpus = [node for node in there if node.gpu >= 1]
    if not with_gpus:
        return [replace(node, device="cpu") for node in there if node.cpu]
    task = ray.remote(_gpu_name).options(num_cpus=0, num_gpus=1)
    names = ray.get([task.options(scheduling_strategy=on_node(node.id)).remote() for node in with_gpus])
    return [replace(node, device=name) for node, name in zip(with_gpus, names, strict=True)]


def _gpu_name() -> str:
    import torch

    return str(torch.cuda.get_device_name())


def _measure(trials: Sequence[Trial], there: Sequence[Node], known: list[Measured], console: Console) -> list[Measured]:
    """All trials on every kind of node; those that can't be trained on some kinds are missing there."""
    kinds: defaultdict[str, list[Node]] = defaultdict(list)
    for node in there:
        kinds[node.device].append(node)
    found = {(one.setting, one.device): one for one in known}
    to_do = [
        Attempt(trial, kinds[device][number % len(kinds[device])], trial.batch_size)  # the nodes of a kind take turns
        for number, (trial, device) in enumerate(product(trials, kinds))
        if (trial.digest, device) not in found
    ]
    problems: dict[str, str] = {}
    pending = {_start(attempt): attempt for attempt in to_do}
    for attempt, outcome in track(
        finished(pending), "Measuring backbones", len(to_do), console=console, transient=True
    ):
        too_large = isinstance(outcome, WorkerCrashedError | OutOfMemoryError)
        if isinstance(outcome, Measured):
            too_large = outcome.host_memory * MARGIN > attempt.node.memory
        if too_large and attempt.micro_batch > 1:  # again, with fewer images at once
            smaller = replace(attempt, micro_batch=attempt.micro_batch // 2)
            pending[_start(smaller)] = smaller
        elif isinstance(outcome, RayError):
            problems[attempt.trial.digest] = reason_of(outcome)
        else:
            found[attempt.trial.digest, attempt.node.device] = outcome
    measured: list[Measured] = []
    hopeless: list[str] = []
    for trial in trials:
        on = [found[trial.digest, device] for device in kinds if (trial.digest, device) in found]
        measured += sorted(on, key=lambda one: one.device_memory)
        if not on:
            hopeless.append(f"\n  {trial.backbone} at {trial.image_size} px: {problems[trial.digest]}")
    if hopeless:
        raise ClusterError(f"resources: auto can't train on this cluster:{''.join(hopeless)}")
    return measured


def _start(attempt: Attempt) -> Any:
    """A process of its own on the attempt's node, with a GPU to itself where there are any."""
    node = attempt.node
    # on CPUs as many at once as there are cores, as trials will be
    cores = max(1, int(node.cpu // node.gpu)) if node.gpu else 1
    task = ray.remote(max_calls=1, max_retries=0)(footprint).options(
        num_cpus=min(cores, node.cpu), num_gpus=1 if node.gpu else 0, scheduling_strategy=on_node(node.id)
    )
    return task.remote(attempt.trial, cores, attempt.micro_batch)

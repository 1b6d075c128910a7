"""a sweep + the connected cluster -> what each backbone takes on each kind of GPU, or on CPUs; and so the packing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import Progress

from rfray.cluster.autoscaler import bring_up
from rfray.cluster.packing import MARGIN, Packing, pack
from rfray.cluster.slots import Node, Slot, TrialSlots, nodes
from rfray.cluster.tasks import reason_of
from rfray.errors import ClusterError, RunError
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range, Trial
from rfray.store.records import Measured, Measurements, find_record, write_record
from rfray.store.run_dir import RunDir
from rfray.training.footprint import footprint
from rfray.tuning.plan import packing_lines


@dataclass(frozen=True)
class Attempt:
    """One trial to be measured."""

    trial: Trial
    node: Node
    micro_batch: int


def shares_for(sweep: Sweep, run: RunDir, slot: Slot, fresh: bool, console: Console) -> TrialSlots:
    """What each trial gets: the `slot`, or by `resources: auto` what fits its backbone, which is measured first.

    What an earlier start has measured on such nodes is taken from the run folder, unless that will be a `fresh` one.
    Raises ClusterError where a backbone can't be trained on any node, not even image by image.
    """
    if not sweep.resources.auto:
        return slot
    bring_up(slot.resources, lambda: any(node.room(slot) for node in nodes()), console)
    there = _with_devices(nodes())
    return pack(_measure(heaviest_trials(sweep), there, [] if fresh else known_measurements(run), console), there)


def keep_packing(run: RunDir, shares: TrialSlots, console: Console) -> None:
    """Writes down what was measured, and says what follows from it; nothing where nothing was."""
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
    """For each backbone and image size the trial that takes most: largest batch, averaged weights, full precision.

    Of other axes the first value; of a range of image sizes the largest.
    """
    axes = sweep.trial.axes()
    values = {name: axis[0] if isinstance(axis, list) else _highest(axis) for name, axis in axes.items()}
    for name in ("batch_size", "ema"):
        if name in axes:
            values[name] = _highest(axes[name])
    if "fp32" in sweep.trial.choices("precision"):
        values["precision"] = "fp32"
    sizes = axes.get("image_size", sweep.trial.choices("image_size"))
    sizes = [_highest(sizes)] if isinstance(sizes, Range) else sizes
    return [
        sweep.trial.trial({**values, "backbone": backbone, "image_size": size})
        for backbone, size in product(sweep.trial.choices("backbone"), sizes)
    ]


def _highest(axis: list[Any] | Range) -> Any:
    if isinstance(axis, list):
        return max(axis)
    return int(axis.bounds[1]) if axis.kind == "int" else axis.bounds[1]


def _with_devices(there: list[Node]) -> list[Node]:
    """The nodes that trials can run on (those with GPUs, where there are any), with the name of their GPUs."""
    with_gpus = [node for node in there if node.gpu >= 1]
    if not with_gpus:
        return [replace(node, device="cpu") for node in there if node.cpu]
    look = ray.remote(_look).options(num_cpus=0, num_gpus=1)
    names = ray.get([look.options(scheduling_strategy=_at(node)).remote() for node in with_gpus])
    return [replace(node, device=name) for node, name in zip(with_gpus, names, strict=True)]


def _look() -> str:
    import torch

    return str(torch.cuda.get_device_name())


def _at(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _measure(trials: Sequence[Trial], there: Sequence[Node], known: list[Measured], console: Console) -> list[Measured]:
    """All trials on every kind of node; those that can't be trained on some kinds are missing there."""
    kinds: dict[str, list[Node]] = defaultdict(list)
    for node in there:
        kinds[node.device].append(node)
    known_as = {(one.setting, one.device): one for one in known}
    found: list[Measured] = []
    to_do: list[Attempt] = []
    for number, (trial, device) in enumerate(product(trials, kinds)):
        if (trial.digest, device) in known_as:
            found.append(known_as[trial.digest, device])
        else:  # the nodes of a kind take turns
            to_do.append(Attempt(trial, kinds[device][number % len(kinds[device])], trial.batch_size))
    problems: dict[str, str] = {}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Measuring backbones", total=len(to_do))
        for attempt, came_to in _attempts(to_do):
            progress.advance(bar)
            if isinstance(came_to, Measured):
                found.append(came_to)
            else:
                problems[attempt.trial.digest] = came_to
    measured = {one.setting for one in found}
    hopeless = [f"{t.backbone} at {t.image_size} px: {problems[t.digest]}" for t in trials if t.digest not in measured]
    if hopeless:
        raise ClusterError("resources: auto can't train on this cluster:\n  " + "\n  ".join(hopeless))
    order = [trial.digest for trial in trials]
    return sorted(found, key=lambda one: (order.index(one.setting), one.device_memory))


def _attempts(to_do: Sequence[Attempt]) -> Iterator[tuple[Attempt, Measured | str]]:
    """Each attempt with what it came to, or why it could not be done; halves what is computed at once where it dies."""
    pending = {_start(attempt): attempt for attempt in to_do}
    while pending:
        (ready,), _ = ray.wait(list(pending))
        attempt = pending.pop(ready)
        smaller = replace(attempt, micro_batch=max(1, attempt.micro_batch // 2))
        came_to: Measured | str
        try:
            came_to = taken = ray.get(ready)
            fits = taken.host_memory * MARGIN <= attempt.node.memory
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            came_to, fits = f"its process died ({str(error).splitlines()[0]})", False
        except ray.exceptions.RayError as error:
            came_to, fits = reason_of(error), True
        if not fits and attempt.micro_batch > 1:
            pending[_start(smaller)] = smaller
        else:
            yield attempt, came_to


def _start(attempt: Attempt) -> Any:
    """A process of its own on the attempt's node, with a GPU to itself where there are any."""
    node = attempt.node
    cores = max(1, int(node.cpu // node.gpu)) if node.gpu else 1
    # on CPUs as many at once as there are cores, as trials will be
    task = ray.remote(max_calls=1, max_retries=0)(footprint).options(
        num_cpus=min(cores, node.cpu), num_gpus=1 if node.gpu else 0, scheduling_strategy=_at(node)
    )
    return task.remote(attempt.trial, cores, attempt.micro_batch)

"""a checked sweep -> what it needs, or an error: models take a step, nodes can write, the disk has room."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rfray.config import Range, Sweep, SweepFile
from rfray.errors import ClusterError, SweepError, TrialError
from rfray.files import no_room
from rfray.run import RunDir
from rfray.search.strategies import planned_trials
from rfray.training.model import build_model
from rfray.training.optim import make_optimizer

BYTES = 4
"""Of one parameter, float32."""


@dataclass(frozen=True)
class Needs:
    """What a sweep takes on the disk, in bytes; the most that it can be at any moment."""

    weights: int
    """Of the kept trials, and of those that run."""
    states: int
    """To go on from, of the trials that run; twice, while a new one is written."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.states


def rehearse_models(file: SweepFile) -> dict[str, int]:
    """Each backbone builds and takes one step of two images at each size; backbone -> its number of parameters.

    Raises SweepError, a line per problem, with file, line and key.
    """
    trial = file.sweep.trial
    size = trial.axes().get("image_size", trial.choices("image_size"))
    sizes = [int(end) for end in size.bounds] if isinstance(size, Range) else size
    parameters: dict[str, int] = {}
    problems: list[str] = []
    for place, backbone in trial.written("backbone"):
        for side in sizes:
            try:
                parameters[backbone] = _one_step(file.sweep, backbone, side)
            except TrialError as error:
                problems.append(file.problem(("trial", *place), str(error)))
    if problems:
        raise SweepError("\n".join(problems))
    return parameters


def disk_needs(sweep: Sweep, parameters: dict[str, int], at_once: int) -> Needs:
    """By the largest backbone: a state is weights, two moments and maybe an average, and there twice while written."""
    largest = BYTES * max(parameters.values())
    trials = planned_trials(sweep)
    running = min(at_once, trials)
    averages = "ema" in sweep.trial.axes() or sweep.trial.choices("ema") != [0.0]
    state = largest * (4 if averages else 3)
    return Needs(weights=largest * (min(sweep.keep, trials) + running), states=state * 2 * running)


def check_places(run: RunDir, needs: Needs) -> None:
    """Raises ClusterError where a node can't write into the run folder, DiskFullError where it has not enough room."""
    run.path.mkdir(parents=True, exist_ok=True)
    for node, problem in _unwritable(run.path):
        raise ClusterError(
            f"node {node} can't write into the run folder {run.path}: {problem}. "
            "Put it on a disk that all nodes share under the same path (--run DIR)"
        )
    if shutil.disk_usage(run.path).free < needs.total:
        raise no_room(run.path, needs.total)


def _one_step(sweep: Sweep, backbone: str, side: int) -> int:
    first = {name: sweep.trial.choices(name)[0] for name, axis in sweep.trial.axes().items() if isinstance(axis, list)}
    first |= {
        name: int(axis.bounds[0]) if axis.kind == "int" else axis.bounds[0]
        for name, axis in sweep.trial.axes().items()
        if isinstance(axis, Range)
    }
    trial = sweep.trial.trial({**first, "backbone": backbone, "image_size": side})
    model, normalise = build_model(trial, load_pretrained=trial.pretrained is True)
    try:
        optimizer = make_optimizer(trial, model)
        images = normalise(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
        optimizer.step()
    except Exception as error:  # whatever a model, or an optimizer, makes of a size that it can't take
        raise TrialError(f"{backbone} can't take a step at {side} px: {str(error).splitlines()[0]}") from error
    return sum(parameter.numel() for parameter in model.parameters())


def _unwritable(folder: Path) -> Iterator[tuple[str, str]]:
    """The nodes that don't see, or can't write to, a folder of this machine: address and why."""
    probe = f".probe-{uuid.uuid4().hex[:8]}"
    nodes = [node for node in ray.nodes() if node["Alive"]]
    tries = {
        node["NodeManagerAddress"]: ray.remote(_write_probe)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(folder, f"{probe}-{node['NodeID'][:8]}")
        for node in nodes
    }
    for address, task in tries.items():
        name, problem = ray.get(task)
        if problem:
            yield address, problem
        elif not (folder / name).exists():
            yield address, "it has a folder of its own under this path"
        (folder / name).unlink(missing_ok=True)


def _write_probe(folder: Path, name: str) -> tuple[str, str]:
    try:
        (folder / name).write_text("")
    except OSError as error:
        return name, error.strerror or str(error)
    return name, ""

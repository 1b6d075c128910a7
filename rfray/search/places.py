"""a sweep and a run folder -> nothing, or an error: every node can write there, and the disk has room for the plan."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rfray.config import Sweep
from rfray.errors import ClusterError, StorageError
from rfray.files import no_room
from rfray.run import RunDir
from rfray.search.strategies import planned_trials

BYTES = 4
"""Of one parameter, float32."""


@dataclass(frozen=True)
class Needs:
    """What a sweep takes on the disk, in bytes; the most that it can be at any moment."""

    weights: int
    """Of the kept trials, of those that run, and of the probes."""
    states: int
    """To go on from, of the trials that run; twice, while a new one is written."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.states


def disk_needs(sweep: Sweep, parameters: dict[str, int], at_once: int) -> Needs:
    """By the largest backbone: a state is weights, two moments, maybe two averages, and there twice while written."""
    largest = BYTES * max(parameters.values())
    planned = planned_trials(sweep)
    trials = sweep.keep + at_once if planned is None else planned
    running = min(at_once, trials)
    # what may be paused at asha's rungs: trials / factor at the first, and so on; more where no number is known
    paused = trials // (sweep.search.reduction_factor - 1) if sweep.search.scheduler == "asha" else 0
    averages = "ema" in sweep.trial.axes() or sweep.trial.choices("ema") != [0.0]
    soups = sweep.trial.choices("soup") != ["none"]
    state = largest * (3 + averages + soups)
    kept = min(sweep.keep, trials) + len(sweep.probes()) + sweep.search.finalists * sweep.repeats
    return Needs(weights=largest * (kept + running), states=state * (2 * running + paused))


def check_places(run: RunDir, needs: Needs) -> None:
    """Raises ClusterError where a node can't write into the run folder, DiskFullError where it has not enough room."""
    run.path.mkdir(parents=True, exist_ok=True)
    for node, problem in _unwritable(run):
        raise ClusterError(
            f"node {node} can't write into the run folder {run.where}: {problem}. "
            f"Put it on a disk that all nodes share under the same path, or at an address that all reach "
            f"(--run DIR, --run s3://bucket/runs/{run.name})"
        )
    if shutil.disk_usage(run.path).free < needs.total:
        raise no_room(run.path, needs.total)


def _unwritable(run: RunDir) -> Iterator[tuple[str, str]]:
    """The nodes that don't see, or can't write to, the run folder: address and why."""
    probe = f".probe-{uuid.uuid4().hex[:8]}"
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    answers = [
        ray.remote(_write_probe)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(run.where, f"{probe}-{node['NodeID']}")
        for node in others
    ]
    try:
        if problem := _write_probe(run.where, f"{probe}-{here}"):
            yield ray.util.get_node_ip_address(), problem
        for node, problem in zip(others, ray.get(answers), strict=True):
            if problem:
                yield node["NodeManagerAddress"], problem
            elif not run.mirror.find(f"{probe}-{node['NodeID']}"):
                yield node["NodeManagerAddress"], "it has a folder of its own under this path"
    finally:
        run.mirror.remove(run.mirror.find(f"{probe}-*"))


def _write_probe(where: Path | str, name: str) -> str | None:
    try:
        run = RunDir(where)
        if isinstance(where, str):
            run.path.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("")
        run.mirror.send(run.path / name)
    except OSError as error:
        return error.strerror or str(error)
    except StorageError as error:
        return str(error)
    return None

"""a run folder -> nothing, or an error: every node can write there, and the disk has room for what is planned."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import ray

from rfray.cluster.tasks import on_node
from rfray.errors import ClusterError, StorageError
from rfray.store.files import no_room
from rfray.store.run_dir import RunDir


def check_storage(run: RunDir, needed: int) -> None:
    """Raises ClusterError where a node can't write into the run folder, DiskFullError where it lacks `needed` bytes."""
    run.path.mkdir(parents=True, exist_ok=True)
    for node, problem in _unwritable(run):
        raise ClusterError(
            f"node {node} can't write into the run folder {run.where}: {problem}. "
            f"Put it on a disk that all nodes share under the same path, or at an address that all reach "
            f"(--run DIR, --run s3://bucket/runs/{run.name})"
        )
    if shutil.disk_usage(run.path).free < needed:
        raise no_room(run.path, needed)


def _unwritable(run: RunDir) -> Iterator[tuple[str, str]]:
    """The nodes that don't see, or can't write to, the run folder: address and why."""
    probe = f".probe-{uuid.uuid4().hex[:8]}"
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    task = ray.remote(_write_probe)
    answers = [
        task.options(num_cpus=0, scheduling_strategy=on_node(node["NodeID"])).remote(
            run.where, f"{probe}-{node['NodeID']}"
        )
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

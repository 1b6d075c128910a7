"""a prepared run + the nodes -> every node that trials may run on has the images decoded, before the first trial."""

import socket
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console
from rich.progress import Progress

from rfray.cluster.slots import TrialSlots, nodes
from rfray.cluster.tasks import finished, on_node, reason_of
from rfray.data.cache_limits import cache_folder
from rfray.data.catalog import load_images
from rfray.data.folders import image_folder
from rfray.data.geometry import geometries
from rfray.data.images import ImageFiles
from rfray.errors import ClusterError, DataError, StorageError
from rfray.spec.sweep import Sweep
from rfray.store.run_dir import RunDir


def prepare_nodes(run: RunDir, slots: TrialSlots, console: Console) -> None:
    """Fills the caches of decoded pixels of all nodes that have room for a trial, at the same time.

    A node that joins later does so for its first trial. Where this machine is the only one, nothing is left to do.
    Raises ClusterError, naming the node, the path and what to do, where a node can't get at the images.
    """
    here = ray.get_runtime_context().get_node_id()
    able = [node for node in nodes() if any(node.room(slot) for slot in slots.kinds)]
    if all(node.id == here for node in able):
        return
    task = ray.remote(_prepare)
    tasks = {task.options(num_cpus=0, scheduling_strategy=on_node(node.id)).remote(run.where): node for node in able}
    problems = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"Preparing the images on {len(tasks)} nodes", total=len(tasks))
        for node, problem in finished(tasks):
            if isinstance(problem, RayTaskError):
                problems.append(f"node {node.address}: {reason_of(problem)}")
            elif isinstance(problem, RayError):  # trials will be elsewhere, or here once it is back
                console.print(f"Node {node.address} went away while its images were prepared", markup=False)
            elif problem:
                problems.append(f"node {node.address} {problem}")
            progress.advance(bar)
    if problems:
        raise ClusterError("\n".join(sorted(problems)))


def _prepare(where: Path | str) -> str | None:
    """Fills this node's cache; why not, where it can't: the rest of a sentence that begins with the node."""
    run = RunDir(where)
    run.mirror.pull("sweep.yaml", "catalog.parquet")
    sweep, catalog = run.sweep(), run.catalog()
    for part in sweep.data.training_folders:
        folder = image_folder(sweep.data, part)
        unseen = isinstance(folder, Path) and not folder.is_dir()
        try:
            for geometry in geometries(sweep):
                source = load_images(catalog, sweep.data, part, geometry).source
                if unseen and isinstance(source, ImageFiles):  # nothing was read, as the cache has no room
                    return _unseen(sweep, part, folder)
        except (DataError, StorageError) as error:
            return _unseen(sweep, part, folder) if unseen else f"can't read the images: {error}"
    return None


def _unseen(sweep: Sweep, part: str, folder: object) -> str:
    return (
        f"can't see the images: {folder} is not there, and they are not in its cache of decoded pixels "
        f"({cache_folder(sweep.data.cache)}) either. Put them on a disk that all nodes share, or copy them to "
        f"{socket.gethostname()}, under the same path; or at an address that all reach (data.{part}: s3://…)"
    )

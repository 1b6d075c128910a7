"""a run folder + the nodes -> the images decoded on each, or an error before the first trial that says what to do."""

import shutil
import uuid
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from rfray.cluster.slots import TrialSlots, nodes
from rfray.cluster.tasks import finished, on_node, reason_of
from rfray.data.catalog import load_images
from rfray.data.folders import image_folder
from rfray.data.geometry import geometries
from rfray.data.images import ImageFiles
from rfray.data.node_cache import cache_folder
from rfray.errors import ClusterError, DataError, StorageError
from rfray.progress.phases import counting, say
from rfray.store.files import no_room
from rfray.store.ownership import holder_of, work_for
from rfray.store.run_dir import RunDir


def check_storage(run: RunDir, needed: int) -> None:
    """Raises ClusterError where a node can't write into the run folder, DiskFullError where it lacks `needed` bytes."""
    run.path.mkdir(parents=True, exist_ok=True)
    probe, others = f".probe-{uuid.uuid4().hex[:8]}", {node.id: node for node in nodes()}
    here = others.pop(ray.get_runtime_context().get_node_id())
    tasks = {
        on_node(node.id, _write_probe).remote(run.where, holder_of(run), f"{probe}-{node.id}"): node
        for node in others.values()
    }
    try:
        for node, problem in [(here, _write_probe(run.where, holder_of(run), f"{probe}-{here.id}")), *finished(tasks)]:
            if isinstance(problem, RayError):
                problem = reason_of(problem)
            elif not problem and not run.mirror.find(f"{probe}-{node.id}"):
                problem = "its disk is not shared: the same path is another folder there"
            if problem:
                why = f"node {node.address} can't write into the run folder {run.where}: {problem}"
                todo = f"on a disk that all nodes share, or at an address (--run DIR, --run s3://bucket/{run.name})"
                raise ClusterError(f"{why}. Put it {todo}")
    finally:
        run.mirror.remove(run.mirror.find(f"{probe}-*"))
    if shutil.disk_usage(run.path).free < needed:
        raise no_room(run.path, needed)


def _write_probe(where: Path | str, holder: str, name: str) -> str | None:
    """Writes a file into the run folder; why not, where it can't."""
    try:
        run = RunDir(where)
        work_for(run, holder)
        if isinstance(where, str):
            run.path.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("")
        run.mirror.send(run.path / name)
    except (OSError, StorageError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def prepare_nodes(run: RunDir, slots: TrialSlots, console: Console) -> None:
    """Fills the caches of decoded pixels of all nodes that have room for a trial, at the same time.

    A node that joins later does so for its first trial. Where this machine is the only one, nothing is left to do.
    Raises ClusterError, naming the node, the path and what to do, where a node can't get at the images.
    """
    here = ray.get_runtime_context().get_node_id()
    able = [node for node in nodes() if any(node.room(slot) for slot in slots.kinds)]
    if all(node.id == here for node in able):
        return
    tasks = {on_node(node.id, _prepare).remote(run.where): node for node in able}
    title, problems = f"Preparing the images on {len(tasks)} nodes", []
    for node, problem in counting(finished(tasks), title, len(tasks)):
        if isinstance(problem, RayTaskError):
            problems.append(f"node {node.address}: {reason_of(problem)}")
        elif isinstance(problem, RayError):  # trials will be elsewhere, or here once it is back
            say(console, f"Node {node.address} went away while its images were prepared")
        elif problem:
            problems.append(f"node {node.address} {problem}")
    if problems:
        raise ClusterError(*sorted(problems))


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
                if unseen and isinstance(source, ImageFiles):
                    raise DataError("nothing was read, as the cache has no room")
        except (DataError, StorageError) as error:
            if not unseen:
                return f"can't read the images: {error}"
            why = f"{folder} is not there, and they are not in its cache ({cache_folder(sweep.data.cache)}) either"
            todo = "Share them, copy them to the same path on each node, or put them at an address that all nodes reach"
            return f"can't see the images: {why}. {todo} (data.{part}: s3://…)"
    return None

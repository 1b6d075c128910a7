"""a bundle + millions of image files -> a folder of Parquet shards, written by a pool of Ray actors.

No process holds more than a shard (see `shards`); the same command goes on with the shards that are missing.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError
from ray.util import ActorPool
from rich.console import Console

from rfray.cluster.connect import connected
from rfray.cluster.slots import autoscaler_notice, slot_count, worker_slot
from rfray.cluster.tasks import reason_of
from rfray.data.folders import image_files
from rfray.data.listing import PassedOver
from rfray.errors import DataError, RfrayError, RunError, readable
from rfray.inference.shards import (
    FILES_TABLE,
    ShardPredictor,
    Task,
    check_files,
    list_files,
    missing_shards,
    verdicts_in,
    vouch,
)
from rfray.progress.phases import say
from rfray.spec.schema_base import Strict
from rfray.spec.sweep import Resources
from rfray.store.bundle_record import ENSEMBLE_FILE
from rfray.store.files import file_digest
from rfray.store.records import Digest, find_record, write_record
from rfray.store.run_dir import find_bundle
from rfray.store.storage import is_address

SHARD = 2_000
"""Files; a process that dies loses at most so many predictions."""
RETRIES = 2
"""How often a process that has died is started again, and its shard with it."""


class Plan(Strict):
    """plan.json: what the folder is for."""

    bundle: Digest
    """Of its ensemble.json."""
    paths: list[str]
    """The words of the command line."""
    files: Digest
    """Of FILES_TABLE, which says what is in which shard."""


def claim(out: Path, bundle: str, words: Sequence[str], passed: PassedOver | None = None) -> int:
    """Makes `out` the folder of this bundle and these files, and lists the files unless they are; their number.

    `passed` gets what is passed over in folders.

    Raises RunError where the folder holds something else, DataError where there is no file.
    """
    digest, plan, files = file_digest(find_bundle(bundle) / ENSEMBLE_FILE), out / "plan.json", out / FILES_TABLE
    asked = [*map(readable, words)]
    if (known := find_record(plan, Plan, remedy="choose another folder")) is not None:
        if (known.bundle, known.paths) != (digest, asked):
            raise RunError(f"{out} holds predictions of another bundle, or of other files; choose another folder")
        for other in (file for file in out.iterdir() if file.is_symlink() or not file.is_file()):
            raise RunError(f"{other} is no plain file, as all of `rfray predict` are; choose another folder")
        check_files(out, known.files, "choose another folder")
        return int(pq.read_metadata(files).num_rows)
    if out.is_dir() and any(file != files for file in out.iterdir()):
        raise RunError(f"{out} is not empty, and not of `rfray predict`; choose another folder")
    here = [word if word == "-" or is_address(word) else os.path.abspath(word) for word in words]
    names = (name if is_address(name) else os.path.abspath(name) for name in image_files(here, sys.stdin or (), passed))
    if not (count := list_files(out, names, SHARD)):
        raise DataError("no image to predict: no path was given")
    write_record(plan, Plan(bundle=digest, paths=asked, files=file_digest(files)))
    return count


def predict_shards(
    out: Path, bundle: str, batch_size: int, resources: Resources, address: str | None
) -> Iterator[Counter[str]]:
    """Predicts every shard of a claimed folder that is missing or damaged; counts each one's verdicts, old ones first.

    `resources` are those of each process that predicts; every node must see the folder, the bundle and the files.
    Raises RfrayError where a shard can't be predicted, ClusterError.
    """
    missing, there = missing_shards(out)
    yield from verdicts_in(out, there)
    if missing:
        yield from do_shards(Task(out, bundle, batch_size), missing, resources, address)


def do_shards(task: Task, missing: Sequence[int], resources: Resources, address: str | None) -> Iterator[Counter[str]]:
    """Does the missing shards of any task on a folder, by a pool of processes; counts each one's verdicts."""
    out = task.out
    with connected(address, resources):
        slot = worker_slot(resources)
        if notice := autoscaler_notice(slot):
            say(Console(stderr=True), notice)
        actor = ray.remote(ShardPredictor).options(
            num_cpus=slot.cpu, num_gpus=slot.gpu, max_restarts=RETRIES, max_task_retries=RETRIES
        )
        count = min(slot_count(slot), len(missing))
        pool = ActorPool([actor.remote(slot.threads, *task) for _ in range(count)])
        try:
            for shard, counts in pool.map_unordered(lambda actor, shard: actor.predict.remote(shard), missing):
                vouch(out, shard)
                yield counts
        except RayError as error:
            kept = "What was predicted is there, and the same command goes on"
            raise RfrayError(f"{out}: {reason_of(error)}. {kept}") from error

"""a bundle + millions of image files -> a folder of Parquet shards, written by a pool of Ray actors.

files.parquet lists the files, a shard a row group; part-<number>.parquet are the verdicts on a shard: it is whole, or
not there, and its digest a line of shards.csv. No process holds more than a shard; the same command goes on with the
shards that are missing.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.exceptions import RayError
from ray.util import ActorPool
from rich.console import Console

from rfray.cluster.connect import connected
from rfray.cluster.slots import autoscaler_notice, slot_count, worker_slot
from rfray.cluster.tasks import reason_of
from rfray.data.folders import image_files
from rfray.data.listing import PassedOver
from rfray.errors import DataError, RfrayError, RunError, readable
from rfray.models.bundle import detect, load_bundle
from rfray.progress.phases import say
from rfray.spec.schema_base import Strict
from rfray.spec.sweep import Resources
from rfray.store.bundle_record import ENSEMBLE_FILE
from rfray.store.files import RECORD_BYTES, file_digest, read_plain, replacing, write_whole
from rfray.store.records import Digest, find_record, write_record
from rfray.store.run_dir import find_bundle
from rfray.store.sealed import table_bytes
from rfray.store.storage import is_address

FILES_TABLE = "files.parquet"
DIGESTS = "shards.csv"
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
        if not files.exists() or file_digest(files) != known.files or _columns(files) != ["path"]:
            raise RunError(f"{files} is damaged or gone, and says what the shards are of; choose another folder")
        return int(pq.read_metadata(files).num_rows)
    if out.is_dir() and any(file != files for file in out.iterdir()):
        raise RunError(f"{out} is not empty, and not of `rfray predict`; choose another folder")
    here = [word if word == "-" or is_address(word) else os.path.abspath(word) for word in words]
    names = (name if is_address(name) else os.path.abspath(name) for name in image_files(here, sys.stdin or (), passed))
    schema, count = pa.schema({"path": pa.binary()}), 0  # not every name is UTF-8
    with replacing(files) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for shard in iter(lambda: list(islice(names, SHARD)), []):
            writer.write_table(pa.table({"path": [*map(os.fsencode, shard)]}, schema=schema))
            count += len(shard)
        if not count:
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
    shards = range(pq.read_metadata(out / FILES_TABLE).num_row_groups)
    known = _digests(out)
    missing = [shard for shard in shards if not _is_whole(_part(out, shard), known.get(shard))]
    done = (pq.read_table(_part(out, shard), columns=["verdict"]) for shard in shards if shard not in missing)
    yield from (Counter(table["verdict"].to_pylist()) for table in done)
    if not missing:
        return
    with connected(address, resources):
        slot = worker_slot(resources)
        if notice := autoscaler_notice(slot):
            say(Console(stderr=True), notice)
        actor = ray.remote(ShardPredictor).options(
            num_cpus=slot.cpu, num_gpus=slot.gpu, max_restarts=RETRIES, max_task_retries=RETRIES
        )
        count = min(slot_count(slot), len(missing))
        pool = ActorPool([actor.remote(out, bundle, batch_size, slot.threads) for _ in range(count)])
        try:
            for shard, counts in pool.map_unordered(lambda actor, shard: actor.predict.remote(shard), missing):
                vouch(out, shard)
                yield counts
        except RayError as error:
            kept = "What was predicted is there, and the same command goes on"
            raise RfrayError(f"{out}: {reason_of(error)}. {kept}") from error


class ShardPredictor:
    """A process of the pool: it loads the bundle once, and predicts one shard at a time."""

    def __init__(self, out: Path, bundle: str, batch_size: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._out, self._batch_size, self._threads = out, batch_size, threads
        self._bundle = load_bundle(bundle)

    def predict(self, shard: int) -> tuple[int, Counter[str]]:
        """Writes the verdicts on a shard; the shard, and how many there are of each."""
        paths = [*map(os.fsdecode, pq.ParquetFile(self._out / FILES_TABLE).read_row_group(shard)["path"].to_pylist())]
        table = pd.concat(table for table, _ in detect(self._bundle, paths, self._batch_size, self._threads))
        write_whole(_part(self._out, shard), table_bytes(pa.Table.from_pandas(table, preserve_index=False)))
        return shard, Counter(table["verdict"])


def vouch(out: Path, shard: int) -> None:
    """Keeps the digest of the verdicts on a shard, by which damage is noticed: for the command alone."""
    with (out / DIGESTS).open("a") as lines:
        lines.write(f"{shard},{file_digest(_part(out, shard))}\n")


def _digests(out: Path) -> dict[int, str]:
    """Shard -> SHA-256 of its verdicts, as the last line on it has it."""
    file = out / DIGESTS
    try:
        text = read_plain(file, RECORD_BYTES).decode("ascii", "replace") if file.exists() else ""
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; delete it, and what it speaks of is predicted again") from None
    if text and not text.endswith("\n"):  # a line that was cut short, which the next one must not continue
        write_whole(file, f"{text}\n")
    lines = [line.split(",") for line in text.splitlines()]
    return {int(line[0]): line[1] for line in lines if len(line) == 2 and re.fullmatch(r"\d{1,9}", line[0])}


def _is_whole(part: Path, digest: str | None) -> bool:
    return part.is_file() and file_digest(part) == digest and "verdict" in _columns(part)


def _columns(file: Path) -> list[str]:
    """The names of a table's columns; none where it is no table."""
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException):
        return []


def _part(out: Path, shard: int) -> Path:
    return out / f"part-{shard:06d}.parquet"

"""a bundle + millions of image files -> a folder of Parquet shards, by Ray Data; the same command goes on.

files.parquet lists the files, a shard a row group; part-<number>.parquet is what was said of a shard, and is whole or
not there. Nothing holds more than a shard of it: neither this process nor those that predict.
"""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console

from rfray.cluster.connect import connected
from rfray.cluster.slots import Slot, autoscaler_notice, slot_count, worker_slot
from rfray.cluster.tasks import reason_of
from rfray.data.listing import image_files
from rfray.errors import DataError, RfrayError, RunError
from rfray.models.bundle import load_bundle
from rfray.models.ensemble_inference import detect
from rfray.models.verdicts import parquet_table, verdict_table
from rfray.spec.sweep import Resources
from rfray.store.ensemble_record import find_bundle
from rfray.store.files import file_digest, replace_text, replacing
from rfray.store.run_dir import ENSEMBLE_FILE
from rfray.store.storage import is_address

logging.getLogger("ray.data").setLevel(logging.ERROR)

SHARD = 2_000
"""Files; a process that dies loses what it has of one."""


def predicted_shards(
    out: Path, where: str, batch_size: int, resources: Resources, address: str | None
) -> Iterator[Counter[str]]:
    """Has every shard of a claimed folder written that is not there; the verdicts of each, those there first.

    `resources` are those of each process that predicts; every node must see the folder, the bundle and the files.
    Raises RfrayError where one can't go on, ClusterError.
    """
    count = pq.read_metadata(_list(out)).num_row_groups
    there = [number for number in range(count) if _part(out, number).exists()]
    yield from (_counted(_part(out, number)) for number in there)
    if missing := sorted(set(range(count)) - set(there)):
        with ExitStack() as session:
            with _silent():
                session.enter_context(connected(address, resources))
            slot = worker_slot(resources)
            if coming := autoscaler_notice(slot):
                Console(stderr=True).print(coming, soft_wrap=True)
            yield from _predicted(out, where, missing, batch_size, slot)


class Predictor:
    """What each process of the pool does, one shard at a time."""

    def __init__(self, out: Path, where: str, batch_size: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._out, self._batch_size, self._threads = out, batch_size, threads
        self._bundle = load_bundle(where)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Writes the shards, {"shard": (b,) int}; counts of their verdicts, as JSON."""
        counts = []
        for number in batch["shard"].tolist():
            paths = pq.ParquetFile(_list(self._out)).read_row_group(number)["path"].to_pylist()
            tables = [
                parquet_table(verdict_table(self._bundle.ensemble, seen.paths, seen.scores, seen.reasons))
                for seen in detect(self._bundle, paths, self._batch_size, self._threads)
            ]
            with replacing(_part(self._out, number)) as temporary:
                pq.write_table(pa.concat_tables(tables), temporary)
            counts.append(json.dumps(_counted(_part(self._out, number))))
        return {"counts": counts}


@contextmanager
def _silent() -> Iterator[None]:
    """Has Ray's own library be silent from here on: it would warn of how Ray Data starts its processes.

    It takes no other word for it than this variable, and tells on the standard error, in C++, that it has taken it.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _predicted(out: Path, where: str, missing: list[int], batch_size: int, slot: Slot) -> Iterator[Counter[str]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    predicted = shards.map_batches(
        Predictor,
        fn_constructor_args=(out, where, batch_size, slot.threads),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(slot_count(slot), len(missing))),
        num_cpus=slot.cpu,
        num_gpus=slot.gpu,
    )
    try:
        for row in predicted.iter_rows():
            yield Counter(json.loads(row["counts"]))
    except ray.exceptions.RayError as error:
        raise RfrayError(
            f"{out}: {reason_of(error)}. What was predicted is there, and the same command goes on"
        ) from error


def claim(out: Path, where: str, words: Sequence[str]) -> int:
    """Makes the folder this bundle's and these files', which are listed unless they were; how many they are.

    Raises RunError where the folder holds something else.
    """
    asked = {"bundle": file_digest(find_bundle(where) / ENSEMBLE_FILE), "paths": list(words)}
    plan = out / "plan.json"
    if plan.exists():
        if json.loads(plan.read_text(encoding="utf-8")) != asked:
            raise RunError(f"{out} holds what another bundle said, or said of other files; choose another folder")
    elif out.is_dir() and any(file != _list(out) for file in out.iterdir()):
        raise RunError(f"{out} is not empty, and not of `rfray predict`; choose another folder")
    else:
        _write_list(_list(out), words)
        replace_text(plan, json.dumps(asked))
    return int(pq.read_metadata(_list(out)).num_rows)


def _write_list(file: Path, words: Sequence[str]) -> None:
    here = [word if word == "-" or is_address(word) else os.path.abspath(word) for word in words]
    names = (name if is_address(name) else os.path.abspath(name) for name in image_files(here, sys.stdin))
    schema = pa.schema({"path": pa.string()})
    with replacing(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        empty = True
        while some := list(islice(names, SHARD)):
            writer.write_table(pa.table({"path": some}, schema=schema))
            empty = False
        if empty:
            raise DataError("no image to predict: no path was given")


def _list(out: Path) -> Path:
    return out / "files.parquet"


def _part(out: Path, number: int) -> Path:
    return out / f"part-{number:06d}.parquet"


def _counted(part: Path) -> Counter[str]:
    return Counter(pq.read_table(part, columns=["verdict"])["verdict"].to_pylist())

"""a list of image files -> a folder of Parquet shards with what a bundle says of them, each whole or not there.

files.parquet lists the files, a shard a row group; part-<number>.parquet are the verdicts on a shard, and its digest a
line of shards.csv. No process holds more than a shard; whoever is stopped goes on with the shards that are missing.
Without Ray: `bulk` has many processes do the same.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rfray.errors import RunError
from rfray.models.bundle import detect, detect_corrupted, load_bundle, with_further
from rfray.store.files import RECORD_BYTES, file_digest, read_plain, replacing, write_whole
from rfray.store.sealed import table_bytes

FILES_TABLE = "files.parquet"
DIGESTS = "shards.csv"


def list_files(out: Path, names: Iterator[str], size: int) -> int:
    """Writes the table of files, so many a shard; their number. Without a file nothing is written."""
    schema, count, first = pa.schema({"path": pa.binary()}), 0, list(islice(names, size))  # not every name is UTF-8
    if not first:
        return 0
    with replacing(out / FILES_TABLE) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        shard = first
        while shard:
            writer.write_table(pa.table({"path": [*map(os.fsencode, shard)]}, schema=schema))
            count += len(shard)
            shard = list(islice(names, size))
    return count


class Task(NamedTuple):
    """What is to be made of each shard of a folder."""

    out: Path
    bundle: str
    """A bundle or a run, as every node finds it."""
    batch_size: int = 64
    identify: bool = False
    """Whether files are told by digest and hash, too: see `detect`."""
    further: tuple[str, ...] = ()
    """Ids of models of the run that predict, too."""
    corrupted: bool = False
    """Whether pictures are predicted under every corruption, instead of as they are."""


class ShardPredictor:
    """It loads the bundle once, and predicts one shard at a time; of a pool, each process is one."""

    def __init__(self, threads: int, *task: Any) -> None:
        """`task` are the fields of a Task: plain values, for which a worker of Ray need not import this module."""
        torch.set_num_threads(threads)
        self._task, self._threads = Task(*task), threads
        self._bundle = with_further(load_bundle(self._task.bundle), self._task.bundle, self._task.further)

    def predict(self, shard: int) -> tuple[int, Counter[str]]:
        """Writes the verdicts on a shard; the shard, and how many there are of each verdict."""
        out, file = self._task.out, pq.ParquetFile(self._task.out / FILES_TABLE)
        paths = [*map(os.fsdecode, file.read_row_group(shard)["path"].to_pylist())]
        if self._task.corrupted:
            table = detect_corrupted(self._bundle, paths, self._threads)
        else:
            seen = detect(self._bundle, paths, self._task.batch_size, self._threads, identify=self._task.identify)
            table = pd.concat(table for table, _ in seen)
        write_whole(part_file(out, shard), table_bytes(pa.Table.from_pandas(table, preserve_index=False)))
        return shard, Counter(table["verdict"])


def missing_shards(out: Path) -> tuple[list[int], list[int]]:
    """The numbers of the shards that are missing or damaged, and of those that are there."""
    known, missing, there = _digests(out), list[int](), list[int]()
    for shard in range(pq.read_metadata(out / FILES_TABLE).num_row_groups):
        (there if _is_whole(part_file(out, shard), known.get(shard)) else missing).append(shard)
    return missing, there


def check_files(out: Path, digest: str, remedy: str) -> None:
    """Raises RunError, with the remedy, where the table of files is gone, or not what had this digest."""
    files = out / FILES_TABLE
    if not files.exists() or file_digest(files) != digest or columns_of(files) != ["path"]:
        raise RunError(f"{files} is damaged or gone, and says what the shards are of; {remedy}")


def verdicts_in(out: Path, shards: Iterable[int]) -> Iterator[Counter[str]]:
    """How many there are of each verdict in each of the shards, which are there."""
    for shard in shards:
        yield Counter(pq.read_table(part_file(out, shard), columns=["verdict"])["verdict"].to_pylist())


def vouch(out: Path, shard: int) -> None:
    """Keeps the digest of the verdicts on a shard, by which damage is noticed: for the command alone."""
    with (out / DIGESTS).open("a") as lines:
        lines.write(f"{shard},{file_digest(part_file(out, shard))}\n")


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
    return part.is_file() and file_digest(part) == digest and "verdict" in columns_of(part)


def columns_of(file: Path) -> list[str]:
    """The names of a table's columns; none where it is no table."""
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException):
        return []


def part_file(out: Path, shard: int) -> Path:
    """The file of the verdicts on a shard."""
    return out / f"part-{shard:06d}.parquet"

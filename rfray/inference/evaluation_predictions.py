"""a bundle + a labelled set -> what each member says of each image, in shards below evaluations/<name>/.shards.

A small set is predicted in this process, a large one, or one on a cluster, by a pool on Ray. Shards that are there are
not made again: whoever is stopped goes on.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.hash_index import HASH_BYTES
from rfray.data.labelled_sets import COLUMNS, LabelledSet
from rfray.errors import RunError, first_line
from rfray.inference.shards import (
    FILES_TABLE,
    ShardPredictor,
    Task,
    check_files,
    list_files,
    missing_shards,
    part_file,
    verdicts_in,
    vouch,
)
from rfray.progress.phases import say
from rfray.spec.sweep import Resources
from rfray.store.evaluation_dir import EvaluationDir, ShardsPlan
from rfray.store.files import file_digest
from rfray.store.records import find_record, write_record

SHARD, SMALL_SHARD = 2_000, 250
"""Images of a shard of many, and of at most IN_PROCESS: whoever is stopped loses at most so many predictions."""
CORRUPTED_SHARD = 200
"""Images, each of which is predicted under 13 corruptions."""
IN_PROCESS = 10_000
"""Pictures from which on a pool of processes is worth the start of Ray (our choice): on two cores it takes 10 s."""


def claim(
    out: EvaluationDir, bundle: str, given: LabelledSet, further: Sequence[str], corrupted: bool, console: Console
) -> None:
    """Lists the images of a set in the folder of its shards; those of other images, or of another bundle, go.

    `bundle` is its digest. With `corrupted`, the shards of corrupted pictures; `given` has those that count then.
    Raises RunError where the folder is damaged.
    """
    shards, wanted = out.corrupted_folder if corrupted else out.shards_folder, _digest(given)
    plan_file = shards / "plan.json"
    remedy = f"delete {shards}, and all is predicted again"
    known = find_record(plan_file, ShardsPlan, remedy=remedy)
    if known is not None and (known.bundle, known.images, known.further) == (bundle, wanted, list(further)):
        check_files(shards, known.files, remedy)
        return
    if known is not None and not corrupted:
        what = given.where if known.images != wanted else "the bundle"
        say(console, f"{out.name}: {what} has changed since it was evaluated, so it is predicted again")
    shutil.rmtree(shards, ignore_errors=True)
    size = CORRUPTED_SHARD if corrupted else SHARD if len(given.images) > IN_PROCESS else SMALL_SHARD
    list_files(shards, iter(given.images["file"]), size)
    files = file_digest(shards / FILES_TABLE)
    plan = ShardsPlan(bundle=bundle, where=given.where, images=wanted, further=list(further), files=files)
    write_record(plan_file, plan)


def predict_set(task: Task, resources: Resources, address: str | None) -> Iterator[Counter[str]]:
    """Does the shards of a claimed evaluation that are missing; counts the verdicts of each, old ones first.

    In this process where they have at most IN_PROCESS pictures and no `address` is given. Raises as `predict_shards`.
    """
    missing, there = missing_shards(task.out)
    yield from verdicts_in(task.out, there)
    listed = pq.read_metadata(task.out / FILES_TABLE)
    images = sum(listed.row_group(shard).num_rows for shard in missing)
    if images and (address is not None or images * (len(CORRUPTION_NAMES) if task.corrupted else 1) > IN_PROCESS):
        from rfray.inference.bulk import do_shards

        yield from do_shards(task, missing, resources, address)
    elif images:
        predictor = ShardPredictor(os.cpu_count() or 1, *task)
        for shard in missing:
            _, counts = predictor.predict(shard)
            vouch(task.out, shard)
            yield counts


def read_shards(task: Task, scores: Sequence[str]) -> Iterator[pd.DataFrame]:
    """What was made of each shard, in the order of the set; `scores` are its columns of p_fake.

    Raises RunError where one is missing, or not what this task makes.
    """
    missing, there = missing_shards(task.out)
    if missing:
        raise RunError(f"{part_file(task.out, missing[0])} is damaged; the same command makes it anew")
    texts = () if task.corrupted else ("reason", "digest")
    hashes = () if task.corrupted else ("hash", "hash_mirrored")
    table = pq.ParquetFile(task.out / FILES_TABLE)
    for shard in there:
        file, count = part_file(task.out, shard), table.metadata.row_group(shard).num_rows
        try:
            found = pq.read_table(file, columns=[*scores, *texts, *hashes])
            kinds = {name: str(found.schema.field(name).type).removeprefix("large_") for name in found.column_names}
            wanted = {**dict.fromkeys(scores, "double"), **dict.fromkeys(texts, "string")}
            if kinds != {**wanted, **dict.fromkeys(hashes, "binary")} or found.num_rows != count:
                raise ValueError("other columns or rows than were predicted")
            yield _checked(found.to_pandas(), scores)
        except (ValueError, KeyError, pa.ArrowException) as error:
            remedy = f"delete {task.out}, and all is predicted again"
            raise RunError(f"{file} is damaged: {first_line(error)}; {remedy}") from None


def _checked(shard: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """The same. Raises ValueError where a file has neither a reason nor probabilities, or a hash is none."""
    read = (shard["reason"] == "").to_numpy() if "reason" in shard else np.ones(len(shard), bool)
    p_fake = shard.loc[read, [*scores]].to_numpy(float)
    if not ((p_fake >= 0) & (p_fake <= 1)).all():
        raise ValueError("a probability is none")
    if "digest" in shard:
        known = shard[shard["digest"] != ""]
        sizes = {len(one) for column in ("hash", "hash_mirrored") for one in known[column]}
        if not all(map(re.compile("[0-9a-f]{64}").fullmatch, known["digest"])) or not sizes <= {HASH_BYTES}:
            raise ValueError("a digest or a hash is none")
        if not (read <= (shard["digest"] != "").to_numpy()).all():
            raise ValueError("a file was read, and has no digest")
    return shard


def _digest(given: LabelledSet) -> str:
    found = hashlib.sha256()
    for row in given.images[COLUMNS].itertuples(index=False):
        found.update(repr(tuple(row)).encode("utf-8", "surrogateescape"))
    return found.hexdigest()

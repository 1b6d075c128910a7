"""tables of verdicts, one after the other -> one CSV, JSON lines or Parquet file, or the standard output."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.errors import InputError, nearest_first
from rfray.store.files import replacing

Write = Callable[[pd.DataFrame], None]
"""Appends a table; all have the same columns."""
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""What a file's name ends in -> its format."""
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))


def format_of(out: Path | None, asked: str | None) -> str:
    """One of FORMATS: what was asked for, else by the file's name; CSV on the standard output.

    Raises InputError for another one, and for Parquet on the standard output.
    """
    if asked is not None and asked not in FORMATS:
        raise InputError(f"--format {asked}: no such format; allowed: {nearest_first(asked, FORMATS)}")
    if out is None:
        if asked == "parquet":
            raise InputError("--format parquet: it needs a file, --out FILE.parquet; allowed without one: csv, jsonl")
        return asked or "csv"
    if asked is None and out.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"--out {out}: allowed: a name that ends in {', '.join(SUFFIXES)}, any name with --format, or a folder "
            "that ends in /"
        )
    return asked or SUFFIXES[out.suffix.lower()]


@contextmanager
def verdict_rows(out: Path | None, form: str) -> Iterator[Write]:
    """What appends to `out`, which is whole when the block ends well and else as it was; None: the standard output.

    Raises InputError where it can't be written.
    """
    with ExitStack() as stack:
        if out is None:
            yield WRITERS[form](sys.stdout)
            return
        try:
            path = stack.enter_context(replacing(out))
            path.touch()
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}") from None
        if form == "parquet":
            yield stack.enter_context(_parquet(path))
        else:
            yield WRITERS[form](stack.enter_context(path.open("w", encoding="utf-8", newline="")))


def _csv(to: TextIO) -> Write:
    header = [True]

    def write(rows: pd.DataFrame) -> None:
        rows.to_csv(to, index=False, header=header.pop() if header else False, lineterminator="\n")

    return write


def _json_lines(to: TextIO) -> Write:
    def write(rows: pd.DataFrame) -> None:
        for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
            to.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    with ExitStack() as stack:
        writer: list[pq.ParquetWriter] = []

        def write(rows: pd.DataFrame) -> None:
            table = pa.Table.from_pandas(rows, preserve_index=False)
            if not writer:
                writer.append(stack.enter_context(pq.ParquetWriter(path, table.schema)))
            writer[0].write_table(table)

        yield write


WRITERS: dict[str, Callable[[TextIO], Write]] = {"csv": _csv, "jsonl": _json_lines}
"""Format -> what writes it as text."""

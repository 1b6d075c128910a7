"""tables of verdicts, one after the other -> one CSV, JSON lines or Parquet file, or the standard output."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.errors import InputError, nearest_first, of_system, printable
from rfray.store.csv_files import csv_text
from rfray.store.files import clear_left_over, replacing

Write = Callable[[pd.DataFrame], None]
"""Appends a table; all have the same columns."""
BY_ENDING = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""What a file's name ends in -> its format."""
VERDICT_FORMATS = tuple(dict.fromkeys(BY_ENDING.values()))


def format_of(out: Path | None, asked: str | None) -> str:
    """One of VERDICT_FORMATS: what was asked for, else by the file's name; CSV on the standard output.

    Raises InputError for another one, and for Parquet on the standard output.
    """
    if asked is not None and asked not in VERDICT_FORMATS:
        raise InputError(f"--format {asked}: no such format; allowed: {nearest_first(asked, VERDICT_FORMATS)}")
    if out is None and asked == "parquet":
        raise InputError("--format parquet: it needs a file, --out FILE.parquet; allowed without one: csv, jsonl")
    found = asked or ("csv" if out is None else BY_ENDING.get(out.suffix.lower()))
    if found is None:
        endings = f"a name that ends in {', '.join(BY_ENDING)}, any name with --format, or a folder that ends in /"
        raise InputError(f"--out {out}: allowed: {endings}")
    return found


@contextmanager
def verdict_rows(out: Path | None, form: str) -> Iterator[Write]:
    """What appends to `out`, which is whole when the block ends well and else as it was; None: the standard output.

    Raises InputError where it can't be written, or the standard output is closed.
    """
    if out is None and sys.stdout is None:
        raise InputError("the standard output is closed; name a file for the rows with --out FILE")
    with ExitStack() as stack:
        path, file, parquet = None, sys.stdout, None
        if out is not None:
            try:
                clear_left_over(out)
                path = stack.enter_context(replacing(out))
                file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            except OSError as error:
                raise of_system(error, f"--out {out}") from None
        first = True

        def write(rows: pd.DataFrame) -> None:
            nonlocal first, parquet
            if file is sys.stdout and file.isatty():  # somebody reads it, and no program
                rows = rows.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
            if form == "csv":
                file.write(csv_text(rows, header=first))
            elif form == "jsonl":
                for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                table = pa.Table.from_pandas(rows, preserve_index=False)
                parquet = parquet or stack.enter_context(pq.ParquetWriter(path, table.schema))
                parquet.write_table(table)
            first = False

        yield write

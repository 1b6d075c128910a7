"""tables -> CSV that spreadsheets take for text where it is text, and back.

A cell of text that a spreadsheet would take for a formula (OWASP, CSV Injection) has an apostrophe before it, as has
one that already begins with apostrophes and such a sign; what is read back lacks that one again. Numbers stay as they
are.
"""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from rfray.store.files import read_plain
from rfray.store.sealed import TABLE_BYTES

FORMULA = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""What a cell begins with that a spreadsheet may take for a formula; the last four: the same signs in full width."""
TO_MARK, MARKED = re.compile(rf"(?='*{FORMULA})"), re.compile(rf"'(?='*{FORMULA})")


def csv_text(table: pd.DataFrame, *, header: bool = True) -> str:
    """The table without its index as CSV; each row ends in a newline, and a cell with any end of a line is quoted."""
    marked = _changed(table, lambda cell: TO_MARK.sub("'", cell, 1) if TO_MARK.match(cell) else cell)
    text = (cell for name in _texts(table) for cell in (name, *table[name]) if isinstance(cell, str))
    # with MINIMAL, Python before 3.13 leaves a carriage return unquoted, at which readers end the row
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if any("\r" in cell for cell in text) else csv.QUOTE_MINIMAL
    return marked.to_csv(index=False, header=header, lineterminator="\n", quoting=quoting)


def read_csv(file: Path, **options: Any) -> pd.DataFrame:
    """What `csv_text` has written, as it was; `options` are those of pandas, and so is what it raises."""
    return parse_csv(io.BytesIO(read_plain(file, TABLE_BYTES)), **options)


def parse_csv(source: io.BytesIO | io.StringIO, **options: Any) -> pd.DataFrame:
    """The same of what was read already."""
    table = pd.read_csv(source, **options)
    return _changed(table, lambda cell: MARKED.sub("", cell, 1) if MARKED.match(cell) else cell)


def _texts(table: pd.DataFrame) -> list[str]:
    return [name for name in map(str, table) if not pd.api.types.is_numeric_dtype(table[name])]


def _changed(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    table = table.copy()
    for name in _texts(table):
        cells = [change(cell) if isinstance(cell, str) else cell for cell in table[name]]
        dtype = object if isinstance(table[name].dtype, pd.CategoricalDtype) else table[name].dtype
        table[name] = pd.Series(cells, index=table.index, dtype=dtype)
    return table

"""A table of what is known of images (`data.attributes`: CSV or Parquet) -> its columns, as text, for any images.

It has a column `path` (below the data folder, as in the catalog), maybe `folder` (train, val, test or test-<name>,
where the same path is in several), and attributes: generator, quality, age, skin type, ... "" is no value.
"""

import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.data.listing import counted
from rfray.errors import DataError, StorageError, first_line, nearest_first
from rfray.spec.sweep import DataSettings
from rfray.store.csv_files import parse_csv
from rfray.store.files import read_plain
from rfray.store.sealed import TABLE_BYTES
from rfray.store.storage import Storage, is_address

KEYS = ("folder", "path")
"""Columns that say which image a row is about; all others are attributes."""
NO_VALUE = ("nan", "NaN", "NA", "N/A", "null")
"""What programs write into a cell where there is no value, besides nothing."""
ROW_NUMBERS = "__index_level_"
"""What a column begins with in which pandas keeps the numbers of its rows."""
SEPARATORS = (",", ";", "\t")
"""Of CSV, as spreadsheets write it in different countries."""
MOST_CLASSES, MOST_VALUES = 10, 50
"""A column of numbers is cut into quarters where it has more different ones; another column with more different values
makes no groups (our choice: of more than fifty groups, few have images enough to say anything)."""


def read_attributes(where: str) -> pd.DataFrame:
    """The table at a path or an address: one row an image, all columns text, `path` among them.

    Raises DataError, in one line, where it can't be read, has no path, or names an image twice.
    """
    try:
        data = read_table_file(where)
        table = _of_parquet(data) if where.lower().endswith(".parquet") else csv_table(data)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except (OSError, ValueError, OverflowError, csv.Error, StorageError, pa.ArrowException) as error:
        raise DataError(f"{where}: not a table that can be read: {first_line(error)}") from None
    if "path" not in table:
        raise DataError(
            f"{where}: no column 'path', which says which image a row is about; there: "
            f"{nearest_first('path', list(table.columns)) or 'no column'}"
        )
    if len(table.columns.difference([*KEYS])) == 0:
        raise DataError(f"{where}: it has no column besides {', '.join(table.columns)}, so it says nothing of an image")
    keys = [name for name in KEYS if name in table]
    if (twice := table.duplicated(keys)).any():
        one = table.loc[twice, "path"].iloc[0]
        raise DataError(f"{where}: {counted(int(twice.sum()), 'row')} of an image that has one already, e.g. {one}")
    return table


def read_table_file(where: str) -> bytes:
    """What is in a file on a disk or at an address. Raises OSError, StorageError; ValueError where it is too large."""
    if not is_address(where):
        return read_plain(Path(where), TABLE_BYTES)
    folder, _, name = where.rpartition("/")
    data = Storage(folder).read(name, TABLE_BYTES)
    if len(data) > TABLE_BYTES:
        raise ValueError(f"larger than {TABLE_BYTES / 1e6:.0f} MB, as no such table is")
    return data


def check_attributes(settings: DataSettings, images: pd.DataFrame | None = None) -> None:
    """Raises DataError where `data.attributes` is given, and no table that can be read, or of none of the images."""
    if settings.attributes is not None:
        table = read_attributes(settings.attributes)
        if images is not None:
            unmatched(table, images, settings.attributes)


def unmatched(table: pd.DataFrame, images: pd.DataFrame, where: str) -> list[str]:
    """What to say of rows without an image, and of images (path, folder) without a row; a line each.

    Raises DataError where no row is of an image.
    """
    keys = [name for name in KEYS if name in table]
    rows, those = pd.MultiIndex.from_frame(table[keys]), pd.MultiIndex.from_frame(images[keys])
    known, has_row = rows.isin(those), those.isin(rows)
    if not known.any():
        named, there = table["path"].iloc[0] if len(table) else "nothing", images["path"].iloc[0]
        folders = f" (folder {table['folder'].iloc[0]!r})" if len(table) and "folder" in table else ""
        raise DataError(
            f"{where}: none of its {counted(len(table), 'row')} is of an image: it names e.g. {named}{folders}, and "
            f"the images are e.g. {there}; paths begin below the train, val or test folder"
        )
    said = []
    if not known.all():
        one = table.loc[~known, "path"].iloc[0]
        said.append(f"{(~known).sum():,} of {counted(len(table), 'row')} are of no image here, e.g. {one}")
    if not has_row.all():
        one = images.loc[~has_row, "path"].iloc[0]
        said.append(f"{(~has_row).sum():,} of {counted(len(images), 'image')} are not in it, e.g. {one}")
    return [f"data.attributes: {line}" for line in said]


def in_several_folders(table: pd.DataFrame, images: pd.DataFrame) -> list[str]:
    """What to say of rows that are of several images (path, folder), as there is no column folder; a line at most."""
    if "folder" in table:
        return []
    folders = images[images["path"].isin(table["path"])].groupby("path")["folder"].unique()
    several = folders[folders.map(len) > 1]
    if several.empty:
        return []
    one, where = several.index[0], " and ".join(several.iloc[0])
    return [
        f"data.attributes: images in different folders share {counted(len(several), 'path')}, e.g. {one} in {where}: "
        "such a row counts for each of them, unless a column folder says which is meant"
    ]


def attributes_of(table: pd.DataFrame, folder: str, paths: Sequence[str]) -> pd.DataFrame:
    """The attributes of images of one data folder: a row each, in the order of `paths`; "" where there is no value."""
    own = table if "folder" not in table else table[table["folder"] == folder]
    return own.set_index("path").drop(columns="folder", errors="ignore").reindex(list(paths)).fillna("")


def categories(attributes: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The attributes of images with few values each; and what to say of those that were cut or passed over.

    A column of many different numbers, such as an age, is cut into quarters of the images: "18 to 25".
    """
    found, said = {}, []
    for name in attributes:
        given = attributes[name]
        values = given[given != ""]
        numbers = pd.to_numeric(values, errors="coerce")
        many = values.nunique()
        if many > MOST_CLASSES and np.isfinite(numbers).all():
            found[name] = given.where(given == "", _quarters(values, numbers).reindex(given.index))
            shown = ", ".join(dict.fromkeys(found[name].loc[numbers.sort_values().index]))
            said.append(f"attribute {name}: {many:,} different numbers, cut into quarters of the images: {shown}")
        elif many > MOST_VALUES:
            said.append(f"attribute {name}: {many:,} different values in {counted(len(values), 'image')}, so no groups")
        elif given.nunique() < 2:
            what = "the same value in all images" if many else "no value in any of these images"
            said.append(f"attribute {name}: {what}, so no groups")
        else:
            found[name] = given
    return pd.DataFrame(found, index=attributes.index), said


def _quarters(values: pd.Series, numbers: pd.Series) -> pd.Series:
    """Of each value the range of its quarter, as the smallest and the largest value in it are written."""
    quarter = pd.qcut(numbers, 4, labels=False, duplicates="drop")
    ranges = {}
    for number in quarter.unique():
        inside = numbers[quarter == number].sort_values().index
        low, high = values[inside[0]], values[inside[-1]]
        ranges[number] = low if low == high else f"{low} to {high}"
    return quarter.map(ranges)


def csv_table(data: bytes) -> pd.DataFrame:
    """A CSV as text, with a header and one of SEPARATORS.

    Raises ValueError (as UnicodeDecodeError and pandas' ParserError are), csv.Error.
    """
    text = data.decode("utf-8-sig")
    headers = {one: next(csv.reader(io.StringIO(text), delimiter=one), []) for one in SEPARATORS}
    separator = next((one for one, header in headers.items() if "path" in map(str.strip, header)), ",")
    header = [name.strip() for name in headers[separator]]
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise ValueError(f"it has two columns {twice!r}")
    options = {
        "sep": separator,
        "dtype": str,
        "keep_default_na": False,
        "index_col": False,
        "names": header,
        "header": 0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # or cells beyond the header would be dropped
        try:
            table = parse_csv(io.StringIO(text), **options)
        except pd.errors.ParserWarning:
            raise ValueError("its rows have more cells than its header") from None
    return _tidy(table)


def _of_parquet(data: bytes) -> pd.DataFrame:
    """Raises pa.ArrowException; ValueError where a column holds more than one value a row, or bytes that are no text.

    OverflowError for a time that Python has none for.
    """
    table = pq.read_table(pa.BufferReader(data))
    for field in table.schema:
        if pa.types.is_nested(field.type):
            raise ValueError(f"column {field.name!r} holds lists or records; allowed: one value a row")
    names = [name for name in table.column_names if not name.startswith(ROW_NUMBERS)]
    return _tidy(pd.DataFrame({name: _texts(table[name]) for name in names}))


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Values as they would stand in a CSV; a whole number is written as one, also where an empty cell made it 3.0."""
    values = [one.decode() if isinstance(one, bytes) else one for one in column.to_pylist()]
    whole = all(one is None or (isinstance(one, float) and (one != one or one.is_integer())) for one in values)
    return ["" if one is None or one != one else str(int(one) if whole else one) for one in values]


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Without blanks around values, and columns that have neither a name nor a value. Raises ValueError for others."""
    table = table.fillna("").astype(str)
    for name in table.columns.difference(["path"]):
        cells = table[name].str.strip()
        table[name] = cells.mask(cells.isin(NO_VALUE), "")
        if not name and (table[name] != "").any():
            raise ValueError("a column has values and no name")
    return table[[name for name in table if name]]

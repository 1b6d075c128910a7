"""`data.leave_out`: a list of training images that a person has looked through -> those that take no part.

A CSV with a column `path` (below the train or val folder, as in the catalog), maybe `folder` (train or val), such as
label-issues.csv without the rows that are right after all; or plain text, a path a line.
"""

import csv
import io
import os

import pandas as pd

from rfray.data.attributes import KEYS, SEPARATORS, csv_table, read_table_file
from rfray.data.folders import image_folder
from rfray.data.listing import counted
from rfray.errors import DataError, StorageError, first_line
from rfray.spec.schema_base import leads_out
from rfray.spec.sweep import DataSettings
from rfray.store.storage import is_address

NAMED = 3
"""Unknown paths in an error: more would not be read."""


def read_leave_out(where: str) -> pd.DataFrame:
    """The list at a path or an address: `path`, and `folder` where it says so; each image once, in order of path.

    Raises DataError, in one line, where it can't be read, or is empty.
    """
    try:
        data = read_table_file(where)
        text = data.decode("utf-8-sig")
        first = text.partition("\n")[0]
        has_header = any(
            "path" in map(str.strip, next(csv.reader(io.StringIO(first), delimiter=one), [])) for one in SEPARATORS
        )
        if has_header:
            table = csv_table(data)
        else:
            table = pd.DataFrame({"path": [line for line in text.splitlines() if line.strip()]}, dtype=str)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except (OSError, ValueError, csv.Error, StorageError) as error:
        raise DataError(f"{where}: not a list of paths that can be read: {first_line(error)}") from None
    keys = [name for name in KEYS if name in table]
    table = table.loc[table["path"] != "", keys].drop_duplicates().sort_values(keys, ignore_index=True)
    if table.empty:
        raise DataError(f"{where}: no path in it; allowed: a CSV with a column path, or a path a line")
    return table


def check_leave_out(settings: DataSettings) -> None:
    """Raises DataError where `data.leave_out` can't be read, or names what is in no training folder on this machine."""
    if settings.leave_out is None:
        return
    table = read_leave_out(settings.leave_out)
    if settings.source == "demo":
        return
    folders = {part: image_folder(settings, part) for part in settings.training_folders}
    if any(is_address(str(folder)) for folder in folders.values()):
        return
    named = table["folder"] if "folder" in table else [None] * len(table)
    unknown = [
        path
        for path, own in zip(table["path"], named, strict=True)
        if leads_out(path)
        or not any(own in (None, part) and os.path.isfile(folder / path) for part, folder in folders.items())
    ]
    refuse_unknown(settings.leave_out, unknown, str(folders["train"]))


def left_out_rows(table: pd.DataFrame, images: pd.DataFrame) -> pd.Series:
    """Which images (folder, path) the list names: bool, a row each."""
    keys = [name for name in KEYS if name in table]
    named = pd.MultiIndex.from_frame(table[keys])
    return pd.Series(pd.MultiIndex.from_frame(images[keys]).isin(named), images.index)


def unknown_paths(table: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """The paths that the list names and that are of none of the known images (folder, path)."""
    keys = [name for name in KEYS if name in table]
    is_known = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(known[keys]))
    return table.loc[~is_known, "path"].tolist()


def refuse_unknown(where: str, unknown: list[str], folder: str) -> None:
    """Raises DataError where there are any."""
    if unknown:
        more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
        raise DataError(
            f"{where}: {counted(len(unknown), 'path')} of no training image: {', '.join(unknown[:NAMED])}{more}; "
            f"allowed: paths below {folder}, such as real/1.jpg, and a column folder that says train or val"
        )


def list_changes(before: pd.DataFrame, now: pd.DataFrame) -> str:
    """How a list differs from what it was; "" where it does not."""
    old, new = ({tuple(row) for row in table.itertuples(index=False)} for table in (before, now))
    parts = [(new - old, "more"), (old - new, "fewer")]
    return ", ".join(f"{len(some):,} {word} (e.g. {min(some)[-1]})" for some, word in parts if some)

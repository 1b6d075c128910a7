"""The words of `rfray evaluate` -> labelled sets of images: folders with class folders, of one class, or tables.

A table is a CSV or a Parquet file with the columns `path` (below the table's own folder) and `label` (0 or real, 1 or
fake); its other columns are attributes. Folders and tables may be at an address (s3://…).
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from rfray.data.attributes import read_attributes
from rfray.data.decoding import SUFFIXES
from rfray.data.listing import PassedOver, beside, counted, images_below, note_unused, refuse
from rfray.errors import DataError, InputError, nearest_first
from rfray.spec.schema_base import leads_out
from rfray.spec.sweep import CLASSES
from rfray.store.evaluation_dir import MEAN, SUMMARY, WORST
from rfray.store.files import below
from rfray.store.records import LONGEST_NAME, NAME_PATTERN
from rfray.store.storage import SCHEMES, Storage, is_address

TABLES = (".csv", ".parquet")
"""What the name of a table ends in, any case."""
LABELS = {"0": 0, "real": 0, "false": 0, "1": 1, "fake": 1, "true": 1}
"""What a table may have as a label, any case; true and false: is it fake, as Parquet has them."""
COLUMNS = ["id", "label", "file", "subfolder", "size", "modified"]
"""Of the images of a set."""
TAKEN = (MEAN, WORST, SUMMARY)
"""Names of what else is in the table, or the folder, of evaluations."""
ClassFolders = Mapping[str, Sequence[str]]
"""Class -> the names of its folders; "." is the folder itself."""
ENDINGS = f"(images end in {', '.join(SUFFIXES)}, any case)"


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """One set of images whose labels are known."""

    name: str
    where: str
    """Path, absolute, or address of the folder or the table."""
    images: pd.DataFrame
    """COLUMNS, ordered by id: the path below the folder (of text), label (int8: 0 real, 1 fake), the path or address of
    the file, its folder below the class folder (""), its size (bytes) and time (ns; 0 where it is not known)."""
    attributes: pd.DataFrame
    """What a table has beside path and label, text, a row an image in the same order; no column for a folder."""
    passed: PassedOver
    """What else is in the folder."""


def labelled_sets(
    words: Sequence[str], name: str | None, classes: ClassFolders, classes_given: bool
) -> list[LabelledSet]:
    """The sets that `words` mean: a folder, a table or an address each, or NAME= and one of these; names differ.

    `name` is that of the only one. `classes` are the folders of each class; unless they were given for these sets, a
    class without one is none of the set's, and a folder with the name of a class folder is of that class alone.
    Raises InputError for names that can't be used, DataError where there is no image, StorageError.
    """
    if name is not None and len(words) > 1:
        raise InputError(f"--name {name}: allowed with one folder; of several, name each: NAME=FOLDER")
    named = [named_word(word, name) for word in words]
    tables = [where.lower().endswith(TABLES) for _, where in named]
    if classes_given and all(tables):
        raise InputError(f"--classes: allowed with a folder; {named[0][1]} is a table, whose labels say the class")
    counts = Counter(own for own, _ in named)
    for own, where in named:
        if counts[own] > 1:
            others = " and ".join(where for other, where in named if other == own)
            raise InputError(f"{others}: both would be called {own}; name them: {own}-2={where}")
    return [
        read_table(own, where) if is_table else read_folder(own, where, classes, classes_given)
        for is_table, (own, where) in zip(tables, named, strict=True)
    ]


def named_word(word: str, name: str | None = None) -> tuple[str, str]:
    """Name and place of a word of the command line; by default the place's last part, without a table's ending.

    Raises InputError where that is no name of a folder, or an address of no known kind.
    """
    given, equals, rest = word.partition("=")
    if name is None and equals and re.fullmatch(NAME_PATTERN, given) and not os.path.lexists(word):
        name, word = given, rest
    if is_address(word):
        if not word.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise InputError(f"{word}: allowed: folders, tables and {schemes}; download it first")
        where = word.rstrip("/")
    else:
        where = os.path.abspath(word)
    last = where.rpartition("/")[2]
    last = last[: -len(PurePosixPath(last).suffix)] if last.lower().endswith(TABLES) else last
    found = name if name is not None else re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")
    if not re.fullmatch(NAME_PATTERN, found) or len(found) > LONGEST_NAME or found in TAKEN:
        allowed = f"up to {LONGEST_NAME} letters, digits and . _ -, a letter or digit first; not {', '.join(TAKEN)}"
        raise InputError(f"{word}: an evaluation can't be called {found!r}; name it: NAME=FOLDER, allowed: {allowed}")
    return found, where


def read_classes(words: Sequence[str]) -> dict[str, list[str]]:
    """What `--classes` means: real=FOLDER,fake=FOLDER, each class maybe several times. Raises InputError."""
    found: dict[str, list[str]] = {}
    for word in words:
        for part in re.split(rf",(?=(?:{'|'.join(CLASSES)})=)", word):
            name, equals, folder = part.partition("=")
            folder = os.path.normpath(folder) if folder else ""
            if name not in CLASSES or not equals or not folder or os.path.isabs(folder) or ".." in folder.split("/"):
                raise InputError(
                    f"--classes {part}: allowed: real=FOLDER,fake=FOLDER, folders of the one that is evaluated; "
                    "real=. where all of its images are real"
                )
            found.setdefault(name, []).append(folder)
    return found


def read_folder(name: str, where: str, classes: ClassFolders, classes_given: bool) -> LabelledSet:
    """The images of a folder, or at an address, by their class folders. Raises as `labelled_sets`."""
    if not is_address(where) and not os.path.isdir(where):
        raise DataError(f"{where}: no {'table (.csv, .parquet)' if os.path.exists(where) else 'such folder'}")
    passed, used = PassedOver(), _class_folders(where, classes, classes_given)
    rows: list[tuple[str, int, str, str, int, int]] = []
    read: dict[str, str] = {}
    for label, folder in used:
        found = _at_address(where, folder, passed) if is_address(where) else _on_disk(where, folder, read, passed)
        before = len(rows)
        for path, file, size, modified in found:
            parent = PurePosixPath(path).parent
            subfolder = parent.as_posix() if folder == "." else parent.relative_to(folder).as_posix()
            rows.append((path, label, file, "" if subfolder == "." else subfolder, size, modified))
        if len(rows) == before:
            passed.folders[f"{folder} without an image"] = None
    if "." not in (folder for _, folder in used):
        note_unused(where, [folder for _, folder in used], [], passed)
    if not rows:
        what = f"; passed over: {passed}" if str(passed) else ""
        raise DataError(f"{where}: no image in {', '.join(folder for _, folder in used)} {ENDINGS}{what}")
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"label": "int8"}).sort_values("id", ignore_index=True)
    if len(twice := table["id"][table["id"].duplicated()]):
        raise DataError(f"{where}: {twice.iloc[0]} is in two of {', '.join(folder for _, folder in used)}")
    return LabelledSet(name, where, table, pd.DataFrame(index=table.index), passed)


def read_table(name: str, where: str) -> LabelledSet:
    """The images that a table names. Raises InputError for a row that can't be used, and as `labelled_sets`."""
    table = read_attributes(where)
    if "label" not in table:
        raise InputError(f"{where}: no column 'label'; there: {nearest_first('label', map(str, table))}")
    if table.empty:
        raise DataError(f"{where}: no image in it")
    if len(twice := table["path"][table["path"].duplicated()]):
        count = (table["path"] == twice.iloc[0]).sum()
        raise InputError(f"{where}: {twice.iloc[0]!r} is in it {count} times; allowed: each image once")
    table = table.sort_values("path")  # its index still says which row it was
    labels = table["label"].map(lambda cell: LABELS.get(cell.lower()))
    if labels.isna().any():
        row = labels.index[labels.isna()].min()
        given = table.loc[row, "label"]
        raise InputError(f"{where}, image {row + 1}: label {given!r}; allowed: 0, 1, real, fake")
    folder = where.rpartition("/")[0]
    for row in table.index[[leads_out(path) for path in table["path"]]][:1]:
        try:
            below(Path(folder), table.loc[row, "path"])
        except InputError as error:
            raise InputError(f"{where}, image {row + 1}: {error}") from None
    files = [f"{folder}/{path}" for path in table["path"]]
    known = _in_table(folder, [*table["path"]]) if is_address(where) else [*map(_size_and_time, files)]
    if not any(map(any, known)):
        count = counted(len(files), "image")
        raise DataError(f"{where}: none of {count} is there, e.g. {files[0]}; paths begin where the table is")
    columns = [table["path"], labels.astype("int8"), files, "", *zip(*known, strict=True)]
    images = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), table.index).reset_index(drop=True)
    attributes = table.drop(columns=["path", "label"]).reset_index(drop=True)
    return LabelledSet(name, where, images, attributes, PassedOver())


def _class_folders(where: str, classes: ClassFolders, classes_given: bool) -> list[tuple[int, str]]:
    """Label and class folder of each that the set has; "." is the folder itself. Raises DataError where there is none.

    Where the classes were given for this set, all of them have to be there.
    """
    wanted = [(CLASSES.index(name), folder) for name, folders in classes.items() for folder in folders]
    found = [(label, folder) for label, folder in wanted if folder == "." or _has_folder(where, folder)]
    missing = [folder for _, folder in wanted if folder not in [there for _, there in found]]
    if (missing and classes_given) or not found:
        own = [(label, ".") for label, folder in wanted if folder == where.rpartition("/")[2]]
        if own and not classes_given:
            return own
        there = [name for name, is_folder in beside(where) if is_folder]
        raise DataError(
            f"{where}: no folder {' or '.join(map(repr, missing))}; there: "
            f"{nearest_first(missing[0], there) or 'no folder'}. --classes real=FOLDER,fake=FOLDER says which folder "
            "is which class, and --classes real=. that all images are real"
        )
    return found


def _has_folder(where: str, name: str) -> bool:
    if not is_address(where):
        return os.path.isdir(os.path.join(where, name))
    parent, _, last = name.rpartition("/")
    return (last, True) in Storage(where).names(parent)


def _on_disk(where: str, folder: str, read: dict[str, str], passed: PassedOver) -> Iterator[tuple[str, str, int, int]]:
    """Id, file, size and time of each image of a class folder; for `read`, see `images_below`."""
    for file in images_below(os.path.normpath(os.path.join(where, folder)), passed, refuse, read):
        path = os.path.relpath(file, where)
        try:
            path.encode()
        except UnicodeEncodeError:
            raise DataError(f"{file!a}: this name is not UTF-8; rename it") from None
        yield path, file, *_size_and_time(file)


def _size_and_time(file: str) -> tuple[int, int]:
    """0 and 0 of a file that is not there: whoever reads it will say so."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _in_table(folder: str, paths: Sequence[str]) -> list[tuple[int, int]]:
    """Size and time of each image that a table at an address names; 0 and 0 of one that is not there."""
    above = os.path.commonpath([os.path.dirname(path) for path in paths])
    there = {entry.path: (entry.size, entry.modified) for entry in Storage(folder).entries(above)}
    return [there.get(path, (0, 0)) for path in paths]


def _at_address(where: str, folder: str, passed: PassedOver) -> Iterator[tuple[str, str, int, int]]:
    for one in Storage(where).entries("" if folder == "." else folder):
        if passed.is_image(where, one.path) and not leads_out(one.path):
            yield one.path, f"{where}/{one.path}", one.size, one.modified

"""The sweep's data folders, or the words of a command line -> the image files there; and what has changed since.

A data folder goes by the part that it is given for: train, val (where `data.val` is a folder) or test.
"""

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from rfray.data.decoding import SUFFIXES, UnreadableImageError
from rfray.data.demo import make_demo
from rfray.data.node_cache import RemoteFolder, cache_folder
from rfray.errors import DataError, InputError, StorageError
from rfray.spec.sweep import CLASSES, DataSettings, Sweep
from rfray.store.run_dir import RunDir
from rfray.store.storage import SCHEMES, Storage, is_address

STANDARD_INPUT = "-"
"""The word for: a path a line, on the standard input."""
ENDINGS = f"(images end in {', '.join(SUFFIXES)}, any case)"
MAX_BYTES = 512_000_000
"""Larger files are refused before they are read: no picture that may be decoded takes as much."""


def image_folder(settings: DataSettings, folder: str) -> Path | RemoteFolder:
    """Where a data folder is; the built-in data is made first."""
    if settings.source == "demo":
        return make_demo(cache_folder(settings.cache)) / folder
    given = settings.folder(folder)
    assert given is not None  # DataSettings makes sure of it
    return RemoteFolder(given, settings) if is_address(given) else Path(given)


def list_images(settings: DataSettings, folder: str) -> pd.DataFrame:
    """Every image file of a data folder, ordered by path: path, label, subfolder, size (bytes), modified (ns).

    Nothing is downloaded of a folder at an address; linked folders are followed. Raises StorageError, and DataError
    where the folder or a class folder is missing, a class has no image, a folder would be read twice, or a name is
    not UTF-8.
    """
    where, classes = image_folder(settings, folder), settings.class_folders()
    read: dict[Path, str] = {}

    def found(name: str, class_folder: str) -> Iterator[tuple[str, int, int]]:
        if isinstance(where, Path):
            return _on_disk(where, read, name, class_folder)
        return ((entry.path, entry.size, entry.modified) for entry in where.entries(class_folder))

    rows = [
        (path, label, PurePosixPath(path).parent.relative_to(class_folder).as_posix(), size, modified)
        for label, name in enumerate(CLASSES)
        for class_folder in classes[name]
        for path, size, modified in found(name, class_folder)
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "subfolder", "size", "modified"]).astype({"label": "int8"})
    for label, name in enumerate(CLASSES):
        if not (table["label"] == label).any():
            raise DataError(f"{where}: class {name} has no image in {', '.join(classes[name])} {ENDINGS}")
    return table.replace({"subfolder": {".": ""}}).sort_values("path", ignore_index=True)


def most_images(sweep: Sweep, folder: str) -> int | None:
    """How many images of a data folder are used at the most; None for all."""
    return {"train": sweep.train_images(os.cpu_count() or 1), "val": sweep.val_images}.get(folder)


def drawn(listed: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """At most so many (2 or more; None for all) of the images listed, of each class its share and at least one.

    The same ones wherever the folder is, and all of them again where there are to be more.
    """
    if most is None or len(listed) <= most:
        return listed
    numbers = [int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) for path in listed["path"]]
    ranks = pd.Series(numbers, listed.index, np.uint64).groupby(listed["label"]).rank(method="first")
    fake = min(max(round(most * listed["label"].mean()), 1), most - 1)
    return listed[ranks <= listed["label"].map({0: most - fake, 1: fake})].reset_index(drop=True)


def training_changes(run: RunDir, sweep: Sweep, catalog: pd.DataFrame) -> list[str]:
    """What differs between the sweep's folders of train and val and those that a run's catalog was made of.

    By names, sizes and times; empty if nothing. Raises DataError where a folder can't be used.
    """
    lines = []
    for folder in sweep.data.training_folders:
        known = pd.concat([table[table["folder"] == folder] for table in (catalog, run.unreadable())])
        most = most_images(sweep, folder)
        if most is not None and sweep.budget is not None:
            most = len(known)  # it depends on the budget and the machine, and was settled when the catalog was made
        found = changes(sweep.data, folder, known, most)
        lines += found if folder == "train" else [f"data.{folder}: {line}" for line in found]
    return lines


def changes(settings: DataSettings, folder: str, known: pd.DataFrame, most: int | None = None) -> list[str]:
    """What differs between a data folder now and the `path`, `size`, `modified` noted before; empty if nothing.

    Where `most` were drawn, of those that would be now.
    """
    tables = (table[["path", "size", "modified"]] for table in (known, drawn(list_images(settings, folder), most)))
    old, new = ({path: rest for path, *rest in table.itertuples(index=False)} for table in tables)
    return (
        [f"{path} is new" for path in sorted(new.keys() - old)]
        + [f"{path} is gone" for path in sorted(old.keys() - new)]
        + [f"{path} has changed" for path in sorted(old.keys() & new) if old[path] != new[path]]
    )


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def image_files(words: Sequence[str], lines: Iterable[str] = ()) -> Iterator[str]:
    """The files that `words` mean, in their order; what is in a folder sorted by name, at any depth.

    A word is a file (of any name, there or not: whoever reads it will say), a folder or an address (s3://…) with image
    files in it, a pattern (`photos/**/*.png`) or STANDARD_INPUT for `lines`. Hidden files are no image files.
    Raises InputError for a URL, a pattern that nothing matches, or a folder without an image; StorageError.
    """
    for word in words:
        if word == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
            continue
        found, what = iter([word]), ""
        if is_address(word):
            found, what = _named_at_address(word), f"image file there {ENDINGS}"
        elif os.path.isdir(word):
            found, what = _in_folder(word), f"image file in it {ENDINGS}"
        elif glob.has_magic(word) and not os.path.lexists(word):
            found = (path for path in sorted(glob.iglob(word, recursive=True)) if not os.path.isdir(path))
            what = "file of such a name"
        first = next(found, None)
        if first is None:
            raise DataError(f"{word}: no {what}")
        yield first
        yield from found


def read_file(name: str) -> bytes:
    """What is in a file that `image_files` has named.

    Raises UnreadableImageError with the reason why it can't be read: it is not there, no plain file, or too large.
    """
    try:
        if is_address(name):
            folder, _, last = name.rpartition("/")
            return Storage(folder).read(last)
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("a folder" if stat.S_ISDIR(status.st_mode) else "not a plain file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(f"{status.st_size / 1e6:.0f} MB are over {MAX_BYTES / 1e6:.0f} MB")
        return Path(name).read_bytes()
    except (OSError, ValueError, StorageError) as error:  # ValueError: a name with a zero in it
        raise UnreadableImageError(getattr(error, "strerror", None) or str(error)) from None


def _on_disk(folder: Path, read: dict[Path, str], name: str, class_folder: str) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each image of a class folder; adds to `read` its folders: each -> its name in messages."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}")

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if not (folder / class_folder).is_dir():
        there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        raise DataError(
            f"{folder}: no folder {class_folder!r} for class {name}; there: {', '.join(there) or 'no folder'}. "
            "data.classes says which folder is which class"
        )
    for parent, subfolders, files in os.walk(folder / class_folder, onerror=refuse, followlinks=True):
        real, shown = Path(parent).resolve(), f"{parent} (class {name})"
        if real in read:
            raise DataError(f"{shown} and {read[real]} are the same folder; its images would be read twice")
        read[real] = shown
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
        for path in (Path(parent, file) for file in files if is_image_name(file)):
            try:
                str(path).encode()
            except UnicodeEncodeError:
                raise DataError(f"{str(path)!a}: this name is not UTF-8; rename it") from None
            status = os.stat(path, follow_symlinks=path.exists())
            yield path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


def _in_folder(folder: str) -> Iterator[str]:
    """One folder after the other, so that millions of names need not be held at once."""
    for parent, subfolders, files in os.walk(folder, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(filter(is_image_name, files)))


def _named_at_address(address: str) -> Iterator[str]:
    if not address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{address}: allowed: files, folders, patterns and {schemes}; download it first")
    if address.lower().endswith(SUFFIXES):
        yield address
        return
    storage = Storage(address)
    for name in sorted(entry.path for entry in storage.entries() if entry.path.lower().endswith(SUFFIXES)):
        yield f"{storage.address}/{name}"

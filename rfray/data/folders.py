"""The sweep's settings -> its data folders, and the image files that are in them.

A data folder goes by the part that it is given for: train, val (where `data.val` is a folder) or test.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import pandas as pd

from rfray.data.cache_limits import cache_folder
from rfray.data.decoding import SUFFIXES
from rfray.data.demo import make_demo
from rfray.data.listing import is_image_name
from rfray.data.remote_images import RemoteFolder
from rfray.errors import DataError
from rfray.spec.sweep import CLASSES, DataSettings, Sweep
from rfray.store.storage import is_address

Row = tuple[str, int, str, int, int]
"""An image file: path, label, subfolder, size, modified."""


def image_folder(settings: DataSettings, folder: str) -> Path | RemoteFolder:
    """Where a data folder is; the built-in data is made first."""
    if settings.source == "demo":
        return make_demo(cache_folder(settings.cache)) / folder
    given = settings.folder(folder)
    assert given is not None  # DataSettings makes sure of it
    if is_address(given):
        names = [name for names in settings.class_folders().values() for name in names]
        return RemoteFolder(given, tuple(names), settings.cache)
    return Path(given)


def list_images(settings: DataSettings, folder: str) -> pd.DataFrame:
    """Every image file of a data folder, ordered by path: path, label, subfolder, size (bytes), modified (ns).

    Nothing is downloaded of a folder at an address; linked folders are followed. Raises StorageError, and DataError
    where the folder or a class folder is missing, a class has no image, a folder would be read twice, or a name is
    not UTF-8.
    """
    where, classes = image_folder(settings, folder), settings.class_folders()
    rows = list(_files_on_disk(where, classes) if isinstance(where, Path) else _files_at_address(where, classes))
    labels = {row[1] for row in rows}
    for label, name in enumerate(CLASSES):
        if label not in labels:
            raise DataError(
                f"{where}: class {name} has no image in {', '.join(classes[name])} "
                f"(images end in {', '.join(SUFFIXES)}, any case)"
            )
    table = pd.DataFrame(rows, columns=["path", "label", "subfolder", "size", "modified"])
    return table.astype({"label": "int8"}).sort_values("path", ignore_index=True)


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


def _files_at_address(folder: RemoteFolder, classes: Mapping[str, list[str]]) -> Iterator[Row]:
    found = list(folder.entries())
    for label, name in enumerate(CLASSES):
        for class_folder in classes[name]:
            for entry in found:
                if entry.path.startswith(f"{class_folder}/"):
                    subfolder = _subfolder(PurePosixPath(entry.path), PurePosixPath(class_folder))
                    yield entry.path, label, subfolder, entry.size, entry.modified


def _files_on_disk(folder: Path, classes: Mapping[str, list[str]]) -> Iterator[Row]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    read: dict[Path, str] = {}
    for label, name in enumerate(CLASSES):
        for class_folder in classes[name]:
            root = folder / class_folder
            if not root.is_dir():
                there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
                raise DataError(
                    f"{folder}: no folder {class_folder!r} for class {name}; there: {', '.join(there) or 'no folder'}. "
                    "data.classes says which folder is which class"
                )
            for path, status in _walk(root, name, read):
                shown = path.relative_to(folder).as_posix()
                yield shown, label, _subfolder(path, root), status.st_size, status.st_mtime_ns


def _walk(root: Path, class_name: str, read: dict[Path, str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Each image file below a class folder; `read` (folder -> its name in messages) grows by the folders it is in."""
    for parent, subfolders, files in os.walk(root, onerror=_not_listed, followlinks=True):
        real, shown = Path(parent).resolve(), f"{parent} (class {class_name})"
        if real in read:
            raise DataError(f"{shown} and {read[real]} are the same folder; its images would be read twice")
        read[real] = shown
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in filter(is_image_name, files):
            path = Path(parent, name)
            try:
                str(path).encode()
            except UnicodeEncodeError:
                raise DataError(f"{str(path)!a}: this name is not UTF-8; rename it") from None
            yield path, os.stat(path, follow_symlinks=path.exists())


def _not_listed(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}")


def _subfolder(path: PurePath, class_folder: PurePath) -> str:
    subfolder = path.parent.relative_to(class_folder).as_posix()
    return "" if subfolder == "." else subfolder

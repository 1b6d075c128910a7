"""The sweep's data folders, or the words of a command line -> the image files there; and what has changed since.

A data folder goes by the part that it is given for: train, val (where `data.val` is a folder), test, or test-<name>.
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.data.decoding import MAX_BYTES, SUFFIXES, UnreadableImageError, decode, read_image
from rfray.data.demo import make_demo
from rfray.data.fingerprints import fingerprint
from rfray.data.listing import PassedOver, beside, counted, files_matching, images_below, note_unused, refuse
from rfray.data.node_cache import RemoteFolder, cache_folder
from rfray.errors import DataError, InputError, StorageError, nearest_first
from rfray.progress.phases import counting, say
from rfray.spec.sweep import CLASSES, DataSettings, Sweep
from rfray.store.run_dir import RunDir
from rfray.store.storage import SCHEMES, Storage, is_address

STANDARD_INPUT = "-"
"""The word for: a path a line, on the standard input."""
ENDINGS = f"(images end in {', '.join(SUFFIXES)}, any case)"


def image_folder(settings: DataSettings, folder: str) -> Path | RemoteFolder:
    """Where a data folder is; the built-in data is made first."""
    if settings.source == "demo":
        return make_demo(cache_folder(settings.cache)) / folder
    given = settings.folder(folder)
    assert given is not None  # DataSettings makes sure of it
    return RemoteFolder(given, settings) if is_address(given) else Path(given)


def is_there(settings: DataSettings, folder: str) -> bool:
    """Whether a data folder can be read from here."""
    where = image_folder(settings, folder)
    if isinstance(where, Path):
        return where.is_dir()
    try:
        names = [name for names in settings.class_folders().values() for name in names]
        return any(next(where.entries(name), None) for name in names)
    except StorageError:
        return False


def list_images(settings: DataSettings, folder: str, passed: PassedOver | None = None) -> pd.DataFrame:
    """Every image file of a data folder, ordered by path: path, label, subfolder, size (bytes), modified (ns).

    Nothing is downloaded of a folder at an address; linked folders are followed; `passed` gets what is not used.
    Raises StorageError, and DataError where the folder or a class folder is missing, a class has no image, a folder
    would be read twice, or a name is not UTF-8.
    """
    where, classes = image_folder(settings, folder), settings.class_folders()
    passed, read, empty = PassedOver() if passed is None else passed, dict[str, str](), list[str]()
    rows: list[tuple[str, int, str, int, int]] = []
    for label, name in enumerate(CLASSES):
        for class_folder in classes[name]:
            _check_class_folder(where, name, class_folder)
            if isinstance(where, Path):
                found = _on_disk(where, name, class_folder, read, passed)
            else:
                found = ((entry.path, entry.size, entry.modified) for entry in where.entries(class_folder, passed))
            before = len(rows)
            for path, size, modified in found:
                subfolder = PurePosixPath(path).parent.relative_to(class_folder).as_posix()
                rows.append((path, label, subfolder, size, modified))
            if len(rows) == before:
                empty.append(f"{where}/{class_folder} without an image")
    others = [one for part in ("train", "val", *settings.test_parts) if (one := settings.folder(part))]
    others = [one if is_address(one) else os.path.realpath(one) for one in others]
    note_unused(str(where), [one for names in classes.values() for one in names], others, passed)
    table = pd.DataFrame(rows, columns=["path", "label", "subfolder", "size", "modified"]).astype({"label": "int8"})
    for label, name in enumerate(CLASSES):
        if not (table["label"] == label).any():
            what = f"; passed over: {passed}" if str(passed) else ""
            raise DataError(f"{where}: class {name} has no image in {', '.join(classes[name])} {ENDINGS}{what}")
    passed.folders |= dict.fromkeys(empty)
    return table.replace({"subfolder": {".": ""}}).sort_values("path", ignore_index=True)


def check_folders(settings: DataSettings) -> None:
    """Raises DataError where train or val can't be used, as far as a moment tells.

    Their class folders are there, and on a disk an image of each class.
    """
    check_distinct(settings)
    for part in settings.training_folders if settings.source == "folder" else ():
        where = image_folder(settings, part)
        for name, class_folders in settings.class_folders().items():
            for one in class_folders:
                _check_class_folder(where, name, one)
            if isinstance(where, Path):
                first = [next(_on_disk(where, name, one, {}, PassedOver()), None) for one in class_folders]
                if not any(first):
                    raise DataError(f"{where}: class {name} has no image in {', '.join(class_folders)} {ENDINGS}")


def check_distinct(settings: DataSettings) -> None:
    """Raises DataError where an image would be in two data folders."""
    parts = ("train", "val", *settings.test_parts)
    given = {part: folder for part in parts if (folder := settings.folder(part)) is not None}
    names = [name for names in settings.class_folders().values() for name in names]
    class_folders = [(part, Path(folder, name).resolve()) for part, folder in given.items() for name in names]
    for (one, here), (other, there) in combinations(class_folders, 2):
        if one != other and (here.is_relative_to(there) or there.is_relative_to(here)):
            raise DataError(
                f"{settings.key(one)} ({given[one]}) and {settings.key(other)} ({given[other]}) share images: "
                f"{here} and {there} are the same folder, or one is inside the other"
            )


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


def training_changes(
    run: RunDir, sweep: Sweep, catalog: pd.DataFrame, times: dict[tuple[str, str], int] | None = None
) -> list[str]:
    """What differs between the sweep's folders of train and val and those that a run's catalog was made of.

    See `changes`; empty if nothing. Raises DataError where a folder can't be used.
    """
    lines = []
    for folder in sweep.data.training_folders:
        known = pd.concat([table[table["folder"] == folder] for table in (catalog, run.unreadable())])
        most = most_images(sweep, folder)
        if most is not None and sweep.budget is not None:
            most = len(known)  # it depends on the budget and the machine, and was settled when the catalog was made
        found = changes(sweep.data, folder, known, most, times)
        lines += found if folder == "train" else [f"data.{folder}: {line}" for line in found]
    return lines


def changes(
    settings: DataSettings,
    folder: str,
    known: pd.DataFrame,
    most: int | None = None,
    times: dict[tuple[str, str], int] | None = None,
) -> list[str]:
    """What differs between a data folder now and the `path`, `size`, `modified` noted before; empty if nothing.

    Files of another time (as after a copy, or at another path) have changed if their `digest` has, where it was noted;
    those with a `reason` why they were unreadable if they can be read now. Where `most` were drawn, of those that would
    be now. `times` gets (folder, path) -> time of those of another time that are the same: who notes them need not
    compare them again.
    """
    tables = (table[["path", "size", "modified"]] for table in (known, drawn(list_images(settings, folder), most)))
    old, new = ({path: rest for path, *rest in table.itertuples(index=False)} for table in tables)
    doubted = [path for path in old.keys() & new if old[path] != new[path] and old[path][0] == new[path][0]]
    for path in _same(settings, folder, known.set_index("path").loc[doubted]) if doubted else ():
        if times is not None:
            times[folder, path] = new[path][1]
        new[path] = old[path]
    return (
        [f"{path} is new" for path in sorted(new.keys() - old)]
        + [f"{path} is gone" for path in sorted(old.keys() - new)]
        + [f"{path} has changed" for path in sorted(old.keys() & new) if old[path] != new[path]]
    )


def _same(settings: DataSettings, folder: str, noted: pd.DataFrame) -> list[str]:
    """Which files of a data folder still are what was noted of them (by path: digest, reason); says what it does."""
    where, console = image_folder(settings, folder), Console(stderr=True, highlight=False)
    say(console, f"Times are new: comparing the content of {counted(len(noted), 'file')} of {where}")
    files = [where / path for path in noted.index]  # of an address, they are fetched here
    facts = noted.reindex(columns=["digest", "reason"]).itertuples(index=False)
    with ThreadPoolExecutor() as pool:
        same = pool.map(lambda file, fact: _still_is(file, *fact), files, facts)
        shown = counting(same, "Comparing files", len(files))
        return [path for path, is_same in zip(noted.index, shown, strict=True) if is_same]


def _still_is(file: Path, digest: object, reason: object) -> bool:
    """Whether a file has this digest, or (with a reason) still can't be read."""
    try:
        data = read_image(file)
        if isinstance(digest, str):
            return hashlib.sha256(data).hexdigest() == digest
        fingerprint(data, decode(data))  # as the scan does
    except UnreadableImageError:
        return isinstance(reason, str)
    return False


def image_files(words: Sequence[str], lines: Iterable[str] = (), passed: PassedOver | None = None) -> Iterator[str]:
    """The files that `words` mean, in their order; what is in a folder sorted by name, at any depth.

    A word is a file (of any name, there or not: whoever reads it will say), a folder or an address (s3://…) with image
    files in it, a pattern (`photos/**/*.png`) or STANDARD_INPUT for `lines`. Hidden files are no image files; `passed`
    gets what is passed over in folders, and folders of one word that would be read twice.
    Raises InputError for a URL, a pattern that nothing matches, or a folder without an image; StorageError.
    """
    passed = PassedOver() if passed is None else passed
    for word in words:
        if word == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
            continue
        found, what = iter([word]), ""
        if is_address(word):
            found, what = _named_at_address(word, passed), f"image file there {ENDINGS}"
        elif os.path.isdir(word):
            found, what = images_below(word, passed, passed.folders.setdefault, {}), f"image file in it {ENDINGS}"
        elif glob.has_magic(word) and not os.path.lexists(word):
            found, what = files_matching(word, passed), "file of such a name"
        first = next(found, None)
        if first is None:
            raise DataError(f"{word}: no {what}" + (f"; passed over: {passed}" if str(passed) else ""))
        yield first
        yield from found


def read_file(name: str) -> bytes:
    """What is in a file that `image_files` has named.

    Raises UnreadableImageError with the reason why it can't be read: it is not there, no plain file, or too large.
    """
    if not is_address(name):
        return read_image(name)
    folder, _, last = name.rpartition("/")
    try:
        data = Storage(folder).read(last, MAX_BYTES)
    except (OSError, ValueError, StorageError) as error:
        raise UnreadableImageError(str(error)) from None
    if len(data) > MAX_BYTES:
        raise UnreadableImageError(f"over {MAX_BYTES / 1e6:.0f} MB")
    return data


def _check_class_folder(where: Path | RemoteFolder, name: str, class_folder: str) -> None:
    """Raises DataError where a folder is not there, or has no such class folder."""
    parent, _, last = class_folder.rpartition("/")
    if isinstance(where, Path):
        if not where.is_dir():
            raise DataError(f"{where}: no such folder")
        is_there = (where / class_folder).is_dir()
    else:
        is_there = (last, True) in Storage(where.address).names(parent)
    if not is_there:
        there = [repr(one) if one != one.strip() else one for one, is_folder in beside(str(where)) if is_folder]
        raise DataError(
            f"{where}: no folder {class_folder!r} for class {name}; "
            f"there: {nearest_first(class_folder, there) or 'no folder'}. "
            "data.classes says which folder is which class"
        )


def _on_disk(
    folder: Path, name: str, class_folder: str, read: dict[str, str], passed: PassedOver
) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each image of a class folder; for `read`, see `images_below`."""
    for path in images_below(str(folder / class_folder), passed, refuse, read, f" (class {name})"):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise DataError(f"{path!a}: this name is not UTF-8; rename it") from None
        status = os.stat(path, follow_symlinks=os.path.exists(path))
        yield Path(path).relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


def _named_at_address(address: str, passed: PassedOver) -> Iterator[str]:
    if not address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{address}: allowed: files, folders, patterns and {schemes}; download it first")
    if address.lower().endswith(SUFFIXES):
        yield address
        return
    storage = Storage(address)
    for name in sorted(entry.path for entry in storage.entries() if passed.is_image(storage.address, entry.path)):
        yield f"{storage.address}/{name}"

"""a folder -> the image files below it, and what was passed over: the one listing of all commands."""

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import PurePosixPath

from rfray.data.decoding import SUFFIXES
from rfray.errors import DataError, printable
from rfray.store.storage import Storage, is_address

SYSTEM_FOLDERS = frozenset(
    ("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "__macosx")
)
"""Folders (any case) of thumbnails, deleted files and leftovers, made by Synology, QNAP, Windows, Linux and macOS."""
SYSTEM_FILES = frozenset((".ds_store", "thumbs.db", "desktop.ini"))
"""Files (any case) that file managers leave in every folder: not worth a word."""
TWICE = "{} and {} are the same folder; its images would be read twice"
NAMED = 5
"""Folders and links that a line names: more would not be read."""


@dataclass
class PassedOver:
    """What is in a folder but not used; as text, one line, "" where there is nothing to say."""

    endings: Counter[str] = field(default_factory=Counter)
    """What kind of files -> how many: an ending, or a word for those without one."""
    folders: dict[str, None] = field(default_factory=dict)
    """Names of folders, or what was wrong with them, each once in the order in which they were met."""
    links: list[str] = field(default_factory=list)
    """Links that lead nowhere."""

    def file(self, name: str) -> None:
        """Notes a file that is not taken for an image."""
        if name.lower() not in SYSTEM_FILES:
            suffix = PurePosixPath(name).suffix.lower()
            kind = "hidden" if name.startswith(".") else suffix or "without ending"
            self.endings["beside the class folders" if suffix in SUFFIXES and kind != "hidden" else kind] += 1

    def is_image(self, address: str, path: str) -> bool:
        """Whether a file below an address is taken for an image; if not, notes it, or the folder passed over."""
        *parents, name = PurePosixPath(path).parts
        for depth, folder in enumerate(parents, start=1):
            if not is_data_folder(folder):
                self.folders["/".join([address, *parents[:depth]])] = None
                return False
        if not is_image_name(name):
            self.file(name)
        return is_image_name(name)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.endings.most_common())
        files = f"{counted(self.endings.total(), 'file')} ({kinds})" if kinds else ""
        said = filter(None, (files, _named(self.folders, "folder"), _named(self.links, "dangling link")))
        return printable(", ".join(said))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_data_folder(name: str) -> bool:
    """Whether a folder of this name is looked into: not if it is hidden, or a system's own."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def images_below(
    top: str, passed: PassedOver, trouble: Callable[[str], None], read: dict[str, str], label: str = ""
) -> Iterator[str]:
    """The path of each image file below `top`, folder by folder, sorted by name; linked folders are followed.

    `trouble` is told of a folder that can't be listed, or is in `read`; it is passed over, unless `trouble` raises.
    `read` has the folders that were read: the real path -> its name in messages, which ends in `label`. Links with the
    name of an image that lead nowhere are among the files: whoever reads them will say.
    """

    def failed(error: OSError) -> None:
        trouble(f"{error.filename}: {error.strerror}; make it readable, or take it out of the folder")

    for parent, subfolders, files in os.walk(top, onerror=failed, followlinks=True):
        real = os.path.realpath(parent)
        if real in read:
            subfolders.clear()
            trouble(TWICE.format(parent + label, read[real]))
            continue
        read[real] = parent + label
        left_out = (os.path.join(parent, name) for name in sorted(subfolders) if not is_data_folder(name))
        passed.folders |= dict.fromkeys(left_out)
        subfolders[:] = sorted(filter(is_data_folder, subfolders))
        for name in sorted(files):
            path = os.path.join(parent, name)
            if is_image_name(name):
                yield path
            elif os.path.exists(path):
                passed.file(name)
            else:
                passed.links.append(path)


def files_matching(pattern: str, passed: PassedOver) -> Iterator[str]:
    """The files that a pattern (`photos/**/*.png`) means, sorted; linked folders are followed, each folder read once.

    What is in a system's folder counts only where the pattern has its name.
    """
    named, read, out = {".", "..", *pattern.split(os.sep)}, dict[str, str](), list[str]()
    files = sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    folders = {os.path.dirname(path) for path in files}
    for folder in sorted(folders, key=lambda folder: (folder.count(os.sep), folder)):
        parts, real = folder.split(os.sep), os.path.realpath(folder)
        unnamed = (n for n, part in enumerate(parts, 1) if part not in named and not is_data_folder(part))
        if any(f"{folder}{os.sep}".startswith(f"{one}{os.sep}") for one in out):
            continue
        if depth := next(unnamed, 0):
            out.append(os.sep.join(parts[:depth]))
            passed.folders[out[-1]] = None
        elif real in read:
            out.append(folder)
            passed.folders[TWICE.format(folder, read[real])] = None
        else:
            read[real] = folder
    used = {*read.values()}
    yield from (path for path in files if os.path.dirname(path) in used)


def beside(folder: str) -> Iterator[tuple[str, bool | None]]:
    """The names in a folder, or at an address, sorted; whether each is a folder, None for links that lead nowhere."""
    if is_address(folder):
        yield from Storage(folder).names()
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        try:
            yield entry.name, stat.S_ISDIR(entry.stat().st_mode)
        except OSError:
            yield entry.name, None


def note_unused(top: str, used: Iterable[str], others: Iterable[str], passed: PassedOver) -> None:
    """Notes what is in a data folder beside its class folders (`used`, paths below it) and the folders on the way.

    `others` (real paths, or addresses) and what is around them are other data folders, and not worth a word.
    """
    parts = [PurePosixPath(name).parts for name in used]
    classes = {os.path.join(top, *names) for names in parts}
    on_the_way = {top} | {os.path.join(top, way) for names in parts for way in accumulate(names[:-1], os.path.join)}
    for parent in sorted(on_the_way - classes):
        for name, is_folder in beside(parent):
            path = os.path.join(parent, name)
            if is_folder is None:
                passed.links.append(path)
            elif not is_folder:
                passed.file(name)
            elif path not in classes | on_the_way:
                real = path if is_address(path) else os.path.realpath(path)
                if not any(f"{other}{os.sep}".startswith(f"{real}{os.sep}") for other in others):
                    passed.folders[path] = None


def refuse(text: str) -> None:
    """What `images_below` is given where nothing may be passed over. Raises DataError."""
    raise DataError(text)


def counted(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _named(given: Iterable[str], noun: str) -> str:
    paths = list(given)
    more = f", … and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return f"{counted(len(paths), noun)} ({', '.join(paths[:NAMED])}{more})" if paths else ""

"""words of a command line -> the image files that they mean; and a file, here or at an address -> its bytes."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rfray.data.decoding import SUFFIXES, UnreadableImageError
from rfray.errors import DataError, InputError
from rfray.store.storage import SCHEMES, Storage, is_address

STANDARD_INPUT = "-"
"""The word for: a path a line, on the standard input."""
ENDINGS = f"(they end in {', '.join(SUFFIXES)}, any case)"
MAX_BYTES = 512_000_000
"""Larger files are refused before they are read: no picture that may be decoded takes as much."""


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
        elif is_address(word):
            yield from _some(_at_address(word), word, f"image file there {ENDINGS}")
        elif os.path.isdir(word):
            yield from _some(_in_folder(word), word, f"image file in it {ENDINGS}")
        elif glob.has_magic(word) and not os.path.lexists(word):
            found = (path for path in sorted(glob.iglob(word, recursive=True)) if not os.path.isdir(path))
            yield from _some(found, word, "file of such a name")
        else:
            yield word


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
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise UnreadableImageError(getattr(error, "strerror", None) or str(error)) from None
    except InputError as error:
        raise error if isinstance(error, UnreadableImageError) else UnreadableImageError(str(error)) from None


def _some(found: Iterator[str], word: str, what: str) -> Iterator[str]:
    first = next(found, None)
    if first is None:
        raise DataError(f"{word}: no {what}")
    yield first
    yield from found


def _in_folder(folder: str) -> Iterator[str]:
    """One folder after the other, so that millions of names need not be held at once."""
    for parent, subfolders, files in os.walk(folder, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(filter(is_image_name, files)))


def _at_address(address: str) -> Iterator[str]:
    scheme = address.split("://", 1)[0]
    if scheme not in SCHEMES:
        raise InputError(
            f"{address}: allowed: files, folders, patterns and {', '.join(f'{known}://' for known in SCHEMES)}; "
            "download it first"
        )
    if address.lower().endswith(SUFFIXES):
        yield address
        return
    storage = Storage(address)
    for name in sorted(entry.path for entry in storage.entries() if entry.path.lower().endswith(SUFFIXES)):
        yield f"{storage.address}/{name}"

"""Every error that rfray raises on purpose; the message is all that a user needs to read.

`InputError` and all below it end the command with exit code 2, `Interrupted` with 130, the others with 1.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import TypeVar

SECRET = re.compile(
    # KEY:SECRET@, perhaps with a slash, or TOKEN@; but anonymous@ is Arrow's way to read what is public
    r"(?<=://)(?!anonymous@)([^/@\s]{0,4000}|[^/@:\s]{1,200}:(?!\d+/)[^@\s]{0,200})@"
    r"|(?<=[?&])[^=&\s]{0,40}(key|secret|token|passw|signature|credential)[^=&\s]{0,40}=[^&\s]*",
    re.IGNORECASE,
)
"""What gives access, in an address."""


class RfrayError(Exception):
    """Base of all errors of rfray; `exit_code` is what the command ends with.

    Each of `lines` is one line of the message, whatever names are in it: see `printable`.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


class InputError(RfrayError):
    """What the user gave can't be used; raised before any work starts."""

    exit_code = 2


Refused = TypeVar("Refused", bound=OSError | RfrayError)


class SweepError(InputError):
    """The sweep file (or a `--set`) breaks a rule; one line per problem, with file and line."""


class DataError(InputError):
    """The image folders can't be used as they are."""


class AuditError(InputError):
    """The audit of the images has found errors: what is learned or measured on them would mislead."""


class RunError(InputError):
    """A run folder is missing, belongs to another sweep, is in use or is damaged."""


class StorageError(InputError):
    """An address can't be reached, or refuses what is asked of it."""


class ClusterError(InputError):
    """The Ray cluster can't be reached or lacks what a trial asks for."""


class TrialError(RfrayError):
    """One trial can't go on; the message becomes its reason on the leaderboard."""


class LeaseLostError(RunError):
    """Another command holds the address of the run by now, so that this one must not write there any more."""


class GroupStoppedError(RfrayError):
    """The first of the processes that train a trial together has stopped, for a reason that it gives itself."""


class GroupMemoryError(RfrayError):
    """A process of the group that trains a trial ran out of memory; they begin again with a smaller micro-batch."""


class DiskFullError(RfrayError):
    """No room for a file that must be written; nothing half-written is left, and the same command goes on."""


class SweepFailed(RfrayError):
    """More trials failed than `search.max_failed` allows, or no trial succeeded."""


class Interrupted(RfrayError):
    """The user stopped the command (Ctrl-C)."""

    exit_code = 130


WAYS_OUT = {
    errno.EACCES: "This user may not do so there; name another place (--run, --out, --to; RFRAY_CACHE for the cache)",
    errno.ENOENT: "It is not there, or a folder above it isn't and can't be made",
    errno.ENOTDIR: "A folder of this path is a file; name another place",
    errno.EEXIST: "A file is where a folder must be; name another place",
    errno.EISDIR: "A folder is where a file must be; name another one",
    errno.ENAMETOOLONG: "Most disks take 255 bytes a name, and 4,096 a path; name a shorter one",
    errno.ELOOP: "Its links lead in a circle; name the folder itself",
    errno.ENODEV: "Is the disk there, and mounted?",
    errno.EIO: "The disk fails; look at it, or name a place on another one",
    errno.ENOSPC: "The disk is full: make room, or name a place on another one",
    errno.EDQUOT: "Your share of the disk is full: make room, or name a place on another one",
    errno.EFBIG: "Allow larger files (ulimit -f unlimited), or name a place on a disk that takes them",
    errno.EMFILE: "Allow more open files (ulimit -n 65536)",
    errno.ENOMEM: "Free some memory, or set fewer trials at once (search.concurrent)",
}
"""Error number -> what to do."""
WAYS_OUT |= {errno.EPERM: WAYS_OUT[errno.EACCES], errno.EROFS: WAYS_OUT[errno.EACCES]}
WAYS_OUT |= {errno.ENXIO: WAYS_OUT[errno.ENODEV], errno.ENFILE: WAYS_OUT[errno.EMFILE]}
WAYS_OUT |= {errno.ESTALE: WAYS_OUT[errno.ENODEV], errno.ENOTCONN: WAYS_OUT[errno.ENODEV]}
OF_THE_MACHINE = (
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ESTALE),
)
"""Errors that another word on the command line would not have helped against."""


def raised_by_task(error: Refused) -> Refused:
    """What a task on Ray has raised itself, where `error` is what Ray makes of it: with the whole traceback as text."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, OSError | RfrayError) else error  # type: ignore[return-value]


def of_system(error: OSError, option: str = "") -> RfrayError:
    """What the operating system refused, as an error of one line: with the path, the reason and the way out.

    The path is `option`, as it was given on the command line, where there is one.
    """
    error = raised_by_task(error)
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    given = (error.filename, error.filename2)
    places = [readable(os.fsdecode(one)) for one in given if isinstance(one, str | bytes | os.PathLike)]
    text = f"{' -> '.join(places)}: {reason}" if places else reason
    if option:
        text = f"{option}: {reason}"
    elif not places and isinstance(error, FileNotFoundError):
        if "temporary directory" in reason:  # tempfile's own words, with all that it has tried
            return InputError(f"{reason}. Set TMPDIR to a folder in which you may write")
        text = f"the working folder: {reason}"  # all other calls name a file
    kind = RfrayError if error.errno is None or error.errno in OF_THE_MACHINE else InputError
    return kind(f"{text}. {WAYS_OUT.get(error.errno or 0, 'Mend that; the same command goes on')}")


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing, as a MemoryError may."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip()


def readable(name: str) -> str:
    r"""A file's name as text that can be written as UTF-8: bytes of it that are no UTF-8 become \xe9."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character of UTF-16, which no disk has given
        return name.encode("utf-8", "backslashreplace").decode()


def without_secrets(text: str) -> str:
    """The text, with … for all that gives access in its addresses."""
    return SECRET.sub(lambda found: "…@" if found[0].endswith("@") else "…", text)


def check_no_secret(text: str) -> None:
    """Raises InputError, which doesn't show it, where an address in the text holds a key."""
    for address in re.findall(r"\w+://\S+", text) if SECRET.search(text) else ():
        if not SECRET.search(address):
            continue
        raise InputError(
            f"{without_secrets(address)}: a key in an address would be kept in files and logs; allowed: an address "
            "without one. Put it where the store's own tools look for it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "~/.aws/credentials, a role; HF_TOKEN)"
        )


def printable(text: str) -> str:
    r"""Text that a terminal, a log or a page shows as it is, on one line.

    What could steer it (escapes, ends of lines, directions of writing) becomes \x1b, \n, \u202e.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def plain(name: str) -> str:
    """A name in small letters, without what stands between its parts, but _ between digits: ResNet-50 is resnet50."""
    return re.sub(r"(?<!\d)_|_(?!\d)", "", re.sub(r"[\W_]+", "_", name.lower()))


def nearest_first(given: object, allowed: Iterable[str], limit: int = 12) -> str:
    """Text that lists `allowed`, the names most like `given` first, at most `limit` of them."""
    names, wanted = list(allowed), plain(str(given))
    forms = {name: plain(name) for name in names}
    same = [name for name, form in forms.items() if form == wanted]
    begun = [
        one
        for one, form in forms.items()
        if min(len(form), len(wanted)) > 2 and (form.startswith(wanted) or wanted.startswith(form))
    ]
    begun.sort(key=lambda one: abs(len(forms[one]) - len(wanted)))
    close = difflib.get_close_matches(wanted, dict.fromkeys(forms.values()), n=3, cutoff=0.65)
    alike = [name for form in close for name in names if forms[name] == form]
    part = [
        one for one, form in forms.items() if min(len(form), len(wanted)) > 1 and (form in wanted or wanted in form)
    ]
    nearest = [*dict.fromkeys([*same, *begun[:3], *alike, *part])][:3]
    ordered = nearest + [name for name in names if name not in nearest]
    listed = ", ".join(ordered[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    return f"{listed}; nearest: {nearest[0]}" if nearest else listed

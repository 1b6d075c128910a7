"""bytes -> files that are either whole or not there: written aside, flushed to disk, then moved into place."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; moves it into place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the temporary name keeps the suffix, since numpy and matplotlib choose the format by it
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) as the whole new content of `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""tables and arrays <-> files that hold their own SHA-256: their reader notices every bit that is not what it was.

The digest stands in the metadata that Parquet and safetensors have, and is that of the file with zeros in its place.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rfray.store.files import read_plain, write_whole

MARK, ZEROS = b"rfray-sha256:", b"0" * 64
TABLE_BYTES = 4_000_000_000
"""The largest file of this kind that is read (our choice): a catalog of 140,000 images has about 20 MB."""
SEAL = {"seal": (MARK + ZEROS).decode()}
"""What a format is given as metadata, for `seal` to fill in."""


def seal(data: bytes) -> bytes:
    """The content of a file with its digest in the place that SEAL has made for it, which is the last in it."""
    at = data.rindex(MARK) + len(MARK)
    return data[:at] + sha256(data).hexdigest().encode() + data[at + len(ZEROS) :]


def read_sealed(path: Path) -> bytes:
    """The content of a file that was sealed. Raises ValueError where it is not what it was, and OSError."""
    data = read_plain(path, TABLE_BYTES)
    at = data.rfind(MARK) + len(MARK)
    found = sha256(data[:at] + ZEROS + data[at + len(ZEROS) :]).hexdigest().encode()
    if data[at : at + len(ZEROS)] != found:
        raise ValueError("its content does not match its digest")
    return data


def table_bytes(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """A table as sealed Parquet, with `metadata` beside its own."""
    buffer = pa.BufferOutputStream()
    known = table.schema.metadata or {}
    pq.write_table(table.replace_schema_metadata({**known, **(metadata or {}), **SEAL}), buffer)
    return seal(buffer.getvalue().to_pybytes())


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as sealed safetensors."""
    write_whole(path, seal(save({"array": array}, SEAL)))


def find_array(path: Path) -> np.ndarray | None:
    """What `write_array` wrote; None where it is not there, or not what it was: it is made anew then."""
    try:
        array: np.ndarray = load(read_sealed(path))["array"]
        return array
    except (OSError, ValueError, KeyError, SafetensorError):
        return None

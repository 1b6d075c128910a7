"""predictions-*.parquet <-> `Predictions`: ids, labels and p_fake of the images of one part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.errors import RunError, first_line
from rfray.store.files import write_whole
from rfray.store.run_dir import Part, TrialDir
from rfray.store.sealed import SEAL, read_sealed, table_bytes

SCHEMA = pa.schema({"id": pa.string(), "label": pa.int8(), "p_fake": pa.float64()})
"""Columns of a predictions file."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of one model (or ensemble) on n images of one part."""

    ids: np.ndarray
    """(n,) of text: path of each image below its data folder, every one once."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    p_fake: np.ndarray
    """(n,) float64 in [0, 1]: probability of fake."""

    def __post_init__(self) -> None:
        """Raises ValueError where the lengths differ, or a probability or a label is none."""
        if not len(self.ids) == len(self.labels) == len(self.p_fake):
            raise ValueError(f"{len(self.ids)} ids, {len(self.labels)} labels and {len(self.p_fake)} probabilities")
        if not np.all((self.p_fake >= 0) & (self.p_fake <= 1)):  # nan fails both
            raise ValueError("probabilities must be numbers in [0, 1]")
        if not np.all((self.labels == 0) | (self.labels == 1)):
            raise ValueError("labels must be 0 or 1")

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: np.ndarray | slice) -> "Predictions":
        """Those at some of the positions, in this order."""
        return Predictions(self.ids[places], self.labels[places], self.p_fake[places])


def write_predictions(path: Path, predictions: Predictions, metadata: Mapping[str, str]) -> None:
    """Writes the three columns; `metadata` says which weights and images they come from."""
    columns = {"id": predictions.ids.tolist(), "label": predictions.labels, "p_fake": predictions.p_fake}
    write_whole(path, table_bytes(pa.table(columns, schema=SCHEMA), metadata))


def read_predictions(path: Path) -> Predictions:
    """Reads a predictions file. Raises RunError, with its name, where it is missing or damaged."""
    try:
        # in half the time of `read_table`, which is made for whole data sets
        with pq.ParquetFile(pa.BufferReader(read_sealed(path))) as file:
            table = file.read(SCHEMA.names, use_threads=False)
        if not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
            raise ValueError("its columns are not those of predictions")
        return Predictions(
            ids=_ids(table["id"]),
            labels=table["label"].to_numpy(),
            p_fake=table["p_fake"].to_numpy(),
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path}: not a readable predictions file: {first_line(error)}") from error


def trial_predictions(trial: TrialDir, part: Part, corruption: str | None = None) -> Predictions:
    """A trial's predictions on one part. Raises RunError, with what makes the file, where it is missing or damaged."""
    trains = part == "val" and corruption is None
    makes = "the `rfray tune` that made the run trains it again" if trains else "`rfray ensemble` makes it"
    try:
        return read_predictions(trial.predictions_file(part, corruption))
    except RunError as error:
        raise RunError(f"{error}; {makes}") from None


def predictions_metadata(path: Path) -> dict[str, str]:
    """The metadata given to `write_predictions`, or nothing where there is no such file, or it is damaged."""
    try:
        raw = pq.read_schema(pa.BufferReader(read_sealed(path))).metadata or {}
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return {key.decode(): value.decode() for key, value in raw.items() if key.decode() not in SEAL}


def positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray | slice | None:
    """Where each of the `wanted` ids is among `ids`; None where the two are not the same, each once."""
    if ids is wanted or np.array_equal(ids, wanted):
        return slice(None)  # almost always; searching in text takes long
    index = pd.Index(ids)
    if len(ids) != len(wanted) or not index.is_unique:
        return None
    found = index.get_indexer(pd.Index(wanted))
    return None if (found < 0).any() else found


_latest: tuple[pa.ChunkedArray, np.ndarray] | None = None


def _ids(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) of text, read-only: the array that was read last where the ids are the same, as they are in a sweep.

    A thousand trials of 20,000 images would hold 1.5 GB of the same names, and take longer for them than for the rest.
    """
    global _latest
    known = _latest
    if known is None or not known[0].equals(column):
        known = _latest = column, column.to_numpy()
        known[1].flags.writeable = False
    return known[1]

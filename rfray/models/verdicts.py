"""a vote + its members' scores -> verdicts, and the table that says them: a row a file."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from rfray.stats.voting import joined
from rfray.store.ensemble_record import Vote

VERDICTS = ("real", "fake", "unsure")
"""What can be said of a picture."""
NOT_FINITE = "a model's output is not a number"
"""A reason why there is no verdict."""


def verdicts(vote: Vote, p_fake: np.ndarray) -> np.ndarray:
    """(n,) text of VERDICTS for (n,) p_fake: unsure within the vote's band; "" where p_fake is nan."""
    found = np.where(p_fake >= vote.threshold, "fake", "real").astype(object)
    if vote.unsure is not None:
        low, high = vote.unsure
        found[(low <= p_fake) & (p_fake < high)] = "unsure"
    found[np.isnan(p_fake)] = ""
    return found


def verdict_table(vote: Vote, paths: Sequence[str], scores: np.ndarray, reasons: Sequence[str]) -> pd.DataFrame:
    """One row a file: path, p_fake, verdict, each member's p_fake under its id, and why it has none of these.

    `scores` (k, n) float64 are the members' p_fake; `reasons` n texts, "" where the file could be read. What could not
    be read or predicted has nan for every number and no verdict.
    """
    unread = np.array([bool(reason) for reason in reasons], dtype=bool)
    p_fake = np.full(len(paths), np.nan)
    p_fake[~unread] = joined(vote, scores[:, ~unread])
    members = {member: np.where(unread, np.nan, row) for member, row in zip(vote.members, scores, strict=True)}
    said = {"path": list(paths), "p_fake": p_fake, "verdict": verdicts(vote, p_fake), **members}
    return pd.DataFrame({**said, "reason": list(reasons)})


def parquet_table(table: pd.DataFrame) -> pa.Table:
    """The same as it is written: a number that is not there is null."""
    return pa.Table.from_pandas(table, preserve_index=False)

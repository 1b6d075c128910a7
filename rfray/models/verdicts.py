"""a vote + its members' scores -> verdicts, and the table with a row for each file."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rfray.stats.voting import joined
from rfray.store.bundle_record import Vote

VERDICTS = ("real", "fake", "unsure")
NOT_FINITE = "a model's output is not a number"
"""The reason for a missing verdict where the file could be read."""


def verdicts(vote: Vote, p_fake: np.ndarray) -> np.ndarray:
    """(n,) of VERDICTS for (n,) p_fake: unsure within the vote's band; "" where p_fake is nan."""
    found = np.where(p_fake >= vote.threshold, "fake", "real").astype(object)
    if vote.unsure is not None:
        low, high = vote.unsure
        found[(low <= p_fake) & (p_fake < high)] = "unsure"
    found[np.isnan(p_fake)] = ""
    return found


def verdict_table(vote: Vote, paths: Sequence[str], scores: np.ndarray, reasons: Sequence[str]) -> pd.DataFrame:
    """The columns path, p_fake, verdict, each member's p_fake under its id, and reason.

    `scores` (k, n) float64 are the members' p_fake. `reasons` are n texts, "" where there is none; a file with a reason
    has nan for every number, and no verdict.
    """
    scores = np.where([bool(reason) for reason in reasons], np.nan, scores)
    p_fake = joined(vote, scores)
    said = {"path": list(paths), "p_fake": p_fake, "verdict": verdicts(vote, p_fake)}
    return pd.DataFrame({**said, **dict(zip(vote.members, scores, strict=True)), "reason": list(reasons)})

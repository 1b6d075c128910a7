"""A leaderboard with columns of test under corruption -> what they say, in words."""

from typing import Any

import numpy as np
import pandas as pd

from rfray.data.corruptions import FAMILIES
from rfray.evaluation.ensemble import TEST_COLUMNS

WORDS = {
    "jpeg": "JPEG of quality {}",
    "scale": "scaling down to {} % and back",
    "blur": "a blur of {} px",
    "noise": "noise of {} (of 255)",
}
"""Family -> one of its corruptions in a sentence."""


def is_corrupted(frame: pd.DataFrame) -> bool:
    """Whether a leaderboard has the columns of test under corruption."""
    return set(TEST_COLUMNS) <= set(frame.columns)


def corruption_sentence(frame: pd.DataFrame, name: str) -> str:
    """What hurts this row (the ensemble) most."""
    row: pd.Series[Any] = frame[frame["name"] == name].iloc[0]
    auc = float(row["auc"])
    found = {
        WORDS[family].format(strength): float(row[f"auc_{family}_{strength}"])
        for family, strengths in FAMILIES.items()
        for strength in strengths
    }
    defined = {corruption: value for corruption, value in found.items() if not np.isnan(value)}
    if not defined or np.isnan(auc):
        return "The AUC of the ensemble under corruption is undefined."
    corruption = min(defined, key=defined.__getitem__)
    if defined[corruption] >= auc:
        least = f"the least, {defined[corruption]:.4f}, is under {corruption}"
        return f"No corruption lowers the AUC of the ensemble, {auc:.4f}; {least}."
    return f"What hurts the ensemble most is {corruption}: its AUC falls from {auc:.4f} to {defined[corruption]:.4f}."

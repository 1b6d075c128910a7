"""A leaderboard with columns of the report part under stress -> what they say, in words."""

from typing import Any

import numpy as np
import pandas as pd

from rfray.evaluation.robustness import FAMILIES, REPORT_COLUMNS, stress_name

WORDS = {
    "jpeg": "JPEG of quality {}",
    "scale": "scaling down to {} % and back",
    "blur": "a blur of {} px",
    "noise": "noise of {} (of 255)",
}
"""Family -> one of its stresses in a sentence."""


def is_stressed(frame: pd.DataFrame) -> bool:
    """Whether a leaderboard has the columns of the report part under stress."""
    return set(REPORT_COLUMNS) <= set(frame.columns)


def stress_alt(frame: pd.DataFrame, names: list[str]) -> str:
    """What the picture shows of these rows, for those who don't see it."""
    rows = frame.set_index("name").loc[names, ["auc", "auc_worst"]].to_numpy(float)
    listed = [
        f"{name} {_number(auc)}, at worst {_number(worst)}" for name, (auc, worst) in zip(names, rows, strict=True)
    ]
    return f"AUC on the report part as it is and under JPEG, scaling, blur and noise: {'; '.join(listed)}"


def stress_sentence(frame: pd.DataFrame, name: str) -> str:
    """What hurts this row (the ensemble) most."""
    row: pd.Series[Any] = frame[frame["name"] == name].iloc[0]
    auc = float(row["auc"])
    found = {
        WORDS[family].format(strength): float(row[f"auc_{stress_name(family, strength)}"])
        for family, strengths in FAMILIES.items()
        for strength in strengths
    }
    defined = {stress: value for stress, value in found.items() if not np.isnan(value)}
    if not defined or np.isnan(auc):
        return "The AUC of the ensemble under stress is undefined."
    stress = min(defined, key=defined.__getitem__)
    if defined[stress] >= auc:
        return (
            f"No stress lowers the AUC of the ensemble, {auc:.4f}; the least, {defined[stress]:.4f}, is under {stress}."
        )
    return f"What hurts the ensemble most is {stress}: its AUC falls from {auc:.4f} to {defined[stress]:.4f}."


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.4f}"

"""Leaderboard of a run -> plots/corruption.png: AUC against the strength of each corruption."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from rfray.data.corruptions import FAMILIES, corruption_name
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.report.corruption_words import is_corrupted
from rfray.report.plot_style import LOOK, save, shortened, voter_styles
from rfray.store.ensemble_record import read_ensemble
from rfray.store.run_dir import RunDir

CORRUPTION = "corruption.png"
"""File name below the run's plots folder."""

AXES = {
    "jpeg": "JPEG quality",
    "scale": "Scaled down to (%) and back",
    "blur": "Blur (standard deviation in pixels)",
    "noise": "Noise (standard deviation of 255)",
}
"""Family -> what its strengths are."""


def write_corruption_plot(run: RunDir) -> Path | None:
    """Draws what the leaderboard says of the ensemble and its members under corruption; removes an earlier picture.

    Returns the file, or None where no corruption was run. Raises RunError where the leaderboard or ensemble is damaged.
    """
    file = run.plots_folder / CORRUPTION
    ensemble, frame = read_ensemble(run), read_leaderboard(run)
    if ensemble is None or not is_corrupted(frame):
        file.unlink(missing_ok=True)
        return None
    with mpl.rc_context(LOOK):
        save(_curves(frame.set_index("name"), voter_styles(ensemble.name, ensemble.members)), file)
    return file


def _curves(rows: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> Figure:
    """A small plot a family, one line a row, from the pictures as they are to the strongest; one legend for all."""
    legend = 0.16 * len(looks) + 0.25  # inches
    figure = Figure(figsize=(7.2, 5.6 + legend))
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, (family, strengths) in zip(panels, FAMILIES.items(), strict=True):
        columns = ["auc", *(f"auc_{corruption_name(family, strength)}" for strength in strengths)]
        for name, look in looks.items():
            label = shortened(name) if family == "jpeg" else None
            axes.plot(rows.loc[name, columns].to_numpy(float), marker="o", markersize=3.5, label=label, **look)
        axes.set_xticks(range(len(columns)), labels=["as it is", *map(str, strengths)])
        axes.axhline(0.5, color="#777777", linestyle=":", linewidth=1)
        axes.set(title=AXES[family], ylabel="AUC" if axes.get_subplotspec().is_first_col() else "")
    figure.legend(loc="lower center", fontsize=9, borderaxespad=0.4, labelspacing=0.25)
    figure.tight_layout(rect=(0, legend / (5.6 + legend), 1, 1))
    return figure

"""python -m benchmarks.quality_plot RESULT.json PICTURE.png -> each way's held-out AUC against time, of `quality`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.quality import WAYS
from rfray.report.pictures import COLOURS, GREY, STYLE, save

STYLES = dict(zip(WAYS, ("black", COLOURS[2], COLOURS[0], COLOURS[1]), strict=True))
MARKERS = dict(zip(WAYS, "osD^", strict=True))


def curves(record: Mapping[str, Any]) -> Figure:
    """A line for each round of each way: its best single model so far; a mark at the end is its vote."""
    rounds: Sequence[Mapping[str, Any]] = [one for figure in record["figures"] for one in figure["details"]]
    drawn = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = drawn.add_subplot()
    budget = rounds[0]["budget"]
    end = max(budget, *(one["seconds"] for one in rounds)) / 60
    for one in rounds:
        minutes = [seconds / 60 for seconds, _ in one["curve"]]
        aucs = [auc for _, auc in one["curve"]]
        colour = STYLES[one["way"]]
        axes.step([*minutes, end], [*aucs, aucs[-1]], where="post", color=colour, linewidth=1.4, alpha=0.8)
        axes.plot(end * 1.04, one["vote"]["auc"], MARKERS[one["way"]], color=colour, clip_on=False)
    for way, name in WAYS.items():
        axes.plot([], [], MARKERS[way], linestyle="-", color=STYLES[way], label=name)
    axes.axvline(budget / 60, color=GREY, linestyle=":", linewidth=1)
    seeds = sum(one["way"] == rounds[0]["way"] for one in rounds)
    axes.set(
        title=f"{rounds[0]['task']['name']}: what would be handed over, {seeds} seed{'s' if seeds > 1 else ''}",
        xlabel="Minutes since the start (line: best single model by val so far; mark: the vote, at the end)",
        ylabel="AUC on the held-out images",
        xlim=(0, end * 1.07),
    )
    drawn.legend(loc="outside lower center", ncols=len(WAYS), fontsize=9)
    return drawn


def main() -> None:
    """Draws one result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality_plot", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    with mpl.rc_context(STYLE):
        save(curves(json.loads(given.result.read_text())), given.picture)


if __name__ == "__main__":
    main()

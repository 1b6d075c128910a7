"""`SearchFindings` -> parallel coordinates: every trial as one line across the sweep's axes to its score."""

import math
from collections.abc import Collection, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from rfray.evaluation.search_findings import Axis, SearchFindings
from rfray.report.plot_style import shortened

ABREAST = 6
"""Most axes of the sweep beside each other; more go into another row."""
MOST_TICKS = 12
"""Choices of an axis that are named; of more, as many as that, evenly spread."""
FEW = 60
"""Up to so many trials their lines are thick; the lines of more are thin."""


def parallel_coordinates(findings: SearchFindings, members: Collection[str]) -> Figure:
    """One line a trial, darker where its score is better; those of `members` thick and with dots.

    A range's axis goes over the whole range (on a log scale where it is drawn so), a list's names its choices. There
    must be an axis and a score.
    """
    ordered = findings.axes
    if findings.importance is not None:  # what matters most stands beside the score
        places = list(findings.importance.shares.index)[::-1]
        ordered = tuple(sorted(findings.axes, key=lambda axis: places.index(axis.name)))
    abreast = math.ceil(len(ordered) / math.ceil(len(ordered) / ABREAST))  # rows of like length
    rows = [ordered[start : start + abreast] for start in range(0, len(ordered), abreast)]
    figure = Figure(figsize=(9.6, 0.6 + 4.0 * len(rows)), dpi=100, layout="constrained")
    emphasised = findings.scores.index.isin(members)
    voting = f"; thick: the {emphasised.sum()} in the ensemble" if emphasised.any() else ""
    figure.suptitle(
        f"Every trial, darker where {findings.metric} is better (n = {len(findings.scores):,}{voting})", fontsize=11
    )
    for panel, some in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        _panel(panel, findings, some, emphasised)
    return figure


def _panel(panel: Axes, findings: SearchFindings, axes: Sequence[Axis], emphasised: np.ndarray) -> None:
    scores = findings.scores.to_numpy()
    low, high = float(scores.min()), float(scores.max())
    low, high = (low, high) if high > low else (low - 0.005, high + 0.005)
    score = Axis(f"val_{findings.metric}", (), low, high, logarithmic=False)
    heights = np.column_stack([*(_spread(axis, findings) for axis in axes), _height(score, scores)])
    lines = np.stack([np.broadcast_to(np.arange(len(axes) + 1.0), heights.shape), heights], axis=2)
    rising = np.argsort(scores, kind="stable")  # the best are drawn last
    colours = mpl.colormaps["YlGnBu"](0.2 + 0.8 * Normalize(low, high)(scores).filled())
    for chosen, width, alpha, dots in (
        (~emphasised, 1.2 if len(scores) <= FEW else 0.5, 0.6, False),
        (emphasised, 2.0, 1.0, True),
    ):
        some = rising[chosen[rising]]
        drawn = LineCollection(lines[some], colors=colours[some], linewidths=width, alpha=alpha, zorder=2 + dots)
        if dots:
            drawn.set_path_effects([patheffects.Stroke(linewidth=3.4, foreground="black"), patheffects.Normal()])
            panel.scatter(lines[some, :, 0], lines[some, :, 1], s=16, color="black", zorder=4)
        panel.add_collection(drawn)
    characters = 160 // (len(axes) + 1)  # of 8 points, between two axes
    for place, axis in enumerate([*axes, score]):
        panel.axvline(place, color="black", linewidth=1, zorder=5)
        for height, text in _ticks(axis):
            panel.annotate(
                shortened(text, characters),
                (place, height),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                zorder=6,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
            )
    panel.set_xticks(range(len(axes) + 1), labels=[axis.name for axis in [*axes, score]], fontweight="bold")
    panel.xaxis.tick_top()
    panel.set(xlim=(-0.05, len(axes) + 0.45), ylim=(-0.05, 1.05), yticks=[])
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


def _height(axis: Axis, values: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1]: how far up the axis the values stand; the middle where it has one place only."""
    if axis.low == axis.high:
        return np.full(len(values), 0.5)
    places, low, high = (np.log(part) if axis.logarithmic else part for part in (values, axis.low, axis.high))
    return np.asarray((places - low) / (high - low))


def _spread(axis: Axis, findings: SearchFindings) -> np.ndarray:
    """Heights of the trials; those of one choice a little apart, better ones higher, so that each line is seen."""
    values = findings.settings[axis.name].to_numpy()
    heights = _height(axis, values)
    if axis.choices:
        rank = findings.scores.groupby(values).rank(method="first", pct=True).to_numpy()
        heights = heights + (rank - 0.5) * 0.5 / max(len(axis.choices), 8)
    return heights


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Height and text of the places that are named on an axis."""
    if axis.choices:
        places = np.unique(
            np.linspace(0, len(axis.choices) - 1, min(len(axis.choices), MOST_TICKS)).round().astype(int)
        )
        return [(float(_height(axis, places)[number]), axis.choices[place]) for number, place in enumerate(places)]
    locator = LogLocator(subs=(1, 3)) if axis.logarithmic else MaxNLocator(5)
    values = np.array([value for value in locator.tick_values(axis.low, axis.high) if axis.low <= value <= axis.high])
    return [(float(height), f"{value:g}") for height, value in zip(_height(axis, values), values, strict=True)]

"""`SearchFindings` -> plots/*.png: the best score so far, each axis's importance, every trial across all axes."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rfray.evaluation.search_findings import Importance, SearchFindings, amount
from rfray.report.parallel_coordinates import parallel_coordinates
from rfray.report.pictures import save
from rfray.report.plot_style import COLOURS, GREY, PALE, STYLE, shortened
from rfray.store.ensemble_record import read_ensemble
from rfray.store.run_dir import RunDir

SEARCH_PLOTS = BEST_SO_FAR, IMPORTANCE, PARALLEL = ("best-so-far.png", "importance.png", "parallel-coordinates.png")
"""File names below the run's plots folder."""

CHANCE = {"auc": 0.5, "balanced_accuracy": 0.5}
"""Select metric -> what a coin reaches, where that does not depend on the images."""


def write_search_plots(run: RunDir, findings: SearchFindings) -> list[Path]:
    """Draws every picture that there is data for and removes earlier ones that are no longer true.

    The importance needs enough trials, the parallel coordinates an axis and a score. Returns the files written.
    """
    ensemble = read_ensemble(run)
    drawings: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        if len(findings.steps):
            drawings[BEST_SO_FAR] = _best_so_far(findings)
        if findings.importance is not None:
            drawings[IMPORTANCE] = _importance(findings.importance, len(findings.scores))
        if findings.axes and len(findings.scores):
            drawings[PARALLEL] = parallel_coordinates(findings, ensemble.members if ensemble is not None else [])
        for name, figure in drawings.items():
            save(figure, run.plots_folder / name, search_alts(findings)[name], 32 if name == PARALLEL else 256)
    for stale in {BEST_SO_FAR, IMPORTANCE, PARALLEL} - set(drawings):
        (run.plots_folder / stale).unlink(missing_ok=True)
    return [run.plots_folder / name for name in drawings]


def search_alts(findings: SearchFindings) -> dict[str, str]:
    """File name -> what the picture shows, for those who don't see it; of every picture that there is data for."""
    metric, unit, alts = findings.metric, findings.unit, {}
    if len(findings.steps):
        first, last = findings.steps.iloc[0], findings.steps.iloc[-1]
        alts[BEST_SO_FAR] = (
            f"Best {metric} on val so far against the training of all trials: {first['best']:.4f} after "
            f"{amount(first['spent'])} {unit}, {last['best']:.4f} after {amount(last['spent'])} of "
            f"{amount(findings.spent)}"
        )
    if findings.importance is not None:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in findings.importance.shares.items())
        alts[IMPORTANCE] = (
            f"Share of each axis in what the {metric} depends on (permutation importance in random forests): {shares}"
        )
    if findings.axes and len(findings.scores):
        names = ", ".join(axis.name for axis in findings.axes)
        alts[PARALLEL] = (
            f"Parallel coordinates of {len(findings.scores)} trials: one line a trial across the axes {names} to its "
            f"{metric}, which is {findings.scores.min():.4f} to {findings.scores.max():.4f}; the best is "
            f"{_setting(findings, str(findings.scores.idxmax()))}"
        )
    return alts


def _setting(findings: SearchFindings, trial: str) -> str:
    values = dict(findings.settings.loc[trial])
    told = [
        f"{axis.name} {axis.choices[int(values[axis.name])] if axis.choices else format(values[axis.name], '.3g')}"
        for axis in findings.axes
    ]
    return f"{trial} with {', '.join(told)}"


def _best_so_far(findings: SearchFindings) -> Figure:
    """A step wherever a better score came; every epoch's own score as a dot behind it."""
    epochs, steps = findings.epochs, findings.steps
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        epochs["spent"], epochs["score"], s=7, color=PALE, linewidths=0, label="each epoch", zorder=1, rasterized=True
    )
    axes.step(
        [*steps["spent"], findings.spent],
        [*steps["best"], steps["best"].iloc[-1]],
        where="post",
        color=COLOURS[0],
        linewidth=2,
        label="best so far",
    )
    axes.plot(steps["spent"], steps["best"], "o", color=COLOURS[0], markersize=4.5)
    if findings.metric in CHANCE:
        chance = CHANCE[findings.metric]
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label=f"chance ({chance:g})")
    trials = epochs["trial"].nunique()
    counted = f"n = {trials:,} trial{'' if trials == 1 else 's'}, {len(epochs):,} epochs"
    axes.set(
        title=f"Best {findings.metric} so far ({counted})",
        xlabel=f"Training of all trials ({findings.unit})",
        ylabel=f"{findings.metric} on val",
    )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if findings.spent >= 10 else "{x:g}"))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _importance(importance: Importance, trials: int) -> Figure:
    """One bar an axis, the greatest on top, with one standard deviation either way."""
    shares, spread = 100 * importance.shares.to_numpy(), 100 * importance.spread.to_numpy()
    reach = np.minimum([spread, spread], [shares, 100 - shares])
    figure = Figure(figsize=(7.2, 1.5 + 0.32 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shares)), shares, xerr=reach, color=COLOURS[1], height=0.62, ecolor="black", capsize=3)
    for place, (share, end) in enumerate(zip(shares, shares + reach[1], strict=True)):
        axes.annotate(
            f"{share:.0f} %", (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(shares)), labels=[shortened(str(name), 24) for name in importance.shares.index])
    axes.invert_yaxis()
    axes.set(
        title=f"What the score depends on (random forests, n = {trials:,} trials)",
        xlabel="Share of the permutation importance (%, ± 1 standard deviation)",
        xlim=(0, 1.12 * float((shares + reach[1]).max())),
    )
    axes.grid(visible=False, axis="y")
    return figure

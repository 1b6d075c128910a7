"""`SearchFindings` -> plots/*.png: the best score so far, each axis's importance, every trial across all axes."""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FixedFormatter, MaxNLocator, StrMethodFormatter

from rfray.data.listing import counted
from rfray.evaluation.search_findings import SearchFindings, amount
from rfray.report.pictures import (
    COLOURS,
    GREY,
    PALE,
    Drawing,
    canvas,
    plain_numbers,
    shortened,
    styled,
    write_drawings,
)
from rfray.store.run_dir import RunDir

SEARCH_PLOTS = BEST_SO_FAR, IMPORTANCE, PARALLEL = ("best-so-far.png", "importance.png", "parallel-coordinates.png")
"""File names below the run's plots folder."""

CHANCE = {"auc": 0.5, "balanced_accuracy": 0.5}
"""Val metric -> what guessing reaches, where that does not depend on the images."""


@styled
def write_search_plots(run: RunDir, findings: SearchFindings) -> list[Path]:
    """Draws every picture that there is data for and removes earlier ones that are no longer true.

    The importance needs enough trials, the parallel coordinates an axis and a score. Returns the files written.
    """
    drawings: dict[str, Drawing] = {}
    if len(findings.steps):
        drawings[BEST_SO_FAR] = _best_so_far(findings)
    if findings.importance:
        drawings[IMPORTANCE] = _importance(findings)
    if findings.study.trials and findings.study.trials[0].params:
        drawings[PARALLEL] = _parallel(findings)
    return write_drawings(run.plots_folder, drawings, SEARCH_PLOTS)


def _best_so_far(findings: SearchFindings) -> Drawing:
    """A step wherever a better score came; every epoch's own score as a dot behind it."""
    epochs, steps = findings.epochs, findings.steps
    first, last = steps.iloc[0], steps.iloc[-1]
    figure, axes = canvas(7.2, 4.2)
    axes.scatter(epochs["spent"], epochs["score"], s=7, color=PALE, linewidths=0, label="each epoch", zorder=1)
    ends = [*steps["spent"], findings.spent], [*steps["best"], last["best"]]
    axes.step(*ends, where="post", color=COLOURS[0], linewidth=2, label="best so far")
    axes.plot(steps["spent"], steps["best"], "o", color=COLOURS[0], markersize=4.5)
    if chance := CHANCE.get(findings.metric):
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label=f"chance ({chance:g})")
    counts = f"{counted(epochs['trial'].nunique(), 'trial')}, {counted(len(epochs), 'epoch')}"
    title = f"Best {findings.metric} so far (n = {counts})"
    axes.set(title=title, xlabel=f"Training of all trials ({findings.unit})", ylabel=f"{findings.metric} on val")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if findings.spent >= 10 else "{x:g}"))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure, (
        f"Best {findings.metric} on val so far against the training of all trials: {first['best']:.4f} after "
        f"{amount(first['spent'])} {findings.unit}, {last['best']:.4f} after {amount(last['spent'])} of "
        f"{amount(findings.spent)}"
    )


def _importance(findings: SearchFindings) -> Drawing:
    """One bar an axis, the greatest on top."""
    names, shares = list(findings.importance), [100 * share for share in findings.importance.values()]
    figure, axes = canvas(7.2, 1.5 + 0.32 * len(names))
    bars = axes.barh(range(len(names)), shares, color=COLOURS[1], height=0.62)
    axes.bar_label(bars, fmt="%.0f %%", padding=5, fontsize=9)
    axes.set_yticks(range(len(names)), labels=[shortened(name, 24) for name in names])
    axes.invert_yaxis()
    title = f"What the score depends on (functional ANOVA, n = {len(findings.study.trials):,} trials)"
    xlabel = "Share of the variance that the settings explain (%)"
    axes.set(title=title, xlabel=xlabel, xlim=(0, 1.12 * max(shares)))
    axes.grid(visible=False, axis="y")
    listed = ", ".join(f"{name} {share:.0f} %" for name, share in zip(names, shares, strict=True))
    return figure, f"Share of each axis in what the {findings.metric} depends on (functional ANOVA): {listed}"


def _parallel(findings: SearchFindings) -> Drawing:
    """Optuna's picture: one line a trial, darker where its score is better."""
    import matplotlib.pyplot as plt
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    with warnings.catch_warnings(), plt.ioff():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)  # an axis with one value
        axes = plot_parallel_coordinate(findings.study, target_name=f"{findings.metric} on val")
    figure = plt.gcf()
    axes.set_title(f"Every trial, darker where {findings.metric} is better (n = {len(findings.study.trials):,})")
    # the worst would be white on white
    axes.collections[0].set_cmap(ListedColormap(mpl.colormaps["Blues"](np.linspace(0.3, 1, 256))))
    for panel in figure.axes:
        panel.grid(visible=False)
        panel.spines["right"].set_visible(True)
        if panel.get_yscale() == "log":
            plain_numbers(panel.yaxis, 1, 2, 5)
        elif isinstance(panel.yaxis.get_major_formatter(), FixedFormatter):
            panel.set_yticks(panel.get_yticks(), [shortened(label.get_text(), 20) for label in panel.get_yticklabels()])
    figure.set_size_inches(9.6, 4.6)
    figure.subplots_adjust(left=0.08, right=0.97, bottom=0.2, top=0.92)
    plt.close(figure)
    trials, best = findings.study.trials, findings.study.best_trial
    scores = [trial.value or 0.0 for trial in trials]
    setting = ", ".join(f"{name} {_text(value)}" for name, value in best.params.items())
    return figure, (
        f"Parallel coordinates of {len(trials)} trials: one line a trial across the axes {', '.join(best.params)} "
        f"and its {findings.metric}, which is {min(scores):.4f} to {max(scores):.4f}; the best is "
        f"{best.user_attrs['id']} with {setting}"
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)

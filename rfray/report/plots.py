"""Report predictions and training histories of a run -> plots/*.png: ROC, precision-recall, confusions, history."""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics as sk

from rfray.config import CLASSES
from rfray.evaluation.ensemble import NAME, Ensemble, read_ensemble
from rfray.evaluation.leaderboard import select_column
from rfray.evaluation.metrics import THRESHOLD, confusion, metric
from rfray.evaluation.predictions import Predictions, read_predictions
from rfray.files import replacing
from rfray.run import RunDir

ROC, PRECISION_RECALL, HISTORY = "roc.png", "precision-recall.png", "history.png"
"""File names below the run's plots folder."""

COLOURS = ("#332288", "#44AA99", "#CC6677", "#DDAA33", "#88CCEE", "#117733", "#AA4499", "#999933")
"""Paul Tol's muted colours: told apart with every kind of colour vision."""

STYLES = ("-", "--", "-.")
"""Line styles; eight colours and three styles give 24 members a look of their own."""

LOOK: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are, also with a `$`
}
"""matplotlib settings of every picture."""


def confusion_file(name: str) -> str:
    """File name of the confusion matrix of a trial or ensemble."""
    return f"confusion-{name}.png"


def write_plots(run: RunDir) -> list[Path]:
    """Draws every picture that the run has data for and removes earlier ones that are no longer true.

    Returns the files written. Raises RunError where the ensemble or a member's report predictions are damaged.
    """
    ensemble = read_ensemble(run)
    members = ensemble.members if ensemble is not None else []
    styles = line_styles(members)
    drawings: dict[str, Figure] = {}
    with mpl.rc_context(LOOK):
        if ensemble is not None:
            voters = _voters(run, ensemble)
            drawings[ROC] = _curves(voters, styles, _draw_roc)
            drawings[PRECISION_RECALL] = _curves(voters, styles, _draw_precision_recall)
            for name, predictions in voters.items():
                threshold = ensemble.threshold if name == NAME else THRESHOLD
                drawings[confusion_file(name)] = _confusion(name, predictions, threshold)
        history = _history(run, members, styles)
        if history is not None:
            drawings[HISTORY] = history
        for name, figure in drawings.items():
            with replacing(run.plots_folder / name) as temporary:
                figure.savefig(temporary)
    for stale in {ROC, PRECISION_RECALL, HISTORY, *_existing_confusions(run)} - set(drawings):
        (run.plots_folder / stale).unlink(missing_ok=True)
    return [run.plots_folder / name for name in drawings]


def _existing_confusions(run: RunDir) -> list[str]:
    return [found.name for found in run.plots_folder.glob(confusion_file("*"))]


def _voters(run: RunDir, ensemble: Ensemble) -> dict[str, Predictions]:
    """Report predictions of the ensemble and of each member, the ensemble first."""
    members = {trial: read_predictions(run.trial(trial).predictions_file("report")) for trial in ensemble.members}
    return {NAME: read_predictions(run.ensemble_predictions_file(NAME, "report")), **members}


def short_name(name: str) -> str:
    """The name where it fits into the pictures, else its two ends."""
    return name if len(name) <= 52 else f"{name[:25]}…{name[-26:]}"


def line_styles(members: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The look of each line: members by colour and dashes, the ensemble black, thick and on top."""
    looks = zip(members, cycle(COLOURS), cycle(STYLES), strict=False)
    return {
        NAME: {"color": "black", "linestyle": "-", "linewidth": 2.6, "zorder": 5},
        **{trial: {"color": colour, "linestyle": dash, "linewidth": 1.5} for trial, colour, dash in looks},
    }


def _curves(
    voters: Mapping[str, Predictions],
    styles: Mapping[str, dict[str, Any]],
    draw: Callable[[Axes, str, Predictions, dict[str, Any]], None],
) -> Figure:
    """A square plot of one curve a voter, with a legend below that any number of long names fits into."""
    side, line, width = 4.6, 0.16, 5.6  # inches
    legend = line * (len(voters) + 1) + 0.15
    height = legend + side + 0.95
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.75 / width, (legend + 0.55) / height, side / width, side / height))
    for name, predictions in voters.items():
        draw(axes, name, predictions, styles[name])
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.legend(loc="lower center", fontsize=9, borderaxespad=0.4, labelspacing=0.25)
    return figure


def _draw_roc(axes: Axes, name: str, predictions: Predictions, style: dict[str, Any]) -> None:
    axes.set(
        title=f"ROC on the report part (n = {len(predictions)})",
        xlabel="Real images called fake (false positive rate)",
        ylabel="Fake images found (recall)",
    )
    auc = metric("auc", predictions)
    if auc is None:
        axes.plot([], [], label=f"{short_name(name)}  (AUC undefined)", **style)
        return
    false_positive_rate, recall, _ = sk.roc_curve(predictions.labels, predictions.p_fake)
    axes.plot(false_positive_rate, recall, label=f"{short_name(name)}  (AUC {auc:.4f})", **style)
    if name == NAME:
        axes.plot([0, 1], [0, 1], color="#777777", linestyle=":", linewidth=1, label="chance  (AUC 0.5)")


def _draw_precision_recall(axes: Axes, name: str, predictions: Predictions, style: dict[str, Any]) -> None:
    axes.set(
        title=f"Precision and recall on the report part (n = {len(predictions)})",
        xlabel="Fake images found (recall)",
        ylabel="Calls of fake that are right (precision)",
    )
    average = metric("average_precision", predictions)
    if average is None:
        axes.plot([], [], label=f"{short_name(name)}  (AP undefined)", **style)
        return
    precision, recall, _ = sk.precision_recall_curve(predictions.labels, predictions.p_fake)
    axes.plot(recall, precision, drawstyle="steps-post", label=f"{short_name(name)}  (AP {average:.4f})", **style)
    if name == NAME:
        share = float(predictions.labels.mean())
        axes.axhline(share, color="#777777", linestyle=":", linewidth=1, label=f"chance  (AP {share:.4f})")


def _confusion(name: str, predictions: Predictions, threshold: float) -> Figure:
    """Counts and their share of the row (of all images that truly are so), darker where the share is higher."""
    found = confusion(predictions, threshold)
    counts = np.array([[found.tn, found.fp], [found.fn, found.tp]])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    figure = Figure(figsize=(3.9, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        count, share = counts[row, column], shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row - 0.06, f"{count}", ha="center", va="center", fontsize=18, color=colour)
        percent = f"{share:.1%} of {CLASSES[row]}" if totals[row, 0] else f"no {CLASSES[row]} image"
        axes.text(column, row + 0.2, percent, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks([0, 1], labels=CLASSES)
    axes.set_yticks([0, 1], labels=CLASSES, rotation=90, va="center")
    axes.set(xlabel=f"Called (fake from p = {threshold:g})", ylabel="Truly")
    axes.set_title(short_name(name), fontsize=9.5, fontweight="bold" if name == NAME else "normal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _history(run: RunDir, members: Iterable[str], styles: Mapping[str, dict[str, Any]]) -> Figure | None:
    """The select metric of every trial, epoch by epoch; members in their colours, the others grey."""
    column = select_column(run.sweep())
    histories = {trial.id: trial.history() for trial in run.trials()}
    drawn = {trial: history for trial, history in histories.items() if column in history.columns and len(history)}
    if not drawn:
        return None
    ordered = [trial for trial in members if trial in drawn]
    others = [trial for trial in drawn if trial not in ordered]
    figure = Figure(figsize=(7.2, 3.6 + 0.2 * (len(ordered) + bool(others))), layout="constrained")
    axes = figure.subplots()
    grey: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 1.0, "zorder": 1}
    for number, trial in enumerate(others):
        label = "_" if number else f"{len(others)} not in the ensemble"
        history = drawn[trial]
        axes.plot(history["epoch"], history[column], marker="o", markersize=2.5, label=label, **grey)
    for trial in ordered:
        history = drawn[trial]
        axes.plot(history["epoch"], history[column], marker="o", markersize=4, label=short_name(trial), **styles[trial])
    axes.set(title="Training", xlabel="Epoch", ylabel=f"{column.removeprefix('select_')} on the select part")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", fontsize=9, labelspacing=0.25)
    return figure

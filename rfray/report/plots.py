"""Report predictions and training histories of a run -> plots/*.png: curves, scores, confusions, history."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rfray.evaluation.leaderboard import val_column
from rfray.report.curve_plots import precision_recall_curves, roc_curves
from rfray.report.plot_style import LOOK, PALE, save, shortened, voter_styles
from rfray.report.score_plots import confusion_matrix, reliability_diagram, score_histogram
from rfray.stats.curve_bands import curve_bands
from rfray.stats.operating_point import choose_threshold
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions
from rfray.store.ensemble_record import Ensemble, read_ensemble
from rfray.store.run_dir import RunDir

ROC, PRECISION_RECALL, HISTORY = "roc.png", "precision-recall.png", "history.png"
SCORES, RELIABILITY = "scores.png", "reliability.png"
"""File names below the run's plots folder."""


def confusion_file(name: str) -> str:
    """File name of the confusion matrix of a trial or ensemble."""
    return f"confusion-{name}.png"


def write_plots(run: RunDir) -> list[Path]:
    """Draws every picture that the run has data for and removes earlier ones that are no longer true.

    Returns the files written. Raises RunError where the ensemble or a member's test predictions are damaged.
    """
    ensemble = read_ensemble(run)
    with mpl.rc_context(LOOK):
        drawings = _of_voters(run, ensemble) if ensemble is not None else {}
        history = _history(run, ensemble)
        if history is not None:
            drawings[HISTORY] = history
        for name, figure in drawings.items():
            save(figure, run.plots_folder / name)
    own = {ROC, PRECISION_RECALL, SCORES, RELIABILITY, HISTORY, *_existing_confusions(run)}
    for stale in own - set(drawings):
        (run.plots_folder / stale).unlink(missing_ok=True)
    return [run.plots_folder / name for name in drawings]


def _existing_confusions(run: RunDir) -> list[str]:
    return [found.name for found in run.plots_folder.glob(confusion_file("*"))]


def _of_voters(run: RunDir, ensemble: Ensemble) -> dict[str, Figure]:
    """File name -> picture, of the ensemble and its members on test."""
    voters, styles = _voters(run, ensemble), voter_styles(ensemble.name, ensemble.members)
    vote = voters[ensemble.name]
    bands = curve_bands(vote)
    return {
        ROC: roc_curves(voters, styles, bands),
        PRECISION_RECALL: precision_recall_curves(voters, styles, bands),
        SCORES: score_histogram(ensemble.name, vote, ensemble.threshold, ensemble.unsure),
        RELIABILITY: reliability_diagram(ensemble.name, vote),
        **{
            confusion_file(name): confusion_matrix(
                name,
                predictions,
                ensemble.threshold if name == ensemble.name else _threshold(run, name),
                bold=name == ensemble.name,
            )
            for name, predictions in voters.items()
        },
    }


def _voters(run: RunDir, ensemble: Ensemble) -> dict[str, Predictions]:
    """Report predictions of the ensemble and of each member, the ensemble first."""
    members = {trial: trial_predictions(run.trial(trial), "test") for trial in ensemble.members}
    vote = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    return {ensemble.name: vote, **members}


def _threshold(run: RunDir, trial: str) -> float:
    """The trial's own, as on the leaderboard."""
    return choose_threshold(trial_predictions(run.trial(trial), "val"), run.sweep().ensemble.threshold)


def _history(run: RunDir, ensemble: Ensemble | None) -> Figure | None:
    """The val metric of every trial, epoch by epoch; members in their colours, the others grey."""
    column = val_column(run.sweep())
    histories = {trial.id: trial.history() for trial in run.trials()}
    drawn = {trial: history for trial, history in histories.items() if column in history.columns and len(history)}
    if not drawn:
        return None
    members = ensemble.members if ensemble is not None else []
    styles = voter_styles("", members)
    ordered = [trial for trial in members if trial in drawn]
    others = [trial for trial in drawn if trial not in ordered]
    figure = Figure(figsize=(7.2, 3.6 + 0.2 * (len(ordered) + bool(others))), layout="constrained")
    axes = figure.subplots()
    grey: dict[str, Any] = {"color": PALE, "linewidth": 1.0, "zorder": 1}
    for number, trial in enumerate(others):
        label = "_" if number else f"{len(others)} not in the ensemble"
        history = drawn[trial]
        axes.plot(history["epoch"], history[column], marker="o", markersize=2.5, label=label, **grey)
    for trial in ordered:
        history = drawn[trial]
        axes.plot(history["epoch"], history[column], marker="o", markersize=4, label=shortened(trial), **styles[trial])
    axes.set(
        title=f"Training (n = {len(drawn):,} trial{'' if len(drawn) == 1 else 's'})",
        xlabel="Epoch",
        ylabel=f"{column.removeprefix('val_')} on val",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", fontsize=9, labelspacing=0.25)
    return figure

"""a run's test predictions, leaderboard and training histories -> plots/*.png."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics as sk

from rfray.data.corruptions import FAMILIES
from rfray.data.listing import counted
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.leaderboard import read_leaderboard, val_column
from rfray.evaluation.left_out import best_left_out
from rfray.evaluation.several_tests import set_names
from rfray.report.left_out import LEFT_OUT, heat_map
from rfray.report.pictures import (
    COLOURS,
    GREY,
    PALE,
    Drawing,
    canvas,
    class_histogram,
    line_styles,
    shortened,
    styled,
    write_drawings,
)
from rfray.report.words import VOTERS_SHOWN, judged_images
from rfray.spec.sweep import CLASSES
from rfray.stats.clusters import groups_in, groups_of_images, share_intervals
from rfray.stats.intervals import RESAMPLES, Band, curve_bands
from rfray.stats.metrics import BINS, bins_of, calibration_error, confusion, metric, reliability
from rfray.stats.operating_point import choose_threshold
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions
from rfray.store.bundle_record import Ensemble
from rfray.store.run_dir import RunDir

CURVES = ("roc.png", "precision-recall.png", "scores.png", "reliability.png")
HISTORY, CORRUPTION, SEVERAL_TESTS = "history.png", "corruption.png", "test-sets.png"
"""File names below the run's plots folder."""

TEST_IMAGES = "the test images"
"""What plots call their images where nothing else is said."""
Styles = Mapping[str, dict[str, Any]]
"""Name of an ensemble or a trial -> the style of its line."""

BAND = f"pointwise 95 % interval (stratified bootstrap, {RESAMPLES:,} resamples)"
"""What the band around a curve is: at each place by itself, so that a whole curve lies within it less often."""

STRENGTH_TITLES = {
    "jpeg": "JPEG quality",
    "scale": "Scaled down to (%) and back",
    "blur": "Blur (standard deviation in pixels)",
    "noise": "Noise (standard deviation of 255)",
}
"""Kind of corruption -> what its strengths are."""


@dataclass(frozen=True)
class CurveKind:
    """What tells one kind of curve from another."""

    title: str
    area: str
    """Short name of the area under the curve, and its name among the metrics."""
    metric: str
    xlabel: str
    ylabel: str
    drawstyle: str
    points: Callable[[Predictions], tuple[np.ndarray, np.ndarray]]
    """The curve's x and y, each (k,) float64."""
    chance: Callable[[float], tuple[float, float]]
    """Share of fakes -> where the line of a coin toss begins and ends on the y axis."""


ROC = CurveKind(
    title="ROC",
    area="AUC",
    metric="auc",
    xlabel="Real images called fake (false positive rate)",
    ylabel="Fake images found (recall)",
    drawstyle="default",
    points=lambda predictions: sk.roc_curve(predictions.labels, predictions.p_fake)[:2],
    chance=lambda _: (0.0, 1.0),
)
PRECISION_RECALL = CurveKind(
    title="Precision and recall",
    area="AP",
    metric="average_precision",
    xlabel="Fake images found (recall)",
    ylabel="Calls of fake that are right (precision)",
    drawstyle="steps-post",
    points=lambda predictions: sk.precision_recall_curve(predictions.labels, predictions.p_fake)[1::-1],
    chance=lambda share: (share, share),
)


def confusion_file(name: str) -> str:
    """File name of the confusion matrix of a trial or ensemble."""
    return f"confusion-{name}.png"


@styled
def write_plots(run: RunDir) -> list[Path]:
    """Draws every plot that the run has data for and removes earlier ones that are no longer true.

    Returns the files written. Raises RunError where the leaderboard, the ensemble or predictions are damaged.
    """
    ensemble = run.ensemble()
    drawings = _history(run, ensemble.members if ensemble is not None else [])
    if ensemble is not None:
        drawings |= _of_ensemble(run, ensemble)
    if (best := best_left_out(run)) is not None and best.found.pairs:
        drawings[LEFT_OUT] = heat_map(best.found, best.backbone)
    confusions = [found.name for found in run.plots_folder.glob(confusion_file("*"))]
    own = (*CURVES, HISTORY, CORRUPTION, LEFT_OUT, SEVERAL_TESTS, *confusions)
    return write_drawings(run.plots_folder, drawings, own)


def _of_ensemble(run: RunDir, ensemble: Ensemble) -> dict[str, Drawing]:
    """File name -> drawing of the ensemble and its members on the test images."""
    vote = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    voters = {ensemble.name: vote}
    voters |= {trial: trial_predictions(run.trial(trial), "test") for trial in ensemble.members}
    styles = line_styles(ensemble.name, ensemble.members)
    groups = groups_of_images(vote.ids, groups_in(run, "test"))
    roc, precision_recall = curve_bands(vote, groups) or (None, None)
    shown = (
        curves(ROC, voters, styles, roc),
        curves(PRECISION_RECALL, voters, styles, precision_recall),
        score_histogram(ensemble, vote),
        reliability_diagram(ensemble.name, vote, groups=groups),
    )
    drawings = dict(zip(CURVES, shown, strict=True))
    rule = run.sweep().ensemble.threshold
    for name, predictions in voters.items():
        own = name == ensemble.name
        # a member's own threshold, as on the leaderboard
        threshold = ensemble.threshold if own else choose_threshold(trial_predictions(run.trial(name), "val"), rule)
        drawings[confusion_file(name)] = confusion_matrix(name, predictions, threshold, bold=own)
    frame = read_leaderboard(run)
    if TEST_COLUMNS[0] in frame:
        drawings[CORRUPTION] = corruption_curves(frame.set_index("name"), styles)
    if sets := set_names(frame):
        drawings[SEVERAL_TESTS] = aucs_by_set(frame.set_index("name"), sets, dict(islice(styles.items(), VOTERS_SHOWN)))
    return drawings


def _history(run: RunDir, members: list[str]) -> dict[str, Drawing]:
    """The val metric of every trial, epoch by epoch; members in their colours, the others grey."""
    column = val_column(run.sweep())
    found = {trial.id: trial.history() for trial in run.trials()}
    drawn = {trial: history for trial, history in found.items() if column in history.columns and len(history)}
    if not drawn:
        return {}
    styles = line_styles("", members)
    ordered = [trial for trial in members if trial in drawn]
    others = [trial for trial in drawn if trial not in ordered]
    figure, axes = canvas(7.2, 3.6 + 0.2 * (len(ordered) + bool(others)))
    for number, trial in enumerate(others):
        label = "_" if number else f"{len(others)} not in the ensemble"
        grey: dict[str, Any] = {"color": PALE, "linewidth": 1.0, "zorder": 1, "label": label}
        axes.plot(drawn[trial]["epoch"], drawn[trial][column], marker="o", markersize=2.5, **grey)
    for trial in ordered:
        style = {"markersize": 4, "label": shortened(trial), **styles[trial]}
        axes.plot(drawn[trial]["epoch"], drawn[trial][column], marker="o", **style)
    title = f"Training (n = {counted(len(drawn), 'trial')})"
    axes.set(title=title, xlabel="Epoch", ylabel=f"{column.removeprefix('val_')} on {judged_images(run.sweep())}")
    last = max(int(history["epoch"].max()) for history in drawn.values())
    axes.set_xlim(min(1 - 0.03 * last, 0.8), max(1.03 * last, last + 0.2))  # of one epoch, too, no other marks than 1
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center", fontsize=9, labelspacing=0.25)
    return {HISTORY: (figure, f"{column} of every trial, epoch by epoch")}


def curves(
    kind: CurveKind, voters: Mapping[str, Predictions], styles: Styles, band: Band | None, images: str = TEST_IMAGES
) -> Drawing:
    """One curve for each of `voters`, in a square, and a legend below with room for long names.

    `band` belongs to the first of them; None where it has no curve, as there are images of one class only, or is not
    computed. `images` is what the title calls them.
    """
    side, line, width = 4.6, 0.16, 5.6  # inches
    legend = line * (len(voters) + 2) + 0.15
    height = legend + side + 1.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.75 / width, (legend + 0.55) / height, side / width, side / height))
    first, vote = next(iter(voters.items()))
    title = f"{kind.title} on {images}\n{_class_counts(vote)}"
    axes.set(title=title, xlabel=kind.xlabel, ylabel=kind.ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    areas = {name: metric(kind.metric, predictions) for name, predictions in voters.items()}
    for name, predictions in voters.items():
        points: tuple[Any, Any] = kind.points(predictions) if areas[name] is not None else ([], [])
        label = f"{shortened(name)}  ({kind.area} {_number(areas[name])})"
        axes.plot(*points, drawstyle=kind.drawstyle, label=label, **styles[name])
        if name == first and areas[name] is not None:
            ends = kind.chance(float(vote.labels.mean()))
            label = f"chance  ({kind.area} {sum(ends) / 2:.4g})"
            axes.plot([0, 1], ends, color=GREY, linestyle=":", linewidth=1, label=label)
    if areas[first] is None:
        axes.text(0.5, 0.5, "no curve: it takes images of both classes", ha="center")
    elif band is not None:
        shade: dict[str, Any] = {"color": "black", "alpha": 0.13, "linewidth": 0, "zorder": 1}
        axes.fill_between(band.at, band.low, band.high, label=f"{shortened(first, 20)}: {BAND}", **shade)
    figure.legend(loc="lower center", fontsize=9, borderaxespad=0.4, labelspacing=0.25)
    listed = ", ".join(f"{name} {kind.area} {_number(area)}" for name, area in areas.items())
    around = f". Band around the first: {BAND}" if band is not None else ""
    return figure, f"{kind.title} curves on {images}: {listed}{around}"


def score_histogram(ensemble: Ensemble, vote: Predictions, images: str = TEST_IMAGES) -> Drawing:
    """How p_fake is spread in each class, in % of the class, with the threshold and the band without a verdict."""
    figure, axes = canvas(5.6, 4.4)
    class_histogram(axes, vote.labels, vote.p_fake, np.linspace(0, 1, 41))
    name, threshold, unsure = ensemble.name, ensemble.threshold, ensemble.unsure
    meaning = f"called fake from {threshold:.3g} on" if unsure is None else f"threshold {threshold:.3g}"
    axes.axvline(threshold, color="black", linewidth=1.3, linestyle=":", label=meaning)
    if unsure is not None:
        shown = f"no verdict: {unsure[0]:.3g} to {unsure[1]:.3g}"
        axes.axvspan(*unsure, color=PALE, alpha=0.35, linewidth=0, label=shown, zorder=0)
    title = f"Scores of {shortened(name, 30)} on {images}"
    axes.set(title=title, xlabel="Probability of fake", xlim=(-0.01, 1.01))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    scores = {CLASSES[label]: vote.p_fake[vote.labels == label] for label in np.unique(vote.labels)}
    medians = (f"median {np.median(some):.2f} of the {len(some):,} {one} images" for one, some in scores.items())
    return figure, (
        f"Histogram of {name}'s probability of fake on {images}, real and fake images apart, with the threshold "
        f"{threshold:.3g} from which on an image is called fake: {', '.join(medians)}"
    )


def reliability_diagram(
    name: str, predictions: Predictions, images: str = TEST_IMAGES, groups: np.ndarray | None = None
) -> Drawing:
    """The share of fakes against the probability that was given to them, with 95 % intervals; counts below.

    The intervals are Wilson's, with `groups` (n,) int of the effective number of images.
    """
    found = reliability(predictions)
    inside = bins_of(predictions) == np.flatnonzero(found[0])[:, None]
    counts, fakes, given = (each[found[0] > 0] for each in found)
    shares = fakes / counts
    ends = share_intervals(inside & (predictions.labels == 1), inside, groups).T
    reach = np.maximum([shares - ends[0], ends[1] - shares], 0)
    figure, (axes, below) = canvas(5.6, 6.0, 2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="perfect calibration")
    marks: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.2, "elinewidth": 1, "capsize": 2.5}
    method = "Wilson" if groups is None else "Wilson, of groups of images"
    label = f"{shortened(name, 30)}, {BINS} bins (95 % intervals: {method})"
    axes.errorbar(given, shares, yerr=reach, color=COLOURS[0], label=label, **marks)
    error = _number(calibration_error(predictions))
    title = f"Reliability on {images}\n{_class_counts(predictions)}; expected calibration error {error}"
    axes.set(title=title, ylabel="Share of them that is fake", ylim=(-0.02, 1.02))
    figure.legend(loc="outside lower center", fontsize=9)
    edges = np.linspace(0, 1, BINS + 1)
    below.stairs(found[0], edges, fill=True, color=PALE)
    below.stairs(found[0], edges, color=GREY, linewidth=0.8)
    below.set(xlabel="Probability of fake that was given to the images", ylabel="Images", xlim=(-0.01, 1.01))
    below.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.align_ylabels([axes, below])
    bins = (f"{mean:.2f} given, {share:.2f} fake of {n}" for mean, share, n in zip(given, shares, counts, strict=True))
    return figure, (
        f"Reliability diagram of {name} on {images}: share of fakes against the probability of fake that was "
        f"given, in {BINS} bins with 95 % intervals ({method}). Expected calibration error {error}. {'; '.join(bins)}"
    )


def confusion_matrix(name: str, predictions: Predictions, threshold: float, *, bold: bool) -> Drawing:
    """Counts and their share of the row (of all images that truly are so), darker where the share is higher."""
    found = confusion(predictions, threshold)
    counts = np.array([[found.tn, found.fp], [found.fn, found.tp]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = canvas(3.9, 3.7)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share, true = shares[row, column], CLASSES[row]
        middle: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if share > 0.5 else "black"}
        axes.text(column, row - 0.06, f"{count:,}", fontsize=18, **middle)
        percent = f"{100 * share:.1f} % of {true}" if counts[row].any() else f"no {true} image"
        axes.text(column, row + 0.2, percent, fontsize=9, **middle)
    axes.set_xticks([0, 1], labels=CLASSES)
    axes.set_yticks([0, 1], labels=CLASSES, rotation=90, va="center")
    axes.set(xlabel=f"Called (fake from p = {threshold:.3g})", ylabel=f"Truly (n = {len(predictions):,})")
    axes.set_title(shortened(name, 36), fontsize=9.5, fontweight="bold" if bold else "normal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure, (
        f"Confusion matrix of {name}: of the real images {found.tn} called real and {found.fp} called fake, "
        f"of the fake images {found.fn} called real and {found.tp} called fake"
    )


def corruption_curves(rows: pd.DataFrame, styles: Styles, images: str = TEST_IMAGES) -> Drawing:
    """AUC against the strength of each kind of corruption, one line a model; `rows` is the leaderboard by name."""
    figure, panels = canvas(7.2, 5.6 + 0.2 * len(styles), 2, 2, sharey=True)
    for axes, (family, strengths) in zip(panels.flat, FAMILIES.items(), strict=True):
        columns = ["auc", *(f"auc_{family}_{strength}" for strength in strengths)]
        for name, style in styles.items():
            label = shortened(name) if axes is figure.axes[0] else None  # one legend for all panels
            axes.plot(rows.loc[name, columns].to_numpy(float), marker="o", markersize=3.5, label=label, **style)
        axes.set_xticks(range(len(columns)), labels=["as it is", *map(str, strengths)])
        axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
        axes.set(title=STRENGTH_TITLES[family], ylabel="AUC")
        axes.label_outer()
        axes.tick_params(labelbottom=True)  # the panels have different strengths
    figure.legend(loc="outside lower center", fontsize=9, labelspacing=0.25)
    aucs = {name: rows.loc[name, ["auc", TEST_COLUMNS[-1]]].map(_number) for name in styles}
    worst = (f"{name} {plain}, at worst {least}" for name, (plain, least) in aucs.items())
    return figure, f"AUC on {images} as they are and under JPEG, scaling, blur and noise: {'; '.join(worst)}"


def aucs_by_set(rows: pd.DataFrame, sets: Sequence[str], styles: Styles) -> Drawing:
    """AUC with its 95 % interval on each of several test sets, models side by side; `rows`: the leaderboard by name."""
    figure, axes = canvas(7.2, 1.4 + len(sets) * (0.3 + 0.16 * len(styles)) + 0.2 * len(styles))
    for number, (name, style) in enumerate(styles.items()):
        columns = [[f"auc_{one}", f"auc_{one}_low", f"auc_{one}_high"] for one in sets]
        found = np.array([rows.loc[name, each].to_numpy(float) for each in columns])
        at = np.arange(len(sets)) + 0.8 * (number - (len(styles) - 1) / 2) / max(len(styles), 2)
        known = ~np.isnan(found[:, 0])
        auc, low, high = found[known].T
        reach = np.nan_to_num(np.clip([auc - low, high - auc], 0, None))
        marks: dict[str, Any] = {"fmt": "o", "markersize": 5 if number == 0 else 3.5, "capsize": 2.5, "elinewidth": 1.2}
        colour, label = style["color"], shortened(name)
        axes.errorbar(auc, at[known], xerr=reach, color=colour, label=label, zorder=style.get("zorder", 2), **marks)
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2, label="chance")
    axes.set_yticks(range(len(sets)), labels=[shortened(one, 24) for one in sets])
    axes.set(title="AUC on each test set (95 % intervals)", xlabel="AUC", ylim=(len(sets) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", fontsize=9, labelspacing=0.25)
    first = next(iter(styles))
    aucs = rows.loc[first, [f"auc_{one}" for one in sets]].map(_number)
    listed = ", ".join(map(" ".join, zip(sets, aucs, strict=True)))
    return figure, f"AUC with its 95 % interval on each test set, of the ensemble and its members. {first}: {listed}"


def _class_counts(predictions: Predictions) -> str:
    real, fake = np.bincount(predictions.labels, minlength=2)
    return f"n = {real:,} real, {fake:,} fake"


def _number(value: float | None) -> str:
    return "undefined" if pd.isna(value) else f"{value:.4f}"

"""Report predictions of one voter -> its scores by class, how far they can be taken at their word, its confusions."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rfray.report.plot_style import CLASS_COLOURS, COLOURS, GREY, PALE, images_of, shortened
from rfray.spec.sweep import CLASSES
from rfray.stats.intervals import wilson
from rfray.stats.metrics import confusion
from rfray.stats.predictions import Predictions
from rfray.stats.reliability import BINS, reliability

SCORE_BINS = 40


def score_histogram(
    name: str, predictions: Predictions, threshold: float, unsure: tuple[float, float] | None
) -> Figure:
    """How p_fake is spread in each class, in % of the class, with the threshold and the band without a verdict."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    for label, class_name in enumerate(CLASSES):
        scores = predictions.p_fake[predictions.labels == label]
        shares = 100 * np.histogram(scores, edges)[0] / max(len(scores), 1)
        colour, dash = CLASS_COLOURS[label], "-" if label else "--"
        axes.stairs(shares, edges, fill=True, alpha=0.2, color=colour)
        axes.stairs(
            shares, edges, color=colour, linewidth=1.7, linestyle=dash, label=f"{class_name} (n = {len(scores):,})"
        )
    axes.axvline(threshold, color="black", linewidth=1.3, linestyle=":", label=f"called fake from {threshold:.3g} on")
    if unsure is not None:
        shown = f"no verdict: {unsure[0]:.3g} to {unsure[1]:.3g}"
        axes.axvspan(*unsure, color=PALE, alpha=0.35, linewidth=0, label=shown, zorder=0)
    axes.set(
        title=f"Scores of {shortened(name, 30)} on test",
        xlabel="Probability of fake",
        ylabel="Images of the class (%)",
        xlim=(-0.01, 1.01),
    )
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def score_histogram_alt(name: str, predictions: Predictions, threshold: float) -> str:
    """What it shows, for those who don't see it."""
    middles = [
        f"median {np.median(scores):.2f} of the {len(scores):,} {class_name} images"
        for label, class_name in enumerate(CLASSES)
        if len(scores := predictions.p_fake[predictions.labels == label])
    ]
    return (
        f"Histogram of {name}'s probability of fake on test, real and fake images apart, with the threshold "
        f"{threshold:.3g} from which on an image is called fake: {', '.join(middles)}"
    )


def reliability_diagram(name: str, predictions: Predictions) -> Figure:
    """The share of fakes against the probability that was given to them, with Wilson's 95 % intervals; counts below."""
    found = reliability(predictions)
    there = found.counts > 0
    shares = found.fakes[there] / found.counts[there]
    intervals = [wilson(int(fakes), int(n)) for fakes, n in zip(found.fakes[there], found.counts[there], strict=True)]
    reach = np.abs(np.array([[interval.low, interval.high] for interval in intervals]).reshape(-1, 2).T - shares)
    figure = Figure(figsize=(5.6, 6.0), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="as it should be")
    axes.errorbar(
        found.mean_p[there],
        shares,
        yerr=reach,
        color=COLOURS[0],
        marker="o",
        markersize=4.5,
        linewidth=1.2,
        elinewidth=1,
        capsize=2.5,
        label=f"{shortened(name, 30)}, {BINS} bins (95 % intervals: Wilson)",
    )
    error = "undefined" if found.error is None else f"{found.error:.4f}"
    axes.set(
        title=f"Reliability on test\n{images_of(predictions)}; expected calibration error {error}",
        ylabel="Share of them that is fake",
        ylim=(-0.02, 1.02),
    )
    figure.legend(loc="outside lower center", fontsize=9)
    below.stairs(found.counts, found.edges, fill=True, color=PALE)
    below.stairs(found.counts, found.edges, color=GREY, linewidth=0.8)
    below.set(xlabel="Probability of fake that was given to the images", ylabel="Images", xlim=(-0.01, 1.01))
    below.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.align_ylabels([axes, below])
    return figure


def reliability_alt(name: str, predictions: Predictions) -> str:
    """What it shows, for those who don't see it."""
    found = reliability(predictions)
    bins = [
        f"{mean_p:.2f} given, {fakes / n:.2f} fake of {n}"
        for mean_p, fakes, n in zip(found.mean_p, found.fakes, found.counts, strict=True)
        if n
    ]
    error = "undefined" if found.error is None else f"{found.error:.4f}"
    return (
        f"Reliability diagram of {name} on test: share of fakes against the probability of fake that was "
        f"given, in {BINS} bins with 95 % intervals (Wilson). Expected calibration error {error}. {'; '.join(bins)}"
    )


def confusion_matrix(name: str, predictions: Predictions, threshold: float, *, bold: bool) -> Figure:
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
        axes.text(column, row - 0.06, f"{count:,}", ha="center", va="center", fontsize=18, color=colour)
        percent = f"{100 * share:.1f} % of {CLASSES[row]}" if totals[row, 0] else f"no {CLASSES[row]} image"
        axes.text(column, row + 0.2, percent, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks([0, 1], labels=CLASSES)
    axes.set_yticks([0, 1], labels=CLASSES, rotation=90, va="center")
    axes.set(xlabel=f"Called (fake from p = {threshold:.3g})", ylabel=f"Truly (n = {len(predictions):,})")
    axes.set_title(shortened(name, 36), fontsize=9.5, fontweight="bold" if bold else "normal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure

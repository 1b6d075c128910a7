"""Report predictions of an ensemble and its members -> their ROC and precision-recall curves.

The band around the ensemble's curve is the 95 % interval at each place by itself, as `rfray.stats.curve_bands`
works it out; a whole curve lies within it less often.
"""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sk

from rfray.report.plot_style import GREY, images_of, shortened
from rfray.stats.curve_bands import RESAMPLES, Band, CurveBands
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions

BAND = f"pointwise 95 % interval (stratified bootstrap, {RESAMPLES:,} resamples)"
"""What the band around a curve is."""


def roc_curves(
    voters: Mapping[str, Predictions], styles: Mapping[str, dict[str, Any]], bands: CurveBands | None
) -> Figure:
    """One curve a voter; `bands` are the first one's, None where it has no curve."""
    return _curves(voters, styles, _draw_roc, bands.roc if bands is not None else None)


def precision_recall_curves(
    voters: Mapping[str, Predictions], styles: Mapping[str, dict[str, Any]], bands: CurveBands | None
) -> Figure:
    """One curve a voter; `bands` are the first one's, None where it has no curve."""
    return _curves(voters, styles, _draw_precision_recall, bands.precision_recall if bands is not None else None)


def _curves(
    voters: Mapping[str, Predictions],
    styles: Mapping[str, dict[str, Any]],
    draw: Callable[[Axes, str, Predictions, dict[str, Any]], None],
    band: Band | None,
) -> Figure:
    """A square plot of one curve a voter, with a legend below that any number of long names fits into."""
    side, line, width = 4.6, 0.16, 5.6  # inches
    legend = line * (len(voters) + 2) + 0.15
    height = legend + side + 1.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.75 / width, (legend + 0.55) / height, side / width, side / height))
    for name, predictions in voters.items():
        draw(axes, name, predictions, styles[name])
        if band is not None and name == next(iter(voters)):
            axes.fill_between(
                band.at, band.low, band.high, color="black", alpha=0.13, linewidth=0, label=f"its {BAND}", zorder=1
            )
    if band is None:
        axes.text(0.5, 0.5, "no curve: it takes images of both classes", ha="center")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.legend(loc="lower center", fontsize=9, borderaxespad=0.4, labelspacing=0.25)
    return figure


def _draw_roc(axes: Axes, name: str, predictions: Predictions, style: dict[str, Any]) -> None:
    axes.set(
        title=f"ROC on test\n{images_of(predictions)}",
        xlabel="Real images called fake (false positive rate)",
        ylabel="Fake images found (recall)",
    )
    auc = metric("auc", predictions)
    if auc is None:
        axes.plot([], [], label=f"{shortened(name)}  (AUC undefined)", **style)
        return
    false_positive_rate, recall, _ = sk.roc_curve(predictions.labels, predictions.p_fake)
    axes.plot(false_positive_rate, recall, label=f"{shortened(name)}  (AUC {auc:.4f})", **style)
    if len(axes.lines) == 1:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance  (AUC 0.5)")


def _draw_precision_recall(axes: Axes, name: str, predictions: Predictions, style: dict[str, Any]) -> None:
    axes.set(
        title=f"Precision and recall on test\n{images_of(predictions)}",
        xlabel="Fake images found (recall)",
        ylabel="Calls of fake that are right (precision)",
    )
    average = metric("average_precision", predictions)
    if average is None:
        axes.plot([], [], label=f"{shortened(name)}  (AP undefined)", **style)
        return
    precision, recall, _ = sk.precision_recall_curve(predictions.labels, predictions.p_fake)
    axes.plot(recall, precision, drawstyle="steps-post", label=f"{shortened(name)}  (AP {average:.4f})", **style)
    if len(axes.lines) == 1:
        share = float(predictions.labels.mean())
        axes.axhline(share, color=GREY, linestyle=":", linewidth=1, label=f"chance  (AP {share:.4f})")

"""What all plots have in common: colours, one line style for each model, how long names are cut."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

from rfray.spec.sweep import CLASSES
from rfray.stats.predictions import Predictions

COLOURS = ("#332288", "#44AA99", "#CC6677", "#DDAA33", "#88CCEE", "#117733", "#AA4499", "#999933")
"""Paul Tol's "muted" scheme (SRON technical note, 2021): told apart with every kind of colour vision."""

CLASS_COLOURS = (COLOURS[0], COLOURS[2])
"""Of real and of fake: indigo and rose also differ in lightness."""

GREY, PALE = "#777777", "#bbbbbb"
"""Of references (chance, a threshold), and of what stands in the background."""

DASHES = ("-", "--", "-.")
"""Line styles; eight colours and three dashes give 24 members a line of their own."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are, also with a `$`
}
"""matplotlib's settings for every plot."""


def line_styles(ensemble: str, members: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> line style: members by colour and dashes, the ensemble black, thick and on top."""
    own = zip(members, cycle(COLOURS), cycle(DASHES), strict=False)
    return {
        ensemble: {"color": "black", "linestyle": "-", "linewidth": 2.6, "zorder": 5},
        **{trial: {"color": colour, "linestyle": dash, "linewidth": 1.5} for trial, colour, dash in own},
    }


def shortened(name: str, most: int = 52) -> str:
    """The name where it has at most `most` characters, else its two ends."""
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def class_counts(predictions: Predictions) -> str:
    """How many images of each class there are, as text."""
    real, fake = (int((predictions.labels == label).sum()) for label in range(len(CLASSES)))
    return f"n = {real:,} real, {fake:,} fake"

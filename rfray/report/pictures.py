"""What all pictures share: colours, line styles, class histograms, and the description that a file carries.

The description (alt text) travels in the file itself, so that nobody has to work it out a second time.
"""

import base64
from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rfray.spec.sweep import CLASSES
from rfray.store.files import replacing

COLOURS = ("#332288", "#44AA99", "#CC6677", "#DDAA33", "#88CCEE", "#117733", "#AA4499", "#999933")
"""Paul Tol's "muted" scheme (SRON technical note, 2021): told apart with every kind of colour vision."""
GREY, PALE = "#777777", "#bbbbbb"
"""Of references (chance, a threshold), and of what stands in the background."""
CLASS_LINES: tuple[dict[str, Any], ...] = ({"color": COLOURS[0], "linestyle": "--"}, {"color": COLOURS[2]})
"""Of real and of fake: indigo and rose also differ in lightness."""

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
styled = mpl.rc_context(STYLE)
"""Decorator of what draws with them."""

Drawing = tuple[Figure, str]
"""A figure, and what it shows in words, for people who can't see it."""


def canvas(width: float, height: float, *grid: int, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: an array where `grid` says how many rows and columns, else one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(*grid, **options)


def line_styles(ensemble: str, members: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> line style: members by colour and dashes, the ensemble black, thick and on top."""
    # eight colours and three dashes give 24 members a line of their own
    own = zip(members, cycle(COLOURS), cycle(("-", "--", "-.")), strict=False)
    return {
        ensemble: {"color": "black", "linestyle": "-", "linewidth": 2.6, "zorder": 5},
        **{trial: {"color": colour, "linestyle": dash, "linewidth": 1.5} for trial, colour, dash in own},
    }


def shortened(name: str, most: int = 52) -> str:
    """The name where it has at most `most` characters, else its two ends."""
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def class_histogram(axes: Axes, labels: np.ndarray, values: np.ndarray, edges: np.ndarray) -> None:
    """How the values (n,) are spread in each class, in % of the class."""
    for label, name in enumerate(CLASSES):
        some = values[labels == label]
        shares = 100 * np.histogram(some, edges)[0] / max(len(some), 1)
        axes.stairs(shares, edges, fill=True, alpha=0.2, color=CLASS_LINES[label]["color"])
        axes.stairs(shares, edges, linewidth=1.7, label=f"{name} (n = {len(some):,})", **CLASS_LINES[label])
    axes.set_ylabel("Images of the class (%)")


def plain_numbers(axis: Axis, *marks: int) -> None:
    """Marks a logarithmic axis at these multiples of powers of ten; the usual marks are formulas, which STYLE bars."""
    axis.set_major_locator(LogLocator(subs=marks))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def write_drawings(folder: Path, drawings: Mapping[str, Drawing], own: Iterable[str], colours: int = 256) -> list[Path]:
    """Saves the drawings (file name -> drawing) and removes files named in `own` that are not among them.

    Returns the files that were written.
    """
    for name, (figure, alt) in drawings.items():
        save(figure, folder / name, alt, colours)
    for stale in set(own) - set(drawings):
        (folder / stale).unlink(missing_ok=True)
    return [folder / name for name in drawings]


def save(figure: Figure, path: Path, alt: str = "", colours: int = 256) -> None:
    """Writes the figure with its description: a .jpg, or a PNG of so many colours (0: all of them).

    Nobody sees that 256 colours are not all, and the file is a third as large.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="raw", dpi="figure")
    picture = Image.frombuffer("RGBA", figure.canvas.get_width_height(), drawn.getvalue()).convert("RGB")
    described = PngInfo()
    described.add_itxt("Description", alt)
    with replacing(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, comment=alt.encode())
            return
        if colours:
            picture = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        picture.save(temporary, optimize=True, pnginfo=described)


def description(path: Path) -> str:
    """What a picture shows, as `save` has written it into the file."""
    with Image.open(path) as picture:
        return str(picture.info["comment"].decode() if path.suffix == ".jpg" else picture.info["Description"])


def embedded(path: Path) -> str:
    """A picture's file as a `data:` address."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

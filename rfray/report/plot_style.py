"""What all pictures have in common: colours that everybody can tell apart, each voter's look, how names are cut."""

from collections.abc import Iterable
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from rfray.spec.sweep import CLASSES
from rfray.stats.predictions import Predictions
from rfray.store.files import replacing

COLOURS = ("#332288", "#44AA99", "#CC6677", "#DDAA33", "#88CCEE", "#117733", "#AA4499", "#999933")
"""Paul Tol's muted colours: told apart with every kind of colour vision."""

CLASS_COLOURS = (COLOURS[0], COLOURS[2])
"""Of real and of fake: indigo and rose differ in lightness too."""

GREY, PALE = "#777777", "#bbbbbb"
"""Of what a picture is held against (chance, a threshold), and of what stands in the background."""

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
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are, also with a `$`
}
"""matplotlib settings of every picture."""


def voter_styles(ensemble: str, members: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The look of each line: members by colour and dashes, the ensemble black, thick and on top."""
    looks = zip(members, cycle(COLOURS), cycle(STYLES), strict=False)
    return {
        ensemble: {"color": "black", "linestyle": "-", "linewidth": 2.6, "zorder": 5},
        **{trial: {"color": colour, "linestyle": dash, "linewidth": 1.5} for trial, colour, dash in looks},
    }


def shortened(name: str, most: int = 52) -> str:
    """The name where it has at most `most` characters, else its two ends."""
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def images_of(predictions: Predictions) -> str:
    """How many images of each class a picture speaks of."""
    real, fake = (int((predictions.labels == label).sum()) for label in range(len(CLASSES)))
    return f"n = {real:,} real, {fake:,} fake"


def save(figure: Figure, path: Path, colours: int = 256) -> None:
    """Writes the picture as PNG of so many colours: nobody sees that, and it takes a third of the room."""
    drawn = BytesIO()
    figure.savefig(drawn, format="raw", dpi="figure")
    picture = Image.frombuffer("RGBA", figure.canvas.get_width_height(), drawn.getvalue()).convert("RGB")
    with replacing(path) as temporary:
        picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(temporary, optimize=True)

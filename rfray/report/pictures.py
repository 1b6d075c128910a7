"""a matplotlib figure and its description -> a picture file; a picture file -> the picture inside a page.

The description (alt text) travels in the file itself, so that nobody has to work it out a second time.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rfray.store.files import replacing

Drawing = tuple[Figure, str]
"""A figure, and what it shows in words, for people who can't see it."""


@dataclass(frozen=True)
class Picture:
    """One picture inside a page."""

    data: str
    """The file as a `data:` address."""
    alt: str
    """What the picture shows."""


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
    description = PngInfo()
    description.add_itxt("Description", alt)
    with replacing(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, comment=alt.encode())
            return
        if colours:
            picture = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        picture.save(temporary, optimize=True, pnginfo=description)


def picture_of(path: Path, alt: str | None = None) -> Picture | None:
    """The picture for a page, or None where there is no such file; by default with the description that it carries."""
    if not path.exists():
        return None
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    if alt is None:
        with Image.open(path) as picture:
            alt = picture.info["comment"].decode() if kind == "jpeg" else str(picture.info["Description"])
    return Picture(f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", alt)


def pictures_of(folder: Path, names: Iterable[str]) -> list[Picture]:
    """Those of the pictures that are there."""
    found = (picture_of(folder / name) for name in names)
    return [picture for picture in found if picture is not None]

"""a picture's file -> the picture inside the page."""

import base64
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """One picture of the page, inside it."""

    data: str
    """The file as a data: address."""
    alt: str
    """What the picture says, for those who don't see it."""


def picture_of(path: Path, alt: str) -> Picture | None:
    """The picture as data for the page, or None where there is no such file."""
    if not path.exists():
        return None
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", alt)

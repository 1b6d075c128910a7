"""label issues + the training images -> plots/labels-*.png: a contact sheet a class of the labels least believed."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rfray.data.catalog import picture_files
from rfray.data.decoding import square
from rfray.evaluation.label_issues import LabelIssues
from rfray.report.pictures import Drawing, shortened, styled, write_drawings
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.run_dir import RunDir

LABEL_SHEETS = tuple(f"labels-{name}.png" for name in CLASSES)
"""File names below the run's plots folder."""
ACROSS, DOWN, TILE, GAP, TEXT, MARGIN, HEAD = 6, 4, 168, 10, 34, 12, 52
"""Images across and down (a screen of them), side of one, space between two, room for the words below each, margin and
room for the title, in pixels."""
LONGEST, SHORTEST = 27, 8
"""Characters of a path below an image, as many as there is room for."""


@styled
def draw_label_issues(run: RunDir, sweep: Sweep, issues: LabelIssues | None) -> list[Path]:
    """Draws a sheet of each class that has labels which look wrong, and removes others. Returns the files written.

    Raises DataError where the images are not there, or not what they were, StorageError.
    """
    drawings = {}
    for label, name in enumerate(CLASSES) if issues is not None else ():
        assert issues is not None
        if len(chosen := issues.table[issues.table["label"] == label]):
            drawings[LABEL_SHEETS[label]] = _sheet(name, chosen, _pictures(run, sweep, chosen.head(ACROSS * DOWN)))
    return write_drawings(run.plots_folder, drawings, LABEL_SHEETS, colours=0)


def _pictures(run: RunDir, sweep: Sweep, chosen: pd.DataFrame) -> list[np.ndarray]:
    """The pictures of some images, (TILE, TILE, 3) uint8 each, in their order."""
    catalog = run.catalog().set_index(["folder", "path"], drop=False)
    found = []
    for folder, path in zip(chosen["folder"], chosen["path"], strict=True):
        files = picture_files(catalog.loc[[(folder, path)]], sweep.data, None)
        found.append(square(files.picture(0), TILE))
    return found


def _sheet(name: str, chosen: pd.DataFrame, pictures: list[np.ndarray]) -> Drawing:
    """The first of the labels that look wrong, the least believed first."""
    rows = -(-len(pictures) // ACROSS)
    step, line = TILE + GAP, TILE + GAP + TEXT
    width, height = ACROSS * step - GAP + 2 * MARGIN, rows * line + HEAD + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    places = [(MARGIN + step * (one % ACROSS), HEAD + line * (one // ACROSS)) for one in range(len(pictures))]
    for place, picture in zip(places, pictures, strict=True):
        sheet.paste(Image.fromarray(picture), place)
    dots = float(mpl.rcParams["savefig.dpi"])
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots)
    figure.figimage(np.asarray(sheet), origin="upper")
    shown = f"all {len(chosen):,}" if len(chosen) == len(pictures) else f"{len(pictures)} of {len(chosen):,}"
    title = f"Labelled {name}, and not believed: {shown}, the least believed first"
    figure.text(MARGIN / width, 1 - HEAD / 2 / height, title, va="center", fontweight="bold")
    FigureCanvasAgg(figure)  # by which texts are measured
    for (left, top), path, p_fake in zip(places, chosen["path"], chosen["p_fake"], strict=False):
        words = figure.text(left / width, 1 - (top + TILE + 4) / height, "", va="top", fontsize=6.5)
        for most in range(LONGEST, SHORTEST - 1, -1):
            words.set_text(f"{shortened(path, most)}\nlabel {name}, p_fake {p_fake:.3f}")
            if words.get_window_extent().width <= TILE:
                break
    return figure, f"Contact sheet. {title}"

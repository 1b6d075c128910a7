"""decoded images and the audit's table of them -> audit/: contact sheets, sizes, mean images, mean spectra."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from rfray.audit.audit import audited_pictures
from rfray.report.pictures import Drawing, write_drawings
from rfray.report.plot_style import CLASS_COLOURS, GREY, PALE, STYLE
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.run_dir import RunDir

SHEETS = ("contact-sheet-real.jpg", "contact-sheet-fake.jpg")  # photographs: a tenth of the size of a PNG
AUDIT_PLOTS = (*SHEETS, "sizes.png", "mean-images.png", "spectra.png")
"""File names below the run's audit folder, in the order in which they are shown."""

COLUMNS, ROWS, TILE, GAP = 8, 6, 132, 6
"""A contact sheet: images across and down, side of one and space between two, in pixels."""
CHUNK = 1024
"""Images that are summed at a time."""


def draw_audit(run: RunDir, sweep: Sweep) -> None:
    """Draws the plots of a run's audit, unless they are there and as new as the audit."""
    drawn = [picture.stat().st_mtime for picture in run.audit_pictures()]
    if not drawn or min(drawn) < run.audit_file.stat().st_mtime:
        write_audit_plots(run.audit_folder, *audited_pictures(run, sweep))


def write_audit_plots(folder: Path, pixels: np.ndarray, images: pd.DataFrame, seed: int = 0) -> list[Path]:
    """Draws all AUDIT_PLOTS into `folder`; a contact sheet only of a class that has images.

    `pixels` (n, S, S, 3) uint8, may be memory-mapped; `images` (n rows, the same order): label, width, height,
    file_bytes, bytes_per_pixel, spectrum. `seed` chooses the images of the contact sheets.
    Raises ValueError where the two differ in length. Returns the files written.
    """
    labels = images["label"].to_numpy()
    if len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures and {len(labels)} rows")
    with mpl.rc_context(STYLE):
        drawings = {
            name: _contact_sheet(pixels, np.flatnonzero(labels == label), label, seed)
            for label, name in enumerate(SHEETS)
            if (labels == label).any()
        }
        plots = (_sizes(images), _mean_images(pixels, labels), _spectra(images))
        drawings |= zip(AUDIT_PLOTS[len(SHEETS) :], plots, strict=True)
        return write_drawings(folder, drawings, AUDIT_PLOTS, colours=0)


def _contact_sheet(pixels: np.ndarray, rows: np.ndarray, label: int, seed: int) -> Drawing:
    chosen = np.random.default_rng(seed).permutation(rows)[: COLUMNS * ROWS]
    step = TILE + GAP
    sheet = np.full((-(-len(chosen) // COLUMNS) * step - GAP, COLUMNS * step - GAP, 3), 255, dtype=np.uint8)
    for number, row in enumerate(chosen):
        top, left = step * (number // COLUMNS), step * (number % COLUMNS)
        tile = Image.fromarray(np.asarray(pixels[row])).resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet[top : top + TILE, left : left + TILE] = np.asarray(tile)
    margin, head = 12, 48  # pixels
    height, width = sheet.shape[0] + head + margin, sheet.shape[1] + 2 * margin
    dots = float(mpl.rcParams["savefig.dpi"])
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots)
    figure.figimage(sheet, margin, margin, origin="upper")
    shown = f"all {len(rows):,}" if len(chosen) == len(rows) else f"{len(chosen)} of {len(rows):,}, drawn at random"
    title = f"{CLASSES[label].capitalize()}: {shown}"
    figure.text(margin / width, 1 - head / 2 / height, title, va="center", fontweight="bold")
    return figure, f"Contact sheet of images. {title}"


def _sizes(images: pd.DataFrame) -> Drawing:
    """Width by height, where a mark's area is the share of its class; file size and bytes per pixel as shares."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    dimensions, file_size, density = figure.subplots(1, 3)
    for label, marker in enumerate("os"):
        some = images[images["label"] == label]
        shares = some.groupby(["width", "height"]).size() / max(len(some), 1)
        width, height = (shares.index.get_level_values(axis).to_numpy() for axis in ("width", "height"))
        face = "none" if label == 0 else CLASS_COLOURS[label] + "88"  # a ring around a filled square: both are seen
        style: dict[str, Any] = {"edgecolors": CLASS_COLOURS[label], "linewidths": 1.3, "zorder": 2 - label}
        area = (220 if label == 0 else 110) * shares.to_numpy() + 8
        dimensions.scatter(width, height, s=area, marker=marker, facecolors=face, **style)
    dimensions.set(title="Dimensions (real ring, fake square)", xlabel="Width (pixels)", ylabel="Height (pixels)")
    dimensions.margins(0.15)
    for axis, sizes in ((dimensions.xaxis, images["width"]), (dimensions.yaxis, images["height"])):
        if sizes.nunique() == 1:
            axis.set_ticks([int(sizes.iloc[0])])
    _histogram(file_size, images, images["file_bytes"] / 1000, "File size (kB)")
    _histogram(density, images, images["bytes_per_pixel"], "Bytes per pixel")
    handles, names = file_size.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure, "Width, height, file size and bytes per pixel of real and fake images"


def _histogram(axes: Axes, images: pd.DataFrame, values: "pd.Series[float]", name: str) -> None:
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > 20 * low
    edges = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high if high > low else low + 1, 41)
    for label, class_name in enumerate(CLASSES):
        some = values[(images["label"] == label).to_numpy()].to_numpy()
        if len(some):
            shares = 100 * np.histogram(some, edges)[0] / len(some)
            colour, dash = CLASS_COLOURS[label], "-" if label else "--"
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
            named = f"{class_name} (n = {len(some):,})"
            axes.stairs(shares, edges, color=colour, label=named, linewidth=1.6, linestyle=dash)
    axes.set(title=name.partition(" (")[0], xlabel=name, ylabel="Images of the class (%)")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the usual one writes formulas, which STYLE bars
        axes.xaxis.set_minor_formatter(NullFormatter())


def _mean_images(pixels: np.ndarray, labels: np.ndarray) -> Drawing:
    """The two mean images and, where there are both, the difference of their brightness, amplified."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    *panels, last = figure.subplots(1, 3)
    means = [_mean(pixels, np.flatnonzero(labels == label)) for label in range(len(CLASSES))]
    for axes, mean, name, count in zip(panels, means, CLASSES, np.bincount(labels, minlength=2), strict=True):
        axes.set_title(f"Mean of {count:,} {name} images")
        if mean is not None:
            axes.imshow(np.round(mean).astype(np.uint8))
    real, fake = means
    if real is not None and fake is not None:
        difference = (fake - real) @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
        reach = max(float(np.abs(difference).max()), 0.1)
        last.set_title(f"Fake minus real, amplified {127 / reach:.0f} times")
        shown = last.imshow(difference, cmap="PuOr_r", vmin=-reach, vmax=reach)
        figure.colorbar(shown, ax=last, shrink=0.8, label="Brightness (of 255)")
    for axes in (*panels, last):
        axes.set_axis_off()
    return figure, "The mean of all real images, the mean of all fake images, and their amplified difference"


def _mean(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """(S, S, 3) float64 in [0, 255]; a chunk at a time, as the images may be larger than memory."""
    if not len(rows):
        return None
    total = np.zeros(pixels.shape[1:])
    for start in range(0, len(rows), CHUNK):
        total += pixels[rows[start : start + CHUNK]].sum(axis=0, dtype=np.float64)
    return total / len(rows)


def _spectra(images: pd.DataFrame) -> Drawing:
    """The classes' mean spectra above; their difference, which six decades of power would hide, below."""
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    means, errors = [], []
    frequency = np.linspace(0, 0.5, len(images["spectrum"].iloc[0]) if len(images) else 2)
    for label, name in enumerate(CLASSES):
        some = images.loc[images["label"] == label, "spectrum"]
        if some.empty:
            continue
        spectra = np.stack(some.to_list()).astype(np.float64)
        mean, spread = spectra.mean(axis=0), spectra.std(axis=0)
        style: dict[str, Any] = {"color": CLASS_COLOURS[label], "linestyle": "-" if label else "--", "linewidth": 2}
        axes.fill_between(frequency, mean - spread, mean + spread, color=style["color"], alpha=0.18, linewidth=0)
        axes.plot(frequency, mean, label=f"{name} (n = {len(some):,}; band: ±1 standard deviation)", **style)
        means.append(mean)
        errors.append(spread / np.sqrt(len(some)))
    if len(means) == len(CLASSES):
        difference, reach = means[1] - means[0], 2 * np.hypot(*errors)
        below.fill_between(frequency, difference - reach, difference + reach, color=PALE, linewidth=0)
        below.plot(frequency, difference, color="black", linewidth=1.5)
        below.axhline(0, color=GREY, linestyle=":", linewidth=1)
    axes.set(title="Mean radial power spectrum", ylabel="log10 of power", xlim=(0, 0.5))
    scale = "Spatial frequency (cycles per pixel): coarse to the left, finest detail to the right"
    below.set(title="Fake minus real (band: ±2 standard errors)", xlabel=scale, ylabel="Difference of log10")
    axes.legend()
    return figure, (
        "Mean radial power spectrum of real and of fake images with one standard deviation either way, and below it "
        "their difference"
    )

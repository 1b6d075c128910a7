"""decoded images and the audit's table of them -> audit/: contact sheets, sizes, mean images, mean spectra."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rfray.audit.audit import audited_pictures
from rfray.report.pictures import (
    CLASS_LINES,
    GREY,
    PALE,
    Drawing,
    canvas,
    class_histogram,
    plain_numbers,
    styled,
    write_drawings,
)
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.run_dir import RunDir

SHEETS = ("contact-sheet-real.jpg", "contact-sheet-fake.jpg")  # photographs: a tenth of the size of a PNG
AUDIT_PLOTS = (*SHEETS, "sizes.png", "mean-images.png", "spectra.png")
"""File names below the run's audit folder, in the order in which they are shown."""

ACROSS, DOWN, TILE, GAP = 8, 6, 132, 6
"""A contact sheet: images across and down, side of one and space between two, in pixels."""


def draw_audit(run: RunDir, sweep: Sweep) -> None:
    """Draws the plots of a run's audit, unless they are there and as new as the audited images."""
    drawn = [picture.stat().st_mtime for picture in run.audit_pictures()]
    if not drawn or min(drawn) < run.images_file.stat().st_mtime:
        write_audit_plots(run.audit_folder, *audited_pictures(run, sweep))


@styled
def write_audit_plots(folder: Path, pixels: np.ndarray, images: pd.DataFrame) -> list[Path]:
    """Draws all AUDIT_PLOTS into `folder`; a contact sheet only of a class that has images. Returns the files written.

    `pixels` (n, S, S, 3) uint8; `images` (n rows, the same order): label, width, height, file_bytes, bytes_per_pixel,
    spectrum.
    """
    by_class = [pixels[images["label"] == label] for label in range(len(CLASSES))]
    sheets = zip(SHEETS, CLASSES, by_class, strict=True)
    drawings = {file: _contact_sheet(name, pictures) for file, name, pictures in sheets if len(pictures)}
    drawings |= zip(AUDIT_PLOTS[2:], (_sizes(images), _mean_images(by_class), _spectra(images)), strict=True)
    return write_drawings(folder, drawings, AUDIT_PLOTS, colours=0)


def _contact_sheet(name: str, pixels: np.ndarray) -> Drawing:
    """Images of a class, drawn at random."""
    chosen = np.random.default_rng(0).permutation(len(pixels))[: ACROSS * DOWN]
    step, margin, head = TILE + GAP, 12, 48  # pixels
    width, height = ACROSS * step - GAP + 2 * margin, -(-len(chosen) // ACROSS) * step - GAP + margin + head
    sheet = Image.new("RGB", (width, height), "white")
    for number, row in enumerate(chosen):
        tile = Image.fromarray(pixels[row]).resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet.paste(tile, (margin + step * (number % ACROSS), head + step * (number // ACROSS)))
    dots = float(mpl.rcParams["savefig.dpi"])
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots)
    figure.figimage(np.asarray(sheet), origin="upper")
    count = len(pixels)
    shown = f"all {count:,}" if len(chosen) == count else f"{len(chosen)} of {count:,}, drawn at random"
    title = f"{name.capitalize()}: {shown}"
    figure.text(margin / width, 1 - head / 2 / height, title, va="center", fontweight="bold")
    return figure, f"Contact sheet of images. {title}"


def _sizes(images: pd.DataFrame) -> Drawing:
    """Width by height, where a mark's area is the share of its class; file size and bytes per pixel as shares."""
    figure, (dimensions, file_size, density) = canvas(9.6, 3.5, 1, 3)
    labels = images["label"].to_numpy()
    # a ring around a filled square: both are seen
    for label, marker, largest, transparency in ((0, "o", 220, "00"), (1, "s", 110, "88")):
        shares = images[labels == label].value_counts(["width", "height"], normalize=True)
        points, colour = shares.index.to_frame(), CLASS_LINES[label]["color"]
        style: dict[str, Any] = {"edgecolors": colour, "facecolors": colour + transparency, "linewidths": 1.3}
        area = largest * shares.to_numpy() + 8
        dimensions.scatter(points["width"], points["height"], area, marker=marker, zorder=2 - label, **style)
    dimensions.set(title="Dimensions (real ring, fake square)", xlabel="Width (pixels)", ylabel="Height (pixels)")
    dimensions.margins(0.15)
    for axis, sizes in ((dimensions.xaxis, images["width"]), (dimensions.yaxis, images["height"])):
        if sizes.nunique() == 1:
            axis.set_ticks([int(sizes.iloc[0])])
    _histogram(file_size, labels, images["file_bytes"].to_numpy() / 1000, "File size (kB)")
    _histogram(density, labels, images["bytes_per_pixel"].to_numpy(), "Bytes per pixel")
    figure.legend(*file_size.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure, "Width, height, file size and bytes per pixel of real and fake images"


def _histogram(axes: Axes, labels: np.ndarray, values: np.ndarray, name: str) -> None:
    """On a logarithmic axis where the values need one."""
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > 20 * low
    edges = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high if high > low else low + 1, 41)
    class_histogram(axes, labels, values, edges)
    axes.set(title=name.partition(" (")[0], xlabel=name)
    if logarithmic:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, 1, 3)


def _mean_images(by_class: list[np.ndarray]) -> Drawing:
    """The two mean images and, where there are both, the difference of their brightness, amplified."""
    figure, panels = canvas(9.6, 3.2, 1, 3)
    means = [pixels.mean(axis=0) if len(pixels) else None for pixels in by_class]
    for axes, mean, name, pixels in zip(panels, means, CLASSES, by_class, strict=False):
        axes.set_title(f"Mean of {len(pixels):,} {name} images")
        if mean is not None:
            axes.imshow(np.round(mean).astype(np.uint8))
    real, fake = means
    if real is not None and fake is not None:
        difference = (fake - real) @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
        reach = max(float(np.abs(difference).max()), 0.1)
        panels[2].set_title(f"Fake minus real, amplified {127 / reach:.0f} times")
        shown = panels[2].imshow(difference, cmap="PuOr_r", vmin=-reach, vmax=reach)
        figure.colorbar(shown, ax=panels[2], shrink=0.8, label="Brightness (of 255)")
    for axes in panels:
        axes.set_axis_off()
    return figure, "The mean of all real images, the mean of all fake images, and their amplified difference"


def _spectra(images: pd.DataFrame) -> Drawing:
    """The classes' mean spectra above; their difference, which six decades of power would hide, below."""
    figure, (axes, below) = canvas(7.2, 5.6, 2, 1, sharex=True, height_ratios=(2, 1))
    means, errors = [], []
    for label in np.unique(images["label"]):
        some = images.loc[images["label"] == label, "spectrum"]
        spectra, line = np.stack(some.to_list()).astype(np.float64), CLASS_LINES[label]
        frequency = np.linspace(0, 0.5, spectra.shape[1])
        mean, spread = spectra.mean(axis=0), spectra.std(axis=0)
        axes.fill_between(frequency, mean - spread, mean + spread, color=line["color"], alpha=0.18, linewidth=0)
        named = f"{CLASSES[label]} (n = {len(some):,}; band: ±1 standard deviation)"
        axes.plot(frequency, mean, label=named, linewidth=2, **line)
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

"""decoded pictures and the audit's table of images -> audit/: contact sheets, sizes, mean images, mean spectra."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from rfray.audit.sample import audited_pictures
from rfray.report.plot_style import CLASS_COLOURS, LOOK
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.files import replacing
from rfray.store.run_dir import RunDir

SHEETS = ("contact-sheet-real.jpg", "contact-sheet-fake.jpg")  # photographs: a tenth of the size as PNG
SIZES, MEANS, SPECTRA = "sizes.png", "mean-images.png", "spectra.png"
"""File names below the run's audit folder."""

ALT = {
    SHEETS[0]: "Contact sheet: up to 48 real images, drawn at random",
    SHEETS[1]: "Contact sheet: up to 48 fake images, drawn at random",
    SIZES: "Width, height, file size and bytes per pixel of real and fake images",
    MEANS: "The mean of all real images, the mean of all fake images, and their amplified difference",
    SPECTRA: "Mean radial power spectrum of real and of fake images with one standard deviation either way, and below "
    "it their difference",
}
"""Every picture, in the order in which they are shown -> what it shows, for those who don't see it."""

COLUMNS, ROWS, TILE, GAP = 8, 6, 132, 6
"""A contact sheet: pictures across and down, side of one and space between two, in pixels."""
CHUNK = 1024
"""Pictures that are summed at a time."""


def draw_audit(run: RunDir, sweep: Sweep) -> None:
    """Draws the pictures of a run's audit, unless they are there and as new as the audit."""
    drawn = [picture.stat().st_mtime for picture in run.audit_pictures()]
    if not drawn or min(drawn) < run.audit_file.stat().st_mtime:
        write_audit_plots(run.audit_folder, *audited_pictures(run, sweep))


def write_audit_plots(folder: Path, pixels: np.ndarray, images: pd.DataFrame, seed: int = 0) -> list[Path]:
    """Draws every picture of ALT into `folder`; a contact sheet only of a class that has images.

    `pixels` (n, S, S, 3) uint8, may be memory-mapped; `images` (n rows, the same order): label, width, height,
    file_bytes, bytes_per_pixel, spectrum. `seed` chooses the pictures of the contact sheets.
    Raises ValueError where the two differ in length. Returns the files written.
    """
    labels = images["label"].to_numpy()
    if len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures and {len(labels)} rows")
    with mpl.rc_context(LOOK):
        drawings = {
            name: _contact_sheet(pixels, np.flatnonzero(labels == label), label, seed)
            for label, name in enumerate(SHEETS)
            if (labels == label).any()
        }
        drawings |= {SIZES: _sizes(images), MEANS: _means(pixels, labels), SPECTRA: _spectra(images)}
        for name, figure in drawings.items():
            with replacing(folder / name) as temporary:
                figure.savefig(temporary)
    for stale in set(ALT) - set(drawings):
        (folder / stale).unlink(missing_ok=True)
    return [folder / name for name in drawings]


def _contact_sheet(pixels: np.ndarray, rows: np.ndarray, label: int, seed: int) -> Figure:
    chosen = np.random.default_rng(seed).permutation(rows)[: COLUMNS * ROWS]
    step = TILE + GAP
    sheet = np.full((-(-len(chosen) // COLUMNS) * step - GAP, COLUMNS * step - GAP, 3), 255, dtype=np.uint8)
    for place, row in enumerate(chosen):
        top, left = step * (place // COLUMNS), step * (place % COLUMNS)
        tile = Image.fromarray(np.asarray(pixels[row])).resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet[top : top + TILE, left : left + TILE] = np.asarray(tile)
    margin, head = 12, 48  # pixels
    height, width = sheet.shape[0] + head + margin, sheet.shape[1] + 2 * margin
    dots = float(mpl.rcParams["savefig.dpi"])
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots)
    figure.figimage(sheet, margin, margin, origin="upper")
    figure.text(
        margin / width, 1 - head / 2 / height, _chosen(len(chosen), len(rows), label), va="center", fontweight="bold"
    )
    return figure


def _chosen(shown: int, there: int, label: int) -> str:
    name = CLASSES[label].capitalize()
    return f"{name}: all {there:,}" if shown == there else f"{name}: {shown} of {there:,}, drawn at random"


def _sizes(images: pd.DataFrame) -> Figure:
    """Width by height, where a mark's area is the share of its class; file size and bytes per pixel as shares."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    dimensions, file_size, density = figure.subplots(1, 3)
    for label, marker in enumerate("os"):
        some = images[images["label"] == label]
        if some.empty:
            continue
        shares = some.groupby(["width", "height"]).size() / len(some)
        width, height = (shares.index.get_level_values(axis).to_numpy() for axis in ("width", "height"))
        face = "none" if label == 0 else CLASS_COLOURS[label] + "88"  # a ring around a filled square: both are seen
        dimensions.scatter(
            width,
            height,
            s=(220 if label == 0 else 110) * shares.to_numpy() + 8,
            marker=marker,
            facecolors=face,
            edgecolors=CLASS_COLOURS[label],
            linewidths=1.3,
            zorder=2 - label,
        )
    dimensions.set(title="Dimensions (real ring, fake square)", xlabel="Width (pixels)", ylabel="Height (pixels)")
    dimensions.margins(0.15)
    for axis, sizes in ((dimensions.xaxis, images["width"]), (dimensions.yaxis, images["height"])):
        if sizes.nunique() == 1:
            axis.set_ticks([int(sizes.iloc[0])])
    _histogram(file_size, images, images["file_bytes"] / 1000, "File size (kB)")
    _histogram(density, images, images["bytes_per_pixel"], "Bytes per pixel")
    handles, names = file_size.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _histogram(axes: Axes, images: pd.DataFrame, values: "pd.Series[float]", name: str) -> None:
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > 20 * low
    ends = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high if high > low else low + 1, 41)
    edges: list[float] = ends.tolist()
    for label, class_name in enumerate(CLASSES):
        some = values[(images["label"] == label).to_numpy()].to_numpy()
        if len(some):
            weights = np.full(len(some), 100 / len(some))
            axes.hist(some, edges, weights=weights, histtype="stepfilled", alpha=0.25, color=CLASS_COLOURS[label])
            axes.hist(
                some,
                edges,
                weights=weights,
                histtype="step",
                color=CLASS_COLOURS[label],
                label=f"{class_name} (n = {len(some):,})",
                linewidth=1.6,
                linestyle="-" if label else "--",
            )
    axes.set(title=name.partition(" (")[0], xlabel=name, ylabel="Images of the class (%)")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(
            StrMethodFormatter("{x:g}")
        )  # the usual one writes formulas, which LOOK turns off
        axes.xaxis.set_minor_formatter(NullFormatter())


def _means(pixels: np.ndarray, labels: np.ndarray) -> Figure:
    """The two mean images and, where there are both, the difference of their brightness, amplified."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    means = [_mean(pixels, np.flatnonzero(labels == label)) for label in range(len(CLASSES))]
    for axes, mean, name, count in zip(panels, means, CLASSES, np.bincount(labels, minlength=2), strict=False):
        axes.set_title(f"Mean of {count:,} {name} images")
        if mean is not None:
            axes.imshow(np.round(mean).astype(np.uint8))
    axes = panels[2]
    real, fake = means
    if real is not None and fake is not None:
        difference = (fake - real) @ np.array([0.299, 0.587, 0.114])  # luma, Rec. 601
        reach = max(float(np.abs(difference).max()), 0.1)
        axes.set_title(f"Fake minus real, amplified {127 / reach:.0f} times")
        shown = axes.imshow(difference, cmap="PuOr_r", vmin=-reach, vmax=reach)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="Brightness (of 255)")
    for axes in panels:
        axes.set_axis_off()
    return figure


def _mean(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """(S, S, 3) float64 in [0, 255]; a chunk at a time, as the pictures may be larger than memory."""
    if not len(rows):
        return None
    total = np.zeros(pixels.shape[1:])
    for start in range(0, len(rows), CHUNK):
        total += pixels[rows[start : start + CHUNK]].sum(axis=0, dtype=np.float64)
    return total / len(rows)


def _spectra(images: pd.DataFrame) -> Figure:
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
        axes.fill_between(frequency, mean - spread, mean + spread, color=CLASS_COLOURS[label], alpha=0.18, linewidth=0)
        axes.plot(
            frequency,
            mean,
            label=f"{name} (n = {len(some):,}; band: ±1 standard deviation)",
            color=CLASS_COLOURS[label],
            linestyle="-" if label else "--",
            linewidth=2,
        )
        means.append(mean)
        errors.append(spread / np.sqrt(len(some)))
    if len(means) == len(CLASSES):
        difference, reach = means[1] - means[0], 2 * np.hypot(*errors)
        below.fill_between(frequency, difference - reach, difference + reach, color="#bbbbbb", linewidth=0)
        below.plot(frequency, difference, color="black", linewidth=1.5)
        below.axhline(0, color="#777777", linestyle=":", linewidth=1)
    axes.set(title="Mean radial power spectrum", ylabel="log10 of power", xlim=(0, 0.5))
    below.set(
        title="Fake minus real (band: ±2 standard errors)",
        xlabel="Spatial frequency (cycles per pixel): coarse to the left, finest detail to the right",
        ylabel="Difference of log10",
    )
    axes.legend()
    return figure

"""AUCs on pairs of sources that were left out -> a table and a picture."""

import numpy as np

from rfray.report.pictures import Drawing, canvas, shortened
from rfray.report.words import Table
from rfray.store.records import LeftOut

LEFT_OUT = "left-out.png"
"""File name below the run's plots folder."""
OTHERS = "(others)"
"""Of a class without two known sources: images that the heads have not learned from."""


def pair_rows(found: LeftOut) -> Table:
    """The pairs of sources, worst first, each with its AUC, interval and numbers of images."""
    rows = [
        [
            f"{pair.fake or OTHERS} against {pair.real or OTHERS}",
            f"{pair.auc:.3f} ({pair.low:.3f} to {pair.high:.3f})",
            f"{pair.fakes:,}",
            f"{pair.reals:,}",
        ]
        for pair in sorted(found.pairs, key=lambda pair: pair.auc)
    ]
    return ["fake images of … against real images of …", "AUC (95 % interval)", "fake", "real"], rows


def heat_map(found: LeftOut, backbone: str) -> Drawing:
    """The AUC on each pair: sources of fakes downwards, of real images to the right; chance is pale."""
    fakes, reals = (list(dict.fromkeys(getattr(pair, kind) for pair in found.pairs)) for kind in ("fake", "real"))
    aucs = np.full((len(fakes), len(reals)), np.nan)
    for pair in found.pairs:
        aucs[fakes.index(pair.fake), reals.index(pair.real)] = pair.auc
    figure, axes = canvas(max(5.4, 3.2 + 1.1 * len(reals)), 2.2 + 0.6 * len(fakes))
    axes.imshow(aucs, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for (row, column), auc in np.ndenumerate(aucs):
        colour = "white" if abs(auc - 0.5) > 0.28 else "black"
        text = "too few" if np.isnan(auc) else f"{auc:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
    names = ([shortened(name or OTHERS, 22) for name in kind] for kind in (fakes, reals))
    for axis, labels in zip((axes.yaxis, axes.xaxis), names, strict=True):
        axis.set_ticks(range(len(labels)), labels=labels)
    axes.tick_params(axis="x", labelrotation=20)
    axes.set(xlabel="real images of", ylabel="fake images of")
    axes.set_title(f"AUC on sources that were not learned from\n(linear heads, {shortened(backbone, 30)})", fontsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    listed = "; ".join(f"{pair.fake or OTHERS} against {pair.real or OTHERS} {pair.auc:.2f}" for pair in found.pairs)
    return figure, f"AUC of linear heads on pairs of sources that they have not learned from: {listed}"

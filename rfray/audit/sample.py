"""a run's images.parquet -> a sample of the audited images as pixels, for the figures of the audit."""

import numpy as np
import pandas as pd

from rfray.data.catalog import load_folder
from rfray.data.decoding import square
from rfray.data.geometry import geometries
from rfray.spec.sweep import Sweep
from rfray.store.run_dir import RunDir

SAMPLE, SAMPLE_SIDE = 4000, 128
"""Images of the sample, and their side in pixels: 200 MB in memory."""


def audited_pictures(run: RunDir, sweep: Sweep) -> tuple[np.ndarray, pd.DataFrame]:
    """Up to SAMPLE of the audited images: (k, S, S, 3) uint8, and their rows of images.parquet."""
    images = run.audited_images()
    chosen = images.sample(min(SAMPLE, len(images)), random_state=0).sort_index()
    pixels = np.empty((len(chosen), SAMPLE_SIDE, SAMPLE_SIDE, 3), np.uint8)
    for _, here in images.groupby("folder"):
        source = load_folder(here, sweep.data, geometries(sweep)[0])
        rows = {index: row for row, index in enumerate(here.index)}
        for position, index in enumerate(chosen.index):
            if index in rows:
                pixels[position] = square(source.picture(rows[index]), SAMPLE_SIDE)
    return pixels, chosen.reset_index(drop=True)

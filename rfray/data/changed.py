"""a run's catalog and unreadable.csv, the training folder as it is -> what has changed in it since."""

import os

import pandas as pd

from rfray.data.catalog import changes
from rfray.spec.sweep import Sweep
from rfray.store.run_dir import RunDir


def training_changes(run: RunDir, sweep: Sweep, catalog: pd.DataFrame) -> list[str]:
    """What differs between the sweep's training folder and the one that a run's catalog was made of; empty if nothing.

    By names, sizes and times. Raises DataError where the folder can't be used.
    """
    known = catalog if sweep.data.test_share is not None else catalog[catalog["part"] != "test"]
    known = pd.concat([known, unreadable(run, "train")])
    # how many are drawn with a budget depends on the machine, and was settled when the catalog was made
    drawn = len(known) if sweep.train_images(os.cpu_count() or 1) is not None else None
    return changes(sweep.data, "train", known, drawn)


def unreadable(run: RunDir, folder: str) -> pd.DataFrame:
    """unreadable.csv: the files of a folder (train or valid) that could not be read; empty where there are none."""
    if not run.unreadable_file.exists():
        return pd.DataFrame(columns=["path", "reason", "folder", "size", "modified"])
    found = pd.read_csv(run.unreadable_file)
    return found[found["folder"] == folder]

"""A run's catalog and unreadable.csv, the data folders as they are -> what has changed in them since."""

import pandas as pd

from rfray.data.folders import drawn, list_images, most_images
from rfray.spec.sweep import DataSettings, Sweep
from rfray.store.run_dir import RunDir


def training_changes(run: RunDir, sweep: Sweep, catalog: pd.DataFrame) -> list[str]:
    """What differs between the sweep's folders of train and val and those that a run's catalog was made of.

    By names, sizes and times; empty if nothing. Raises DataError where a folder can't be used.
    """
    lines = []
    for folder in sweep.data.training_folders:
        known = pd.concat([table[table["folder"] == folder] for table in (catalog, run.unreadable())])
        most = most_images(sweep, folder)
        if most is not None and sweep.budget is not None:
            most = len(known)  # it depends on the budget and the machine, and was settled when the catalog was made
        found = changes(sweep.data, folder, known, most)
        lines += found if folder == "train" else [f"data.{folder}: {line}" for line in found]
    return lines


def changes(settings: DataSettings, folder: str, known: pd.DataFrame, most: int | None = None) -> list[str]:
    """What differs between a data folder now and the `path`, `size`, `modified` noted before; empty if nothing.

    Where `most` were drawn, of those that would be now.
    """
    now = drawn(list_images(settings, folder), most)
    old, new = (
        dict(zip(table["path"], zip(table["size"], table["modified"], strict=True), strict=True))
        for table in (known, now)
    )
    return (
        [f"{path} is new" for path in sorted(new.keys() - old)]
        + [f"{path} is gone" for path in sorted(old.keys() - new)]
        + [f"{path} has changed" for path in sorted(old.keys() & new) if old[path] != new[path]]
    )

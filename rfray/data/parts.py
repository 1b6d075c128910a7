"""sweep + folders -> a run's catalog.parquet: made by `rfray tune`, the report part added by `rfray ensemble`."""

import hashlib

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.config import Sweep
from rfray.data.catalog import Scanned, bundle, changes, divide, part_digest, scan_folder
from rfray.data.geometry import Geometry
from rfray.data.pixels import not_cached
from rfray.errors import DataError, RunError
from rfray.evaluation.predictions import predictions_metadata
from rfray.files import replacing
from rfray.run import RunDir, TrialDir


def prepare_training(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The catalog of fit and select, read from the run folder or else from the images.

    Raises DataError where the images can't be used, RunError where they have changed since the sweep began.
    """
    if run.catalog_file.exists():
        catalog = run.read_catalog()
        _check_unchanged(run, sweep, catalog, "fit")
    else:
        scanned = scan_folder(sweep.data, "fit", geometries(sweep))
        _note(run, scanned, "train", sweep, console)
        catalog = divide(scanned.catalog, sweep.data, sweep.seed, pairs=np.empty((0, 2), int))
        run.write_catalog(catalog)
    counts = catalog.groupby(["part", "label"]).size()
    console.print(
        "Images: "
        + ", ".join(
            f"{part} {counts.get((part, 0), 0)} real + {counts.get((part, 1), 0)} fake" for part in ("fit", "select")
        ),
        soft_wrap=True,
        markup=False,
    )
    return catalog


def prepare_report(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Adds the report part to the catalog, anew where its folder has changed.

    Where the folder is gone but was read before, the earlier predictions still hold; nothing is changed then.
    Raises DataError where the images can't be used or were never there.
    """
    catalog = run.read_catalog()
    known = catalog[catalog["part"] == "report"]
    if sweep.data.valid_fraction is not None:
        return  # cut out of the training folder when the sweep began
    if len(known):
        try:
            changed = changes(sweep.data, "report", pd.concat([known, _unreadable(run, "valid")]))
        except DataError as error:
            console.print(f"Going on with the report part as it was read before: {error}", soft_wrap=True, markup=False)
            return
        if not changed:
            return
        console.print(
            f"The report part has changed ({len(changed)} files, e.g. {changed[0]}); reading it again",
            soft_wrap=True,
            markup=False,
        )
    scanned = scan_folder(sweep.data, "report", geometries(sweep))
    _note(run, scanned, "valid", sweep, console)
    others = catalog[catalog["part"] != "report"]
    images = scanned.catalog.assign(
        bundle=1 + others["bundle"].max() + bundle(scanned.catalog, sweep.data, np.empty((0, 2), int)), part="report"
    )
    run.write_catalog(pd.concat([others, images], ignore_index=True))


def report_origin(trial: TrialDir, catalog: pd.DataFrame) -> dict[str, str]:
    """Which weights and images the report predictions of a trial are made of: digests, kept in the file's metadata."""
    with trial.weights_file.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {"weights": weights, "images": part_digest(catalog, "report")}


def without_report_predictions(run: RunDir, trials: list[TrialDir]) -> list[TrialDir]:
    """The trials whose predictions of the report part are missing, or were made with other weights or images."""
    catalog = run.read_catalog()
    return [
        trial
        for trial in trials
        if not report_origin(trial, catalog).items() <= predictions_metadata(trial.predictions_file("report")).items()
    ]


def geometries(sweep: Sweep) -> list[Geometry]:
    """What the trials' images are made into, each that differs in what is kept of a picture once.

    Of a range of image sizes the smallest alone: the others are made when a trial asks for them.
    """
    axes = sweep.trial.axes()
    sizes = axes.get("image_size", sweep.trial.choices("image_size"))
    sides = sizes if isinstance(sizes, list) else [int(sizes.bounds[0])]
    all_of_them = [Geometry(way, side, sweep.data.reencode) for way in sweep.trial.choices("resize") for side in sides]
    return list({geometry.key: geometry for geometry in all_of_them}.values())


def _check_unchanged(run: RunDir, sweep: Sweep, catalog: pd.DataFrame, part: str) -> None:
    known = catalog if sweep.data.valid_fraction is not None else catalog[catalog["part"] != "report"]
    changed = changes(sweep.data, part, pd.concat([known, _unreadable(run, "train")]))
    if changed:
        raise RunError(
            f"{len(changed)} images have changed since this sweep began:\n  "
            + "\n  ".join(changed[:10])
            + "\nPut them back, or start anew with --fresh (the old run folder is moved aside)."
        )


def _note(run: RunDir, scanned: Scanned, folder: str, sweep: Sweep, console: Console) -> None:
    """Writes unreadable.csv (path, reason, folder, size, modified) and says what a user should know of the folder."""
    if not scanned.cached:
        console.print(f"Warning: {not_cached(sweep.data.cache)}", soft_wrap=True, markup=False)
    others = _unreadable(run, "train" if folder == "valid" else "valid")
    found = scanned.unreadable.assign(folder=folder)
    with replacing(run.unreadable_file) as temporary:
        rows = pd.concat([others, found]) if len(others) else found
        rows[["path", "reason", "folder", "size", "modified"]].to_csv(temporary, index=False)
    if len(found):
        console.print(
            f"Warning: {len(found)} files can't be read and are left out (see {run.unreadable_file}):",
            soft_wrap=True,
            markup=False,
        )
        for row in found.head(10).itertuples():
            console.print(f"  {row.path}: {row.reason}", soft_wrap=True, markup=False)


def _unreadable(run: RunDir, folder: str) -> pd.DataFrame:
    if not run.unreadable_file.exists():
        return pd.DataFrame(columns=["path", "reason", "folder", "size", "modified"])
    found = pd.read_csv(run.unreadable_file)
    return found[found["folder"] == folder]

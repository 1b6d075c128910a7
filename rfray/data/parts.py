"""sweep + folders -> a run's catalog.parquet: made by `rfray tune`, the report part added by `rfray ensemble`."""

import hashlib

import pandas as pd
from rich.console import Console

from rfray.config import Sweep
from rfray.data.catalog import Scanned, changes, part_digest, report_catalog, training_catalog
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
        scanned = training_catalog(sweep.data, sweep.seed, first_side(sweep))
        _note_unreadable(run, scanned, "train", console)
        catalog = scanned.catalog
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
    scanned = report_catalog(sweep.data, first_side(sweep))
    _note_unreadable(run, scanned, "valid", console)
    run.write_catalog(pd.concat([catalog[catalog["part"] != "report"], scanned.catalog], ignore_index=True))


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


def first_side(sweep: Sweep) -> int:
    """The image size, in pixels, that images are decoded to while they are read for the first time."""
    axis = sweep.trial.axes().get("image_size", sweep.trial.choices("image_size"))
    return int(axis[0] if isinstance(axis, list) else axis.bounds[0])


def _check_unchanged(run: RunDir, sweep: Sweep, catalog: pd.DataFrame, part: str) -> None:
    known = catalog if sweep.data.valid_fraction is not None else catalog[catalog["part"] != "report"]
    changed = changes(sweep.data, part, pd.concat([known, _unreadable(run, "train")]))
    if changed:
        raise RunError(
            f"{len(changed)} images have changed since this sweep began:\n  "
            + "\n  ".join(changed[:10])
            + "\nPut them back, or start anew with --fresh (the old run folder is moved aside)."
        )


def _note_unreadable(run: RunDir, scanned: Scanned, folder: str, console: Console) -> None:
    """Writes unreadable.csv (path, reason, folder, size, modified) and warns of each, the first ten by name."""
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

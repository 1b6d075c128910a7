"""sweep + folders -> a run's catalog.parquet and audit.json: by `rfray tune`; the report part by `rfray ensemble`."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.config import Sweep
from rfray.data.audit import audit_images
from rfray.data.catalog import (
    COLUMNS,
    Scanned,
    bundle,
    changes,
    divide,
    fold_of,
    image_folder,
    load_folder,
    part_digest,
    scan_folder,
)
from rfray.data.decoding import decode, square
from rfray.data.duplicates import find_pairs, groups
from rfray.data.geometry import Geometry
from rfray.data.pixels import not_cached
from rfray.errors import AuditError, DataError, RunError, StorageError
from rfray.evaluation.audit_record import read_audit, write_audit
from rfray.evaluation.predictions import predictions_metadata
from rfray.evaluation.robustness import STRESS_NAMES
from rfray.files import file_digest, replacing
from rfray.run import Part, RunDir, TrialDir

LEFT_OUT = "left out"
"""The part of training images that also stand in the report part."""
SAMPLE, SAMPLE_SIDE = 4000, 128
"""Images that the audit's pictures are drawn from, and their side in pixels."""


def prepare_training(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The catalog of fit and select, read from the run folder or else from the images, which are audited then.

    Raises DataError where the images can't be used, RunError where they have changed since the sweep began.
    """
    if run.catalog_file.exists():
        catalog = run.read_catalog()
        _check_unchanged(run, sweep, catalog)
    else:
        images, pairs = _examined(run, sweep, console)
        catalog = _divided(images[images["folder"] == "train"], sweep, pairs)
        _audit(run, sweep, images, pairs, catalog)
        run.write_catalog(catalog)
    if sweep.data.folds is not None:
        fold_of(catalog, (1, sweep.data.folds), sweep.seed)  # before a whole sweep has been trained for nothing
    counts = catalog.groupby(["part", "label"]).size()
    console.print(
        "Images: "
        + ", ".join(
            f"{part} {counts.get((part, 0), 0)} real + {counts.get((part, 1), 0)} fake"
            for part in ("fit", "select", *([LEFT_OUT] if LEFT_OUT in counts else []))
        ),
        soft_wrap=True,
        markup=False,
    )
    return catalog


def audit_folder(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Audits the images of a sweep by themselves, without dividing them. Raises DataError as `prepare_training`."""
    images, pairs = _examined(run, sweep, console)
    _audit(run, sweep, images, pairs, catalog=None)


def check_audit(run: RunDir, accepted: bool, console: Console) -> None:
    """Prints the audit's warnings. Raises AuditError where it has found errors that the user has not accepted."""
    audit = read_audit(run.audit_file)
    if audit is None:
        return  # the run was begun by an earlier version
    errors = audit.graded("error")
    for finding in (*(errors if accepted else ()), *audit.graded("warning")):
        console.print(f"Audit: {finding.sentence} {finding.what_to_do}", soft_wrap=True, markup=False)
    if errors and not accepted:
        raise AuditError(
            "the audit of the images has found what would make the results mislead:\n"
            + "\n".join(f"  {finding.sentence} {finding.what_to_do}" for finding in errors)
            + f"\nMend that, or go on all the same with --accept-audit; all findings are in {run.audit_file}"
        )


def audited_pictures(run: RunDir, sweep: Sweep) -> tuple[np.ndarray, pd.DataFrame]:
    """A sample of the audited images for its pictures: (k, S, S, 3) uint8, and their rows of images.parquet."""
    images = run.read_images()
    chosen = images.sample(min(SAMPLE, len(images)), random_state=0).sort_index()
    pixels = np.empty((len(chosen), SAMPLE_SIDE, SAMPLE_SIDE, 3), np.uint8)
    for folder, here in images.groupby("folder"):  # the report part's may not be there
        part = "report" if folder == "valid" else "fit"
        source = load_folder(here, sweep.data, part, geometries(sweep)[0])
        rows = {index: row for row, index in enumerate(here.index)}
        for position, index in enumerate(chosen.index):
            if index in rows:
                pixels[position] = square(source.picture(rows[index]), SAMPLE_SIDE)
    return pixels, chosen.reset_index(drop=True)


def prepare_report(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Adds the report part to the catalog, anew where its folder has changed, and then to the audit.

    Where the folder is gone but was read before, the earlier predictions still hold; nothing is changed then.
    Raises DataError where the images can't be used or were never there.
    """
    catalog = run.read_catalog()
    if sweep.data.valid_fraction is not None:
        return  # cut out of the training folder when the sweep began
    others = catalog[catalog["part"] != "report"]
    known = catalog[catalog["part"] == "report"]
    images = run.read_images()
    audited = images[images["folder"] == "valid"]
    try:
        changed = changes(sweep.data, "report", pd.concat([audited, _unreadable(run, "valid")]))
    except (DataError, StorageError) as error:
        if known.empty:
            raise
        console.print(f"Going on with the report part as it was read before: {error}", soft_wrap=True, markup=False)
        return
    if changed:
        if len(audited):
            what = f"The report part has changed ({len(changed)} files, e.g. {changed[0]}); reading it again"
            console.print(what, soft_wrap=True, markup=False)
        audited = _scan(run, sweep, "report", console).assign(folder="valid")
        images = pd.concat([images[images["folder"] == "train"], audited], ignore_index=True)
        images = _audit(run, sweep, images, _like(images, sweep, console), others)
        audited = images[images["folder"] == "valid"]
    elif len(known):
        return
    bundles = 1 + others["bundle"].max() + bundle(audited, sweep.data, _links(audited))
    report = audited.assign(bundle=bundles, part="report")[COLUMNS]
    run.write_catalog(pd.concat([others, report], ignore_index=True))


def prediction_origins(trials: Sequence[TrialDir], catalog: pd.DataFrame, part: Part) -> dict[str, dict[str, str]]:
    """Id of a trial -> which weights and images its predictions are made of: digests, kept in the file's metadata."""
    images = part_digest(catalog, part)  # once: it takes a while for many images
    return {trial.id: {"weights": file_digest(trial.weights_file), "images": images} for trial in trials}


def without_report_predictions(run: RunDir, trials: Sequence[TrialDir]) -> list[TrialDir]:
    """The trials whose predictions of the report part are missing, or were made with other weights or images."""
    return _without(run, trials, "report", (None,))


def without_stressed_predictions(run: RunDir, trials: Sequence[TrialDir], part: Part) -> list[TrialDir]:
    """The same of a part under stress: the trials that lack one or more of the stresses."""
    return _without(run, trials, part, STRESS_NAMES)


def _without(run: RunDir, trials: Sequence[TrialDir], part: Part, stresses: Sequence[str | None]) -> list[TrialDir]:
    origins = prediction_origins(trials, run.read_catalog(), part)

    def is_made(trial: TrialDir) -> bool:
        files = (trial.predictions_file(part, stress) for stress in stresses)
        return all(origins[trial.id].items() <= predictions_metadata(file).items() for file in files)

    return [trial for trial in trials if not is_made(trial)]


def geometries(sweep: Sweep) -> list[Geometry]:
    """What the trials' images are made into, each that differs in what is kept of a picture once.

    Of a range of image sizes the smallest alone: the others are made when a trial asks for them.
    """
    axes = sweep.trial.axes()
    sizes = axes.get("image_size", sweep.trial.choices("image_size"))
    sides = sizes if isinstance(sizes, list) else [int(sizes.bounds[0])]
    all_of_them = [Geometry(way, side, sweep.data.reencode) for way in sweep.trial.choices("resize") for side in sides]
    return list({geometry.key: geometry for geometry in all_of_them}.values())


def _scan(run: RunDir, sweep: Sweep, part: str, console: Console) -> pd.DataFrame:
    """The images of a part's folder; notes in the run folder, and says, what a user should know of it."""
    most = sweep.train_images(os.cpu_count() or 1) if part == "fit" else None
    scanned = scan_folder(sweep.data, part, geometries(sweep), most)
    if most is not None and scanned.there > most:
        console.print(
            f"Using {most} of {scanned.there} images of the training folder, drawn by chance (data.train_images)",
            soft_wrap=True,
        )
    _note(run, scanned, "valid" if part == "report" else "train", sweep, console)
    return scanned.images


def _examined(run: RunDir, sweep: Sweep, console: Console) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of both folders, those of the training folder first, and the pairs that are alike."""
    training = _scan(run, sweep, "fit", console)
    report = _report_if_there(run, sweep, console)
    folders = [training.assign(folder="train"), *([] if report is None else [report.assign(folder="valid")])]
    images = pd.concat(folders, ignore_index=True)
    return images, _like(images, sweep, console)


def _report_if_there(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame | None:
    """The images of the report folder, to be compared with the training images; None where they can't be read yet."""
    if sweep.data.valid_fraction is None:
        try:
            return _scan(run, sweep, "report", console)
        except (DataError, StorageError) as error:
            console.print(
                f"The report part can't be compared with the training images yet: {error}", soft_wrap=True, markup=False
            )
    return None


def _like(images: pd.DataFrame, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The pairs of images that are the same or look alike: first, second (positions, in order), kind."""
    folders = {"train": image_folder(sweep.data, "fit"), "valid": image_folder(sweep.data, "report")}
    paths = [folders[folder] / path for folder, path in zip(images["folder"], images["path"], strict=True)]

    def read(number: int) -> np.ndarray:
        return decode(paths[number].read_bytes())

    with console.status("Looking for images that are alike"):
        found = find_pairs(images["digest"].tolist(), images, read, os.cpu_count() or 1)
    rows = [(pair.first, pair.second, pair.kind) for pair in found]
    return pd.DataFrame(rows, columns=["first", "second", "kind"])


def _divided(training: pd.DataFrame, sweep: Sweep, pairs: pd.DataFrame) -> pd.DataFrame:
    """The catalog of the training images (the first of those that `pairs` speaks of)."""
    first, second = pairs["first"].to_numpy(int), pairs["second"].to_numpy(int)
    inside = second < len(training)
    stays = np.ones(len(training), bool)
    if sweep.data.report_duplicates == "leave_out":
        stays[first[(first < len(training)) & ~inside]] = False
    position = np.cumsum(stays) - 1
    links = np.column_stack([first, second])[inside]
    links = position[links[stays[links].all(axis=1)]]
    divided = divide(training[stays].reset_index(drop=True), sweep.data, sweep.seed, links, sweep.select_images)
    alone = np.arange((~stays).sum()) + divided["bundle"].max() + 1
    rest = training[~stays].assign(bundle=alone, part=LEFT_OUT)
    return pd.concat([divided, rest]).sort_values("path", ignore_index=True)[COLUMNS]


def _audit(
    run: RunDir, sweep: Sweep, images: pd.DataFrame, pairs: pd.DataFrame, catalog: pd.DataFrame | None
) -> pd.DataFrame:
    """Writes audit.json and images.parquet: `images` with `part` and `alike`, a number that near duplicates share.

    `catalog` says which part each training image is in. Returns what images.parquet holds.
    """
    parts: pd.Series[str] | str = ""
    if catalog is not None:
        known = catalog.set_index("path")["part"]
        parts = images["path"].map(known).where(images["folder"] == "train", "report")
    images = images.assign(part=parts, alike=groups(len(images), pairs[["first", "second"]].to_numpy(int)))
    run.write_images(images)
    unreadable = pd.concat([_unreadable(run, "train"), _unreadable(run, "valid")])
    write_audit(
        run.audit_file, audit_images(images, pairs, unreadable, sweep.data.reencode is not None, seed=sweep.seed)
    )
    return images


def _links(audited: pd.DataFrame) -> np.ndarray:
    """(n, 2) int: position of each image, and of the first of its near duplicates, itself among them."""
    alike = audited.get("alike", pd.Series(range(len(audited))))  # runs begun by an earlier version have none
    first, of = np.unique(alike.to_numpy(), return_index=True, return_inverse=True)[1:]
    return np.column_stack([np.arange(len(audited)), first[of]])


def training_changes(run: RunDir, sweep: Sweep, catalog: pd.DataFrame) -> list[str]:
    """What differs between the sweep's training folder and the one that a run's catalog was made of; empty if nothing.

    By names, sizes and times. Raises DataError where the folder can't be used.
    """
    known = catalog if sweep.data.valid_fraction is not None else catalog[catalog["part"] != "report"]
    known = pd.concat([known, _unreadable(run, "train")])
    # how many are drawn with a budget depends on the machine, and was settled when the catalog was made
    drawn = len(known) if sweep.train_images(os.cpu_count() or 1) is not None else None
    return changes(sweep.data, "fit", known, drawn)


def _check_unchanged(run: RunDir, sweep: Sweep, catalog: pd.DataFrame) -> None:
    changed = training_changes(run, sweep, catalog)
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

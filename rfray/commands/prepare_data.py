"""sweep + folders -> a run's catalog.parquet and audit.json: by `rfray tune`; test by `rfray ensemble`."""

import os

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.audit.audit import audit_images
from rfray.data.catalog import (
    COLUMNS,
    Scanned,
    changes,
    divide,
    fold_of,
    group_ids,
    image_folder,
    scan_folder,
)
from rfray.data.changed import training_changes, unreadable
from rfray.data.decoding import decode
from rfray.data.geometry import geometries
from rfray.data.near_duplicates import find_pairs, linked_groups
from rfray.data.pixel_cache import no_room_in_cache
from rfray.errors import AuditError, DataError, RunError, StorageError
from rfray.spec.sweep import Sweep
from rfray.store.audit_record import read_audit
from rfray.store.files import replacing
from rfray.store.records import write_record
from rfray.store.run_dir import RunDir
from rfray.store.tables import read_audited_images, read_catalog, write_audited_images, write_catalog

LEFT_OUT = "left out"
"""The part of training images that also stand in test."""


def prepare_training(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The catalog of train and val, read from the run folder or else from the images, which are audited then.

    Raises DataError where the images can't be used, RunError where they have changed since the sweep began.
    """
    if run.catalog_file.exists():
        catalog = read_catalog(run)
        _check_unchanged(run, sweep, catalog)
    else:
        images, pairs = _examined(run, sweep, console)
        catalog = _divided(images[images["folder"] == "train"], sweep, pairs)
        _audit(run, sweep, images, pairs, catalog)
        write_catalog(run, catalog)
    if sweep.data.folds is not None:
        fold_of(catalog, (1, sweep.data.folds), sweep.seed)  # before a whole sweep has been trained for nothing
    counts = catalog.groupby(["part", "label"]).size()
    console.print(
        "Images: "
        + ", ".join(
            f"{part} {counts.get((part, 0), 0)} real + {counts.get((part, 1), 0)} fake"
            for part in ("train", "val", *([LEFT_OUT] if LEFT_OUT in counts else []))
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


def prepare_test(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Adds test to the catalog, anew where its folder has changed, and then to the audit.

    Where the folder is gone but was read before, the earlier predictions still hold; nothing is changed then.
    Raises DataError where the images can't be used or were never there.
    """
    catalog = read_catalog(run)
    if sweep.data.test_share is not None:
        return  # cut out of the training folder when the sweep began
    others = catalog[catalog["part"] != "test"]
    known = catalog[catalog["part"] == "test"]
    images = read_audited_images(run)
    audited = images[images["folder"] == "test"]
    try:
        changed = changes(sweep.data, "test", pd.concat([audited, unreadable(run, "test")]))
    except (DataError, StorageError) as error:
        if known.empty:
            raise
        console.print(f"Going on with test as it was read before: {error}", soft_wrap=True, markup=False)
        return
    if changed:
        if len(audited):
            what = f"Test has changed ({len(changed)} files, e.g. {changed[0]}); reading it again"
            console.print(what, soft_wrap=True, markup=False)
        audited = _scan(run, sweep, "test", console).assign(folder="test")
        images = pd.concat([images[images["folder"] == "train"], audited], ignore_index=True)
        images = _audit(run, sweep, images, _like(images, sweep, console), others)
        audited = images[images["folder"] == "test"]
    elif len(known):
        return
    numbers = 1 + others["group_id"].max() + group_ids(audited, sweep.data, _links(audited))
    test = audited.assign(group_id=numbers, part="test")[COLUMNS]
    write_catalog(run, pd.concat([others, test], ignore_index=True))


def _scan(run: RunDir, sweep: Sweep, part: str, console: Console) -> pd.DataFrame:
    """The images of a part's folder; notes in the run folder, and says, what a user should know of it."""
    most = sweep.train_images(os.cpu_count() or 1) if part == "train" else None
    scanned = scan_folder(sweep.data, part, geometries(sweep), most)
    if most is not None and scanned.there > most:
        console.print(
            f"Using {most} of {scanned.there} images of the training folder, drawn by chance (data.train_images)",
            soft_wrap=True,
        )
    _note(run, scanned, part if part == "test" else "train", sweep, console)
    return scanned.images


def _examined(run: RunDir, sweep: Sweep, console: Console) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of both folders, those of the training folder first, and the pairs that are alike."""
    training = _scan(run, sweep, "train", console)
    test = _test_if_there(run, sweep, console)
    folders = [training.assign(folder="train"), *([] if test is None else [test.assign(folder="test")])]
    images = pd.concat(folders, ignore_index=True)
    return images, _like(images, sweep, console)


def _test_if_there(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame | None:
    """The images of the test folder, to be compared with the training images; None where they can't be read yet."""
    if sweep.data.test_share is None:
        try:
            return _scan(run, sweep, "test", console)
        except (DataError, StorageError) as error:
            console.print(f"Test can't be compared with the training images yet: {error}", soft_wrap=True, markup=False)
    return None


def _like(images: pd.DataFrame, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The pairs of images that are the same or look alike: first, second (positions, in order), kind."""
    folders = {"train": image_folder(sweep.data, "train"), "test": image_folder(sweep.data, "test")}
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
    if sweep.data.test_duplicates == "leave_out":
        stays[first[(first < len(training)) & ~inside]] = False
    position = np.cumsum(stays) - 1
    links = np.column_stack([first, second])[inside]
    links = position[links[stays[links].all(axis=1)]]
    divided = divide(training[stays].reset_index(drop=True), sweep.data, sweep.seed, links, sweep.val_images)
    alone = np.arange((~stays).sum()) + divided["group_id"].max() + 1
    rest = training[~stays].assign(group_id=alone, part=LEFT_OUT)
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
        parts = images["path"].map(known).where(images["folder"] == "train", "test")
    images = images.assign(part=parts, alike=linked_groups(len(images), pairs[["first", "second"]].to_numpy(int)))
    write_audited_images(run, images)
    missing = pd.concat([unreadable(run, "train"), unreadable(run, "test")])
    write_record(run.audit_file, audit_images(images, pairs, missing, sweep.data.reencode is not None, seed=sweep.seed))
    return images


def _links(audited: pd.DataFrame) -> np.ndarray:
    """(n, 2) int: position of each image, and of the first of its near duplicates, itself among them."""
    alike = audited.get("alike", pd.Series(range(len(audited))))  # runs begun by an earlier version have none
    first, of = np.unique(alike.to_numpy(), return_index=True, return_inverse=True)[1:]
    return np.column_stack([np.arange(len(audited)), first[of]])


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
        console.print(f"Warning: {no_room_in_cache(sweep.data.cache)}", soft_wrap=True, markup=False)
    others = unreadable(run, "train" if folder == "test" else "test")
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

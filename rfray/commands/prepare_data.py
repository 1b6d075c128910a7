"""A sweep and its data folders -> the run's catalog.parquet, images.parquet, unreadable.csv and audit.json.

`rfray tune` prepares train and val; `rfray ensemble` adds test.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.audit.audit import audit_images
from rfray.audit.left_out import with_left_out
from rfray.data.attributes import in_several_folders, read_attributes, unmatched
from rfray.data.catalog import check_unreadable, divide, group_ids, identities, scan_folder
from rfray.data.decoding import UnreadableImageError, decode, read_image
from rfray.data.folders import changes, image_folder, is_there, list_images, most_images, training_changes
from rfray.data.geometry import geometries
from rfray.data.held_out import LEFT_OUT
from rfray.data.images import no_room_in_cache
from rfray.data.leave_out import left_out_rows, list_changes, read_leave_out, refuse_unknown, unknown_paths
from rfray.data.near_duplicates import find_pairs, linked_groups
from rfray.data.node_cache import cache_folder, remove_unfinished
from rfray.data.rotations import fold_count, judged_on, training_rotations
from rfray.data.sources import source_counts
from rfray.errors import AuditError, DataError, RunError, StorageError
from rfray.evaluation.left_out import best_left_out
from rfray.progress.phases import doing, say
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES, Sweep
from rfray.store.csv_files import csv_text
from rfray.store.files import below
from rfray.store.ownership import check_own, claim_run
from rfray.store.records import Audit
from rfray.store.run_dir import CATALOG, UNREADABLE, RunDir
from rfray.store.storage import is_address

ELSEWHERE = "Where it is elsewhere now: --set {}=FOLDER"
"""What `rfray ensemble` says of a folder that is not there, as of a run that came from another machine."""


def prepare_training(run: RunDir, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The catalog of train and val, read from the run folder or else from the images, which are audited then.

    The folder is the sweep's own then. Raises DataError where the images can't be used, RunError where they have
    changed since the sweep began, or the folder is another sweep's: sweep.yaml stays as it was.
    """
    check_own(run, sweep)
    remove_unfinished(cache_folder(sweep.data.cache))
    if run.catalog_file.exists():
        check_training(run, sweep)
        _check_list(run, sweep)
        catalog = run.catalog()
    claim_run(run, sweep)
    if not run.catalog_file.exists():
        images, pairs = scan_all(run, sweep, console)
        unwanted = _unwanted(run, sweep, images, console)
        catalog = _divided(images, sweep, pairs, unwanted)
        with doing(console, "Auditing the images"):
            write_audit(run, sweep, images, pairs, catalog)
        run.write_catalog(catalog)
        if (wanted := sweep.data.val_images) is not None and (val := (catalog["part"] == "val").sum()) < wanted:
            say(console, f"Note: data.val_images: {wanted} has no effect, as val has {val} images")
    prepare_attributes(run, sweep, console)
    if sweep.judges_unseen:
        say(console, *training_rotations(catalog).lines())
    count = fold_count(run, sweep)
    for number in range(1, count + 1 if sweep.judges_unseen else min(count, 1) + 1):
        judged_on(catalog, (number, count), sweep)  # raises now, not after the whole sweep was trained
    counts = catalog.groupby(["part", "label"]).size()
    parts = ("train", "val", *([LEFT_OUT] if LEFT_OUT in counts else []))
    shown = [f"{part} {counts.get((part, 0), 0)} real + {counts.get((part, 1), 0)} fake" for part in parts]
    say(console, f"Images: {', '.join(shown)}")
    return catalog


def _unwanted(run: RunDir, sweep: Sweep, images: pd.DataFrame, console: Console) -> np.ndarray:
    """(n,) bool: which of the images `data.leave_out` names; keeps the list in the run, and says how many.

    Raises DataError where it names what is no training image.
    """
    where = sweep.data.leave_out
    if where is None:
        return np.zeros(len(images), bool)
    table = read_leave_out(where)
    is_training = ~images["folder"].map(is_test)
    known = [images.loc[is_training, ["folder", "path"]], run.unreadable()[["folder", "path"]]]
    known += [  # of which some were drawn
        list_images(sweep.data, folder)[["path"]].assign(folder=folder)
        for folder in sweep.data.training_folders
        if most_images(sweep, folder) is not None
    ]
    refuse_unknown(where, unknown_paths(table, pd.concat(known)), str(image_folder(sweep.data, "train")))
    chosen = (left_out_rows(table, images) & is_training).to_numpy()
    real, fake = ((images["label"] == label)[chosen].sum() for label in (0, 1))
    for label, name in enumerate(CLASSES):
        if not (is_training & (images["label"] == label) & ~chosen).any():
            raise DataError(f"{where}: it names every training image of class {name}; allowed: some of each class")
    others = f"; {len(table) - chosen.sum():,} of its paths take no part anyway" if len(table) > chosen.sum() else ""
    say(console, f"data.leave_out: {real:,} real and {fake:,} fake images are left out of train and val{others}")
    run.write_table(run.leave_out_file, table)
    return np.asarray(chosen)


def _check_list(run: RunDir, sweep: Sweep) -> None:
    """Raises RunError where `data.leave_out` names other images than when the sweep began, as trials depend on it."""
    before, where = run.leave_out(), sweep.data.leave_out
    changed = list_changes(before, read_leave_out(where)) if before is not None and where is not None else ""
    if changed:
        raise RunError(
            f"data.leave_out: {where} names other images than when this sweep began: {changed}. Put it back, or start "
            "anew with --fresh (the old run folder is moved aside)"
        )


def check_training(run: RunDir, sweep: Sweep) -> None:
    """Raises RunError where the images of train and val are not those that the run's catalog was made of.

    Files that only have another time, as they were copied or touched, are the same; the new times are noted.
    Raises DataError where more of them are unreadable than are allowed by now.
    """
    run.check_images()
    unreadable = run.unreadable()
    for folder in sweep.data.training_folders:
        if len(bad := unreadable[unreadable["folder"] == folder]):
            read = (run.audited_images()["folder"] == folder).sum()
            check_unreadable(sweep.data, folder, bad, len(bad) + int(read))
    times: dict[tuple[str, str], int] = {}
    changed = training_changes(run, sweep, run.catalog(), times)
    _note_times(run, times)
    if changed:
        raise RunError(
            f"{len(changed)} images have changed since this sweep began:",
            *(f"  {line}" for line in changed[:10]),
            "Put them back, or start anew with --fresh (the old run folder is moved aside).",
        )


def check_audit(run: RunDir, accepted: bool, console: Console) -> None:
    """Prints the audit's warnings. Raises AuditError where it has found errors that the user has not accepted."""
    audit = run.audit()
    if audit is None:
        raise RunError(f"{run.audit_file} is gone; start anew with --fresh (the old run folder is moved aside)")
    errors = [f"{one.sentence} {one.what_to_do}" for one in audit.graded("error")]
    warnings = [f"{one.sentence} {one.what_to_do}" for one in audit.graded("warning")]
    for said in [*errors, *warnings] if accepted else warnings:
        say(console, f"Audit: {said}")
    if errors and not accepted:
        raise AuditError(
            "the audit of the images has found what would make the results mislead:",
            *(f"  {line}" for line in errors),
            f"Mend that, or go on all the same with --accept-audit; all findings are in {run.audit_file}",
        )


def prepare_test(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Adds the test sets to the catalog, each anew where its folder has changed, and then to the audit.

    Where a folder is gone but was read before, the earlier predictions still hold; nothing is changed then. A set that
    the sweep has no more goes. Raises DataError where the images can't be used or were never there.
    """
    if sweep.data.share("test") is not None:
        return  # cut out of the training folder when the sweep began
    parts, times = sweep.data.test_parts, dict[tuple[str, str], int]()
    tables = run.catalog(), run.audited_images(), run.unreadable()
    changed = [part for part in parts if _test_has_changed(tables, sweep, part, times, console)]
    _note_times(run, times)
    catalog, images = (run.catalog(), run.audited_images()) if times else tables[:2]
    others = catalog[~catalog["part"].map(is_test)]
    noted = run.unreadable()
    gone = {folder for folder in {*images["folder"], *noted["folder"]} if is_test(folder)} - {*parts}
    if changed or gone:
        if noted["folder"].isin(gone).any():
            run.write_vouched(run.unreadable_file, csv_text(noted[~noted["folder"].isin(gone)]).encode())
        found = [_scan(run, sweep, part, console) for part in changed]
        images = pd.concat([images[~images["folder"].isin([*changed, *gone])], *found], ignore_index=True)
        pairs = _similar_pairs(images, sweep, console)
        with doing(console, "Auditing the images"):
            images = write_audit(run, sweep, images, pairs, others)
    tests = images[images["folder"].isin(parts)]
    same = ["folder", "path", "label", "digest"]
    if _in_order(catalog.loc[catalog["part"].map(is_test), same]).equals(_in_order(tests[same])):
        return
    for part in parts:
        numbered = _with_groups(tests[tests["folder"] == part], sweep, first=1 + int(others["group_id"].max()))
        others = pd.concat([others, numbered.assign(part=part)[CATALOG]], ignore_index=True)
    run.write_catalog(others)


def _test_has_changed(
    tables: Iterable[pd.DataFrame], sweep: Sweep, part: str, times: dict[tuple[str, str], int], console: Console
) -> bool:
    """Whether the folder of a test set is not what was read of it; for `times`, see `changes`.

    `tables`: the catalog, the audited images, the unreadable files. False where the folder is gone, if it was read
    before. Raises DataError where it was never there or can't be used.
    """
    title = sweep.data.title(part)
    known, audited, unreadable = (table[table["folder"] == part] for table in tables)
    try:
        changed = changes(sweep.data, part, pd.concat([audited, unreadable]), times=times)
    except (DataError, StorageError) as error:
        if not known.empty:
            say(console, f"Going on with {title} as it was read before: {error}")
            return False
        if not is_there(sweep.data, part):
            raise DataError(f"{error}. {ELSEWHERE.format(sweep.data.key(part))}") from None
        raise
    if changed and len(audited):
        say(console, f"{_capital(title)} has changed ({len(changed)} files, e.g. {changed[0]}); reading it again")
    return bool(changed)


def _with_groups(audited: pd.DataFrame, sweep: Sweep, first: int) -> pd.DataFrame:
    """The images of a test set with `group_id`, from `first` on."""
    _, one, of = np.unique(audited["alike"].to_numpy(), return_index=True, return_inverse=True)
    links = np.column_stack([np.arange(len(audited)), one[of]])  # each image and the first of its near duplicates
    return audited.assign(group_id=first + group_ids(audited, sweep.data, links))


def _capital(title: str) -> str:
    return f"{title[0].upper()}{title[1:]}"


def _in_order(images: pd.DataFrame) -> pd.DataFrame:
    return images.astype(str).sort_values(["folder", "path"], ignore_index=True)


def prepare_attributes(run: RunDir, sweep: Sweep, console: Console) -> None:
    """Keeps the table of `data.attributes` in the run, and says which images it is not about.

    Where it is gone but was read before, that holds. Raises DataError where it is no table of these images.
    """
    where = sweep.data.attributes
    if where is None:
        if run.attributes_file.exists():
            run.vouch({run.attributes_file: None})
            run.mirror.remove([run.attributes_file])
        return
    try:
        table = read_attributes(where)
    except (DataError, StorageError) as error:
        if (is_address(where) or not Path(where).exists()) and run.attributes_file.exists():
            say(console, f"Going on with data.attributes as it was read before: {error}")
            return
        raise
    images = run.audited_images()
    if sweep.data.share("test") is None and "test" not in set(images["folder"]):
        images = images.iloc[:0]  # test is not there yet, and may be what the table is about
    if len(images):
        say(console, *unmatched(table, images, where), *in_several_folders(table, images))
    run.write_table(run.attributes_file, table)


def _note_times(run: RunDir, times: Mapping[tuple[str, str], int]) -> None:
    """Writes new times of files, (folder, path) -> time, into the tables of a run that they are compared with."""
    if not times:
        return

    def renewed(table: pd.DataFrame) -> pd.DataFrame:
        rows = zip(table["folder"], table["path"], table["modified"], strict=True)
        return table.assign(modified=[times.get((folder, path), before) for folder, path, before in rows])

    if any(is_test(folder) for folder, _ in times):  # of train and val, the catalog is compared
        run.write_table(run.images_file, renewed(run.audited_images()))
    run.write_vouched(run.unreadable_file, csv_text(renewed(run.unreadable())).encode())
    run.write_catalog(renewed(run.catalog()))


def scan_all(run: RunDir, sweep: Sweep, console: Console) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of all folders, those of test last (as far as they can be read yet), and the pairs that are alike."""
    found = [_scan(run, sweep, folder, console) for folder in sweep.data.training_folders]
    for part in sweep.data.test_parts if sweep.data.share("test") is None else ():
        try:
            found.append(_scan(run, sweep, part, console))
        except (DataError, StorageError) as error:
            said = f"{_capital(sweep.data.title(part))} can't be compared with the training images yet: {error}"
            say(console, *said.splitlines())
    images = pd.concat(found, ignore_index=True)
    if sweep.data.group_pattern is not None:
        texts = identities(images["path"], sweep.data.group_pattern)
        matched, different = texts.map(bool).sum(), texts.explode().nunique()
        say(console, f"data.group_pattern: {matched} of {len(images)} images match, {different} identities")
    if counts := source_counts(images[~images["folder"].map(is_test)]):
        say(console, f"Sources of the training images: {counts}")
    return images, _similar_pairs(images, sweep, console)


def _scan(run: RunDir, sweep: Sweep, folder: str, console: Console) -> pd.DataFrame:
    """The usable images of a data folder; writes unreadable.csv, and prints what a user should know."""
    most = most_images(sweep, folder)
    scanned = scan_folder(sweep.data, folder, geometries(sweep), most)
    key = f"{folder}_images"
    if most is not None and scanned.there > most:
        say(console, f"Using {most} of {scanned.there} images of the {folder} folder, drawn at random (data.{key})")
    elif folder == "train" and sweep.data.train_images is not None:
        say(console, f"Note: data.{key}: {most} has no effect, as the folder has {scanned.there} images")
    if passed := str(scanned.passed):
        say(console, f"Passed over in the {folder} folder: {passed}")
    if not scanned.cached:
        say(console, f"Warning: {no_room_in_cache(sweep.data.cache)}")
    noted, found = run.unreadable(), scanned.unreadable
    others = noted[noted["folder"] != folder]
    both = (pd.concat([others, found]) if len(others) else found)[UNREADABLE]
    run.write_vouched(run.unreadable_file, csv_text(both).encode())
    if len(found):
        say(console, f"Warning: {len(found)} files can't be read and are left out (see {run.unreadable_file}):")
        for row in found.head(10).itertuples():
            say(console, f"  {row.path}: {row.reason}")
    return scanned.images


def _similar_pairs(images: pd.DataFrame, sweep: Sweep, console: Console) -> pd.DataFrame:
    """The pairs of images that are the same or look alike: first, second (positions, in order), kind."""
    folders = {folder: image_folder(sweep.data, folder) for folder in images["folder"].unique()}
    gone = [folder for folder in folders if not is_there(sweep.data, folder)]
    for folder in gone:  # of a run that came from elsewhere, or a test set that was read before
        others = "the other folders" if is_test(folder) else "test"
        say(
            console,
            f"{folders[folder]} is not there, so of its images in {others} only exact copies are found, none that are "
            f"alike. {ELSEWHERE.format(sweep.data.key(folder))}",
        )
    files = zip(images["folder"], images["path"], strict=True)
    paths = [None if folder in gone else below(folders[folder], path) for folder, path in files]

    def picture(number: int) -> np.ndarray | None:
        if (path := paths[number]) is None:
            return None
        try:
            return decode(read_image(path))
        except UnreadableImageError as error:
            raise DataError(f"{path} could be read a moment ago: {error}") from None

    with doing(console, "Looking for images that are alike"):
        return find_pairs(images["digest"].tolist(), images, picture, os.cpu_count() or 1)


def _divided(images: pd.DataFrame, sweep: Sweep, pairs: pd.DataFrame, unwanted: np.ndarray) -> pd.DataFrame:
    """The catalog of train and val, made of `images` of all folders, those of test last; `unwanted` ones take no part.

    Raises DataError where train or val lacks a class, because all its images are also in test, or unwanted.
    """
    training = images[~images["folder"].map(is_test)]
    first, second = pairs["first"].to_numpy(int), pairs["second"].to_numpy(int)  # first < second; test comes last
    stays = ~unwanted[: len(training)]
    if sweep.data.test_duplicates == "leave_out":
        stays[first[(first < len(training)) & (second >= len(training))]] = False
    links = np.column_stack([first, second])[second < len(training)]
    links = links[stays[links].all(axis=1)]
    links = (np.cumsum(stays) - 1)[links]  # numbered without those left out
    divided = divide(training[stays].reset_index(drop=True), sweep.data, sweep.seed, links, sweep.val_images)
    counts = divided.groupby(["part", "label"]).size()
    for part, (label, name) in product(("train", "val"), enumerate(CLASSES)):
        if (part, label) not in counts:
            raise DataError(
                f"{part}: no image of class {name} is left, as all of them are also in test, and so left out; give "
                "other images, or set data.test_duplicates: keep"
                + (", or name fewer in data.leave_out" if unwanted.any() else "")
            )
    alone = np.arange((~stays).sum()) + divided["group_id"].max() + 1
    rest = training[~stays].assign(group_id=alone, part=LEFT_OUT)
    return pd.concat([divided, rest]).sort_values(["folder", "path"], ignore_index=True)[CATALOG]


def write_audit(
    run: RunDir, sweep: Sweep, images: pd.DataFrame, pairs: pd.DataFrame, catalog: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Writes audit.json and images.parquet: `images` with `part` and `alike`, a number that near duplicates share.

    `catalog` says which part each image of train and val is in. Returns what images.parquet holds.
    """
    parts: pd.Series[str] | str = ""
    if catalog is not None:
        where = ["folder", "path"]
        parts = images[where].merge(catalog[[*where, "part"]], how="left", on=where)["part"]
        parts = parts.fillna(images["folder"])  # of a test set
    images = images.assign(part=parts, alike=linked_groups(len(images), pairs[["first", "second"]].to_numpy(int)))
    reencoded = sweep.data.reencode is not None
    on_val = not sweep.judges_unseen
    found = audit_images(images, pairs, run.unreadable(), reencoded, sweep.seed, sweep.data, on_val)
    run.write_vouched(run.audit_file, _with_left_out(run, found))
    run.write_table(run.images_file, images)  # last: folders are compared with it, and read again until it is there
    return images


def audit_left_out(run: RunDir) -> None:
    """Adds to audit.json what the probes came to on sources that were left out."""
    audit = run.audit()
    if audit is not None and (found := _with_left_out(run, audit)) != audit:
        run.write_vouched(run.audit_file, found)
        run.mirror.send(run.audit_file)


def _with_left_out(run: RunDir, audit: Audit) -> Audit:
    with suppress(RunError):  # a damaged probe is made anew, and will be asked then
        if (best := best_left_out(run)) is not None:
            return with_left_out(audit, best.found, best.backbone)
    return audit

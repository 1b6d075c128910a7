"""A bundle and image files -> a row a file: the steps of `rfray predict`."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# before torch: its threads share their cores with those that decode, which would wait for threads that wait by spinning
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rfray.data.listing import image_files
from rfray.errors import DataError, InputError, RfrayError
from rfray.models.bundle import detect, load_bundle
from rfray.models.grad_cam import write_heatmaps
from rfray.models.verdicts import VERDICTS, verdict_table
from rfray.report.verdict_rows import format_of, verdict_rows
from rfray.spec.sweep import Resources
from rfray.store.run_dir import read_bundle
from rfray.store.storage import is_address


def predict(
    bundle: str,
    words: Sequence[str],
    out: str | None,
    form: str | None,
    explain: Path | None,
    batch_size: int,
    each: tuple[float, float | None],
    address: str | None,
) -> None:
    """Predicts the files that `words` mean: into one file or the standard output, or into a folder of many shards.

    `out` is a folder where it is one or ends in /; `each` process that writes there gets so many cores and GPUs (None:
    one where there is any). Raises InputError for options that don't go together, and as the two functions below.
    """
    if out is None or not (out.endswith("/") or Path(out).is_dir()):
        predict_files(bundle, words, Path(out) if out is not None else None, form, explain, batch_size)
        return
    if form not in (None, "parquet") or explain is not None:
        raise InputError(f"--out {out}: into a folder, rows are written as Parquet, and nothing is explained")
    cpu, gpu = each
    resources = Resources(cpu=cpu, gpu="auto" if gpu is None else gpu)
    predict_into(Path(out), bundle, words, batch_size, resources, address)


def predict_files(
    where: str, words: Sequence[str], out: Path | None, form: str | None, explain: Path | None, batch_size: int
) -> None:
    """Writes what the bundle at `where` says of the files that `words` mean (see `image_files`) to `out`.

    `explain` is a folder for pictures of where it saw its evidence; their names stand in a further column. Raises
    InputError where there is nothing to read or no bundle, and RfrayError when all is written but some files could not
    be read.
    """
    chosen, paths = format_of(out, form), list(image_files(words, sys.stdin))
    if not paths:
        raise DataError("no image to predict: no path was given")
    if explain is not None:
        _make_folder("--explain", explain)
    bundle = load_bundle(where)
    found: Counter[str] = Counter()
    with _bar() as progress, verdict_rows(out, chosen) as write:
        task = progress.add_task("Predicting", total=len(paths))
        for seen in detect(bundle, paths, batch_size, os.cpu_count() or 1, keep_pictures=explain is not None):
            table = verdict_table(bundle.ensemble, seen.paths, seen.scores, seen.reasons)
            if explain is not None:
                first = found.total()
                table["evidence"] = write_heatmaps(bundle, seen, table["p_fake"].to_numpy(), explain, first)
            write(table)
            found.update(table["verdict"])
            progress.advance(task, len(seen.paths))
    _tell(found, out)


def predict_into(
    out: Path, where: str, words: Sequence[str], batch_size: int, resources: Resources, address: str | None
) -> None:
    """Predicts into a folder of Parquet shards, by many processes; shards that are there are not made again.

    Raises RunError where the folder holds something else, ClusterError, and as `predict_files`.
    """
    from rfray.inference.bulk import claim, predict_shards

    out = out.absolute()
    _make_folder("--out", out)
    where = where if is_address(where) else str(Path(where).absolute())
    read_bundle(where)  # a damaged one is refused before anything starts
    total, found = claim(out, where, words), Counter[str]()
    with _bar() as progress:
        task = progress.add_task("Predicting", total=total)
        for counts in predict_shards(out, where, batch_size, resources, address):
            found.update(counts)
            progress.update(task, completed=found.total())
    _tell(found, out)


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {folder}: {error.strerror}") from None


def _bar() -> Progress:
    """A progress bar that leaves the standard output, and logs, alone."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _tell(found: Counter[str], out: Path | None) -> None:
    """Says how many verdicts there were of each kind. Raises RfrayError where some files ("") got none."""
    said = ", ".join(f"{found[verdict]:,} {verdict}" for verdict in VERDICTS if found[verdict])
    unread = found[""]
    total = sum(found.values())
    into = f" Rows: {out}" if out is not None else ""
    if unread:
        raise RfrayError(
            f"{unread:,} of {total:,} files could not be read: their rows have the reason. "
            f"The others: {said or 'none'}.{into}"
        )
    images = "1 image" if total == 1 else f"{total:,} images"
    Console(stderr=True, highlight=False).print(f"{images}: {said}.{into}", soft_wrap=True, markup=False)

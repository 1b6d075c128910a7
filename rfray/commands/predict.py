"""A bundle and image files -> a row a file: the steps of `rfray predict`."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# before torch: its threads share their cores with those that decode, which would wait for threads that wait by spinning
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console
from rich.progress import Progress

from rfray.data.decoder_process import start_decoders
from rfray.data.folders import image_files
from rfray.data.listing import PassedOver, counted
from rfray.errors import DataError, DiskFullError, InputError, RfrayError, of_system
from rfray.models.bundle import detect, load_bundle
from rfray.models.grad_cam import write_heatmaps
from rfray.progress.phases import say, warn
from rfray.report.verdict_rows import format_of, verdict_rows
from rfray.spec.sweep import Resources
from rfray.stats.guessing import bundle_warning
from rfray.stats.voting import VERDICTS
from rfray.store.files import clear_left_over
from rfray.store.run_dir import read_bundle
from rfray.store.storage import is_address


def predict(
    bundle: str,
    paths: Sequence[str],
    out: str | None,
    form: str | None,
    explain: Path | None,
    batch_size: int,
    cpu_and_gpu: tuple[float, float | None],
    address: str | None,
) -> None:
    """Predicts the files that `paths` mean (see `image_files`): into one file or the standard output, or into shards.

    `out` is a folder of shards where it is one or ends in /. Many processes write there, with `cpu_and_gpu` each (no
    GPU given: one where there is any), and shards that are there are not made again. `explain` is a folder for
    pictures of where the bundle saw its evidence; their names stand in a further column.
    Raises InputError for options that don't go together, and where there is nothing to read or no bundle, RunError
    where the folder holds something else, and RfrayError when all is written but some files could not be read.
    """
    console = Console(stderr=True, highlight=False)
    if out is not None and (out.endswith("/") or Path(out).is_dir()):
        if form not in (None, "parquet") or explain is not None:
            raise InputError(f"--out {out}: into a folder, rows are written as Parquet, and nothing is explained")
        from rfray.inference.bulk import claim, predict_shards

        resources = Resources(cpu=cpu_and_gpu[0], gpu="auto" if cpu_and_gpu[1] is None else cpu_and_gpu[1])
        folder = Path(out).absolute()
        _make_folder("--out", folder)
        bundle = bundle if is_address(bundle) else str(Path(bundle).absolute())
        warn(console, bundle_warning(read_bundle(bundle)[1]))  # a damaged one is refused before anything starts
        passed = PassedOver()
        with _counting(console, claim(folder, bundle, paths, passed), folder) as count:
            _say_passed(console, passed)
            for verdicts in predict_shards(folder, bundle, batch_size, resources, address):
                count(verdicts)
        return
    file, passed = Path(out) if out is not None else None, PassedOver()
    chosen, files = format_of(file, form), list(image_files(paths, sys.stdin or (), passed))
    if not files:
        raise DataError("no image to predict: no path was given")
    if explain is not None:
        _make_folder("--explain", explain)
    start_decoders(min(os.cpu_count() or 1, -(-len(files) // batch_size)))  # while the bundle is loaded
    loaded, done = load_bundle(bundle), 0
    undrawn: list[OSError | RfrayError] = []
    with _counting(console, len(files), file, undrawn) as count, verdict_rows(file, chosen) as write:
        warn(console, bundle_warning(loaded.ensemble))
        _say_passed(console, passed)
        for seen in detect(loaded, files, batch_size, os.cpu_count() or 1, keep_pictures=explain is not None):
            table, _ = seen
            if explain is not None:
                try:
                    table["evidence"] = "" if undrawn else write_heatmaps(loaded, seen, explain, done)
                except (OSError, DiskFullError) as error:  # no reason to lose the rows
                    table["evidence"] = ""
                    undrawn.append(error)
            write(table)
            done += len(table)
            count(table["verdict"])
    if undrawn:
        raise undrawn[0]


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_left_over(folder)
    except OSError as error:
        raise of_system(error, f"{option} {folder}") from None


def _say_passed(console: Console, passed: PassedOver) -> None:
    if said := str(passed):
        say(console, f"Passed over: {said}")


@contextmanager
def _counting(
    console: Console, total: int, out: Path | None, undrawn: Sequence[OSError | RfrayError] = ()
) -> Iterator[Callable[[Iterable[str]], None]]:
    """What counts verdicts and moves a progress bar, which leaves the standard output and logs alone.

    At the end says how many there were of each kind. Raises RfrayError where some files ("") got none, which also says
    why evidence could not be drawn.
    """
    found = Counter[str]()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Predicting", total=total)

        def count(verdicts: Iterable[str]) -> None:
            found.update(verdicts)
            progress.update(task, completed=found.total())

        yield count
    said = ", ".join(f"{found[verdict]:,} {verdict}" for verdict in VERDICTS if found[verdict]) or "none"
    rows = f" Rows: {out}" if out is not None else ""
    if found[""]:
        raise RfrayError(
            f"{found['']:,} of {found.total():,} files could not be read: their rows have the reason. "
            f"The others: {said}.{rows}",
            *(str(of_system(error) if isinstance(error, OSError) else error) for error in undrawn),
        )
    say(console, f"{counted(found.total(), 'image')}: {said}.{rows}")

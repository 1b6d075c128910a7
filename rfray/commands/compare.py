"""Several run folders -> one joined leaderboard, and tests between their ensembles: the steps of `rfray compare`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rfray.evaluation.run_comparison import READ, check_ending, compare_runs, write_comparison
from rfray.progress.phases import say, warn
from rfray.report.terminal import comparison_table
from rfray.store.run_dir import RunDir


def compare(runs: Sequence[RunDir], top: int, out: Path | None, console: Console) -> None:
    """Prints the best `top` models of each run besides its ensembles, and which ensemble is better and how surely.

    `out` (.csv or .md) gets all rows. Raises InputError for another ending, RunError where the runs were tested on
    different images.
    """
    if out is not None:
        check_ending(out)
    for run in runs:
        run.mirror.pull(*READ)
    found = compare_runs(runs)
    for warning in found.warnings:
        warn(console, warning)
    console.print(comparison_table(found, top, console.width))
    say(console, *found.sentences)
    for path in write_comparison(found, out) if out is not None else []:
        say(console, str(path))

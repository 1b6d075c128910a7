"""python -m benchmarks [NAME ...] -> results/<name>.json and the table in README.md."""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.audit import audit
from benchmarks.cache import cache
from benchmarks.figures import Figure
from benchmarks.leaderboard import intervals, leaderboard, votes
from benchmarks.overhead import overhead
from benchmarks.predicting import predicting
from benchmarks.quality import quality, write_quality_tables
from benchmarks.record import README, RESULTS, table, write_result, write_table
from benchmarks.scale import scale
from benchmarks.serving import serving
from benchmarks.sweeps import large, many
from benchmarks.throughput import throughput

Benchmark = Callable[..., list[Figure]]
"""Called with a folder of its own, and with sizes as whole numbers; the defaults are those of `make bench`."""

BENCHMARKS: dict[str, Benchmark] = {
    "sweep-large": large,
    "sweep-many": many,
    "throughput": throughput,
    "predicting": predicting,
    "overhead": overhead,
    "cache": cache,
    "audit": audit,
    "leaderboard": leaderboard,
    "votes": votes,
    "intervals": intervals,
    "scale": scale,
    "serving": serving,
    "quality": quality,
}

ON_REQUEST = {"quality"}
"""Too long for `make bench`: measured where they are named."""

FULL: dict[str, Mapping[str, int]] = {
    "sweep-large": {"trials": 6, "images": 2000, "epochs": 3},
    "sweep-many": {"trials": 24, "images": 400},
    "leaderboard": {"trials": 1000, "images": 20_000},
    "votes": {"trials": 200, "images": 10_000},
    "serving": {"seconds": 60, "rounds": 3},
    "scale": {"trials": 1000, "epochs": 10, "slots": 64, "sleep_ms": 10_000, "images": 10_000},
    "quality": {"minutes": 12, "seeds": 3},
}
"""The sizes that the goals speak of, where `make bench` has no time for them."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the named benchmarks, or all, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="say what there is, measure nothing")
    parser.add_argument("--full", action="store_true", help="the sizes that the goals speak of: about an hour")
    parser.add_argument("--set", action="append", default=[], metavar="SIZE=N", help="another size, e.g. images=100")
    parser.add_argument("--results", type=Path, help="folder for the results; the table in README.md is left alone")
    asked = parser.parse_args(words)
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    if asked.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12} {(benchmark.__doc__ or '').splitlines()[0]}")
        return
    given = {name: int(number) for name, _, number in (one.partition("=") for one in asked.set)}
    names = asked.names or [name for name in BENCHMARKS if name not in ON_REQUEST]
    for name in names:
        sizes = {**(FULL.get(name, {}) if asked.full else {}), **given}
        print(f"{name} {sizes or ''}", flush=True)
        with tempfile.TemporaryDirectory(prefix="rfray-bench-") as folder:
            figures = BENCHMARKS[name](Path(folder), **sizes)
        print(f"  -> {write_result(asked.results or RESULTS, name, sizes, figures)}", flush=True)
    if asked.results is None:
        write_table(README, table(RESULTS, BENCHMARKS))
        write_quality_tables()
    print(table(asked.results or RESULTS, names))


if __name__ == "__main__":
    main()

"""python -m tests.fuzz: tries inputs for some minutes, or the first ones of a seed, or one again."""

import argparse
import itertools
import os
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tests.fuzz.runner import again, findings, kept

INPUTS = {"images": 3000, "records": 80, "sweeps": 400, "tables": 300, "requests": 200}
"""Kind -> how many inputs CI tries: together about a minute of CPU time."""
FOUND = Path("build", "fuzz")


def main() -> int:
    """Returns the exit code: 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", nargs="*", help=f"{', '.join(INPUTS)}; by default all of them")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--inputs", type=int, help="so many of each kind, instead of minutes")
    parser.add_argument("--seed", type=int, help="by default another one each time", default=int(time.time()))
    parser.add_argument("--first", type=int, help="the number that is begun with", default=0)
    parser.add_argument("--again", type=Path, help="the folder with an input that something was found with")
    given = parser.parse_args()
    kinds = given.kind or list(INPUTS)
    if unknown := set(kinds) - set(INPUTS):
        parser.error(f"{', '.join(unknown)}: allowed: {', '.join(INPUTS)}")
    if given.again is not None:
        said = again(f"tests.fuzz.{kinds[0]}", kept(given.again))
        print(said or "nothing but what is documented")
        return bool(said)
    end, known, one_at_a_time = time.monotonic() + 60 * given.minutes, set[str](), Lock()

    def numbers() -> Iterator[int]:
        for number in itertools.count(given.first):
            if time.monotonic() > end if given.inputs is None else number >= given.first + given.inputs:
                return
            tried.append(number)
            yield number

    def search(kind: str) -> None:
        for found in findings(f"tests.fuzz.{kind}", given.seed, numbers()):
            with one_at_a_time:
                if found.fault not in known:  # the first of each fault
                    known.add(found.fault)
                    print(f"\n{found}\nAgain: {found.keep(FOUND)}", flush=True)

    tried: list[int] = []
    print(f"Seed {given.seed}", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(search, kinds))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{len(tried):,} inputs in {used.ru_utime + used.ru_stime:.0f} s of CPU time: {len(known)} faults found")
    return bool(known)


if __name__ == "__main__":
    sys.exit(main())

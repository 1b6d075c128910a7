"""A kind, a seed and numbers -> inputs, each checked in a process with limits -> findings, each kept as a file.

Time is that of the cores, not of the clock: a machine that does other things besides finds nothing else.
"""

import multiprocessing
import os
import resource
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

CPU_SECONDS = 10
"""Of the cores' time for an input (our choice)."""
HANG_SECONDS = 600
"""By the clock, for one that waits for something."""
PREPARE_SECONDS = 300
MEMORY = 1_500_000_000
"""Bytes that an input may take (our choice): a picture of 50 megapixels takes some 0.8 GB while it is decoded."""
READY = "ready"
ADDRESS_SPACE = 16_000_000_000
"""More than that the process doesn't get, so that the machine goes on."""


class Input(NamedTuple):
    """What is checked."""

    target: str
    """Which file it stands for: a path, as far as the kind needs one."""
    data: bytes


Make = Callable[[Random], Input]
Check = Callable[[Input], object]


class Finding(NamedTuple):
    """An input that something happened to which is not documented."""

    kind: str
    seed: int
    number: int
    given: Input
    said: str

    def __str__(self) -> str:
        return f"{self.kind}, seed {self.seed}, number {self.number}: {self.given.target}\n{self.said.rstrip()}"

    @property
    def fault(self) -> str:
        """The same for what is probably one fault: its way through the code."""
        lines = [line for line in self.said.splitlines() if line.startswith("  File ")]
        return "\n".join([self.kind, *(lines or [self.said])])

    def keep(self, folder: Path) -> str:
        """Writes the input to a file; returns the command that tries it again."""
        own = folder / f"{self.kind}-{self.seed}-{self.number}"
        file = own / self.given.target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.given.data)
        return shlex.join(["python", "-m", "tests.fuzz", self.kind, "--again", str(own)])


def kept(folder: Path) -> Input:
    """The input that `keep` has written into a folder."""
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    return Input(str(file.relative_to(folder)), file.read_bytes())


def findings(module: str, seed: int, numbers: Iterable[int]) -> Iterator[Finding]:
    """Tries the inputs of the kind that a module is with these numbers; after one that ends the process, in another."""
    waiting = iter(numbers)
    number = next(waiting, None)
    while number is not None:
        with _process(module) as (process, pipe):
            while number is not None and process.is_alive():
                pipe.send((seed, number))
                try:
                    given = pipe.recv()
                except EOFError:  # it ended before there was an input; how, is said below
                    given = Input("nothing", b"")
                if said := _outcome(process, pipe):
                    yield Finding(module.rpartition(".")[2], seed, number, given, said)
                number = next(waiting, None)


def again(module: str, given: Input) -> str:
    """What happens to one input that is not documented; "" where nothing does."""
    with _process(module) as (process, pipe):
        pipe.send(given)
        pipe.recv()
        return _outcome(process, pipe)


def _outcome(process: BaseProcess, pipe: Connection) -> str:
    """What is said of the input that the process has now. Ends a process that doesn't answer."""
    if not pipe.poll(HANG_SECONDS):
        process.kill()
        process.join()
        return f"no end after {HANG_SECONDS} s"
    try:
        said: str = pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        said = f"the process ended: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        if -code == signal.SIGPROF:
            said = f"no end after {CPU_SECONDS} s of CPU time"
    return said


@contextmanager
def _process(module: str) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that is prepared, and our end of the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    with TemporaryDirectory(prefix="rfray-fuzz-") as folder:
        process = context.Process(target=_try_inputs, args=(module, Path(folder), its), daemon=True)
        process.start()
        its.close()
        try:
            said = ours.recv() if ours.poll(PREPARE_SECONDS) else f"not prepared after {PREPARE_SECONDS} s"
            if said != READY:
                raise RuntimeError(f"{module}: {said}")
            yield process, ours
        finally:
            ours.close()
            process.join(5)
            process.kill()
            process.join()


def _try_inputs(module: str, folder: Path, pipe: Connection) -> None:
    """What the process does until the pipe is closed."""
    os.environ |= {"RFRAY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    os.chdir(folder)
    with open("output.txt", "w") as output:  # what decoders in C say of damage
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        make, check = import_module(module).prepare(folder)
    except BaseException:
        pipe.send(traceback.format_exc())
        return
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(1000)
    pipe.send(READY)
    while True:
        try:
            wanted = pipe.recv()
        except EOFError:
            return
        given = wanted if isinstance(wanted, Input) else make(Random(f"{module} {wanted}"))
        pipe.send(given)
        pipe.send(_checked(check, given))


def _checked(check: Check, given: Input) -> str:
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory begins anew
    before = _memory("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process, wherever that is
    try:
        check(given)
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = _memory("VmHWM") - before
    return f"it took {taken / 1e9:.1f} GB of memory" if taken > MEMORY else ""


def _memory(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the most."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024

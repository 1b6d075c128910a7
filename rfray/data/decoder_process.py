"""bytes of untrusted image files -> their pictures, decoded in processes that end where a picture takes too much.

A decoder is a process that this one starts and talks to over pipes; the pixels lie in a file in memory that both have
open. It loads what it needs and, on Linux, lets a child decode: where a picture ends that, the next one is there at
once. The limits are the kernel's, so that they hold within a decoder that never comes back, too. All speak JSON: a
process that a picture has got hold of can't make this one do anything. A thread takes a decoder, or starts one where
none is free, and leaves it to the next; they end with this process.
"""

import atexit
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from rfray.data.decoding import decode
from rfray.data.geometry import Geometry, hashed_square
from rfray.errors import RfrayError
from rfray.spec.sweep import Reencode

SECONDS = 10
"""Of a core, that a picture may take: usual ones of 49 megapixels took up to 4 s."""
WAIT_SECONDS = 60
"""In all, that a picture may take: for a decoder that waits, on a machine that does other work, too (our choice)."""
MEMORY = 1_000_000_000
"""Bytes that a picture may take, its file among them: those of 49 megapixels took up to 0.8 GB (lossless WebP)."""
FILES, BYTES = 16, 8_000_000
"""Files, and about so many bytes of them, that a decoder gets at once (our choice): each message wakes a process."""
ANSWERS, REASON = 65_536, 500
"""Bytes of the file in memory in which the answers are written, and characters that a reason may have: each is waited
for no sooner than the last one, as waking a process takes as long as decoding a small picture."""
NUMBER = 8
"""Of these bytes, the last ones: the number of the request that a child began last."""
KEPT_BYTES = 64_000_000
"""Of the file in memory, that are kept for the next pictures (our choice): new memory takes longer to write to."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2): a child ends with its parent."""

Decoded = tuple[list[np.ndarray], str]
"""Arrays, and ""; or none, and the reason why the file can't be used."""


def decode_apart(
    files: Iterable[bytes],
    geometries: Sequence[Geometry],
    keep_picture: bool = False,
    seconds: float | None = None,
    identify: bool = False,
) -> Iterator[Decoded]:
    """What is in each file, in order: its square in each geometry, then the whole picture where that is asked for.

    With `identify`, the last one is its `hashed_square`, in each colour. Arrays are (height, width, 3) uint8 RGB. A
    picture may take so many `seconds` of a core, by default SECONDS. Threads may call it side by side. Raises
    RfrayError where no decoder can be started.
    """
    rest, some, most = iter(files), list[bytes](), 1 if keep_picture else FILES
    while True:
        while len(some) < most and sum(map(len, some)) < BYTES and (data := next(rest, None)) is not None:
            some.append(data)
        if not some:
            return
        decoder = _free_decoder()
        done = decoder.decode(some, geometries, keep_picture, seconds, identify)
        if decoder.is_alive():
            _free.append(decoder)
        yield from done
        del some[: len(done)]


def start_decoders(count: int) -> None:
    """Starts so many, to be there when they are needed. More are started by themselves."""
    while len(_free) < count:
        _free.append(_Decoder())


class _Decoder:
    """A decoder, from outside."""

    def __init__(self) -> None:
        self._pixels = _memory_file()
        packages = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        self._process = subprocess.Popen(  # noqa: S603  this very module
            [sys.executable, "-P", "-m", "rfray.data.decoder_process", str(self._pixels.fileno()), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._pixels.fileno()],
            env={**os.environ, "PYTHONPATH": packages, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers, self._ready = self._process.stdin, self._process.stdout, False
        self._number = 0  # of the last request

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(
        self,
        files: Sequence[bytes],
        geometries: Sequence[Geometry],
        keep_picture: bool,
        seconds: float | None = None,
        identify: bool = False,
    ) -> list[Decoded]:
        """See `decode_apart`; where a picture ends the child, or anything the decoder, only the files up to that."""
        seconds = seconds or SECONDS
        if not self._ready and self._answers.readline() != b"ready\n":
            raise RfrayError(f"a process that decodes images did not start (exit code {self._process.wait()})")
        self._ready, self._number = True, self._number + 1
        file, at = self._pixels.fileno(), ANSWERS
        os.pwrite(file, bytes(ANSWERS - NUMBER), 0)
        for data in files:
            at += os.pwrite(file, data, at)
        asked = [(one.resize, one.side, one.reencode and one.reencode.model_dump()) for one in geometries]
        request = self._number, (seconds, WAIT_SECONDS), [*map(len, files)], asked, keep_picture, identify
        code = self._code(json.dumps(request).encode() + b"\n")
        done = list[Decoded]()
        for line in os.pread(file, ANSWERS - NUMBER, 0).rstrip(b"\0").splitlines():
            shapes, reason = json.loads(line)
            arrays = [np.empty((*shape, 3), np.uint8) for shape in shapes]
            for array in arrays:
                at += os.preadv(file, [array.data], at)
            done.append((arrays, reason))
        if code:
            done.append(([], _why_ended(code, seconds)))
        if at > KEPT_BYTES:
            self._pixels.truncate(ANSWERS)
        return done

    def _code(self, request: bytes) -> int:
        """0 where the request was done; the exit code of the child, or of the decoder, that it ended."""
        self._send(request)
        while line := self._answers.readline():
            number, code = map(int, line.split())
            if number == self._number:
                return code
            self._send(request)  # a child ended before it began, as where memory is short: it may have taken this along
        return self._process.wait()

    def _send(self, request: bytes) -> None:
        with suppress(BrokenPipeError):
            self._requests.write(request)
            self._requests.flush()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()


_free: list[_Decoder] = []
os.register_at_fork(after_in_child=_free.clear)  # one decoder can't answer two processes


@atexit.register
def _close_decoders() -> None:
    while _free:
        _free.pop().close()


def _free_decoder() -> _Decoder:
    with suppress(IndexError):  # other threads take them, too
        while True:
            decoder = _free.pop()
            if decoder.is_alive():
                return decoder
    return _Decoder()


def _memory_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # on Linux
        return open(os.memfd_create("rfray-pixels"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def took_too_long(seconds: float) -> str:
    """The reason why a file has no picture that took more than so many seconds of a core."""
    return f"took over {seconds:g} s to decode"


def _why_ended(code: int, seconds: float) -> str:
    if code == -signal.SIGPROF:
        return took_too_long(seconds)
    if code == -signal.SIGALRM:
        return f"took over {WAIT_SECONDS} s to decode, most of it waiting"
    return f"ended its decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _main(pixels: int, memory: int) -> None:
    """The decoder, from inside: ends when nobody can ask any more."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    for polite in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a command, which may have work left
        signal.signal(polite, signal.SIG_IGN)
    for timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timer, signal.SIG_DFL)  # to end the process wherever it is, and not where Python is next
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    os.write(answers, b"ready\n")
    while sys.platform == "linux" and (child := os.fork()):  # libraries of macOS don't bear a fork
        if not (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])):
            return
        number = _begun(pixels)
        os.write(answers, b"%d %d\n" % (number, code))
    _decode_requests(pixels, answers, memory)


def _decode_requests(pixels: int, answers: int, memory: int) -> None:
    """Its child, from inside."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries say there what is in a file, without saying in which
    _limit_memory(memory)
    for request in sys.stdin.buffer:
        number, limits, sizes, asked, *more = json.loads(request)
        if number == _begun(pixels):  # it was sent again, and had not been lost
            continue
        os.pwrite(pixels, number.to_bytes(NUMBER), ANSWERS - NUMBER)
        geometries = [Geometry(resize, side, again and Reencode(**again)) for resize, side, again in asked]
        start, end, answer = ANSWERS, ANSWERS + sum(sizes), 0
        for size in sizes:
            _set_timers(*limits)
            try:
                arrays, reason = _decoded(pixels, start, size, geometries, *more), ""
            except Exception as error:  # any but UnreadableImageError are OpenCV's, that it has no memory
                no_memory = isinstance(error.__context__ or error, MemoryError)
                arrays, reason = [], f"took over {memory / 1e6:,.0f} MB to decode" if no_memory else str(error)
            for array in arrays:
                end += os.pwrite(pixels, array.data, end)
            _set_timers(0, 0)
            start += size
            said = json.dumps([[array.shape[:2] for array in arrays], reason[:REASON]]).encode() + b"\n"
            answer += os.pwrite(pixels, said, answer)
        os.write(answers, b"%d 0\n" % number)


def _begun(pixels: int) -> int:
    return int.from_bytes(os.pread(pixels, NUMBER, ANSWERS - NUMBER))


def _limit_memory(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere it is not kept
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + most, now + most))
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process is the one to end


def _set_timers(busy: float, passed: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, busy)
    signal.setitimer(signal.ITIMER_REAL, passed)


def _decoded(
    pixels: int, start: int, size: int, geometries: Sequence[Geometry], keep_picture: bool, identify: bool
) -> list[np.ndarray]:
    picture = decode(os.pread(pixels, size, start))
    arrays = [geometry.square(picture) for geometry in geometries] + ([picture] if keep_picture else [])
    arrays += [np.dstack([hashed_square(picture)] * 3)] if identify else []
    return [*map(np.ascontiguousarray, arrays)]


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))

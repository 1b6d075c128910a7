import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from rfray.data import decoder_process
from rfray.data.decoder_process import decode_apart, start_decoders
from rfray.data.decoding import decode
from rfray.data.geometry import Geometry
from rfray.spec.sweep import Reencode

GEOMETRIES = [Geometry("scale", 24, None), Geometry("crop", 40, None), Geometry("scale", 16, Reencode(size=32))]


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(number: int) -> bytes:
    """A JPEG of its own size and content."""
    pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 50, 3), np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


SMALL = [picture(number) for number in range(40)]
BLACK = encoded(Image.new("1", (7000, 7000)))
"""A plain picture of 49 megapixels: it takes half a second of a core, 49 MB as Pillow keeps it, and 147 MB as RGB."""


@pytest.fixture(autouse=True)
def _decoders_of_its_own() -> Iterator[None]:
    """Those that are there have other limits."""
    decoder_process._close_decoders()
    yield
    decoder_process._close_decoders()


def test_it_says_what_decode_says_in_order() -> None:
    files = [*SMALL, b"no image", *SMALL[:3]]
    found = list(decode_apart(files, GEOMETRIES))
    assert [reason for _, reason in found] == [""] * 40 + ["not an image of a known format"] + [""] * 3
    assert found[40][0] == []
    for data, (arrays, reason) in zip(files, found, strict=True):
        if not reason:
            for array, geometry in zip(arrays, GEOMETRIES, strict=True):
                assert np.array_equal(array, geometry.square(decode(data)))
    assert len(decoder_process._free) == 1  # the same for all


def test_the_whole_picture_comes_last() -> None:
    for data, (arrays, _) in zip(SMALL, decode_apart(SMALL, GEOMETRIES[:1], keep_picture=True), strict=True):
        assert np.array_equal(arrays[1], decode(data))


@pytest.mark.parametrize(
    ("limit", "where", "reason"),
    [
        ("SECONDS", 5, "took over 0.1 s to decode"),
        ("SECONDS", 16, "took over 0.1 s to decode"),
        ("WAIT_SECONDS", 0, "took over 0.1 s to decode, most of it waiting"),
        ("WAIT_SECONDS", 40, "took over 0.1 s to decode, most of it waiting"),
    ],
)
def test_a_picture_that_takes_too_long_is_the_only_one_without_pixels(
    limit: str, where: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_decoders(1)
    assert next(decode_apart([SMALL[0]], GEOMETRIES))[1] == ""  # it has everything loaded
    monkeypatch.setattr(decoder_process, limit, 0.1)
    found = list(decode_apart([*SMALL[:where], BLACK, *SMALL[where:]], GEOMETRIES))
    assert found[where] == ([], reason)
    others = found[:where] + found[where + 1 :]
    assert len(others) == 40
    for data, (arrays, why) in zip(SMALL, others, strict=True):
        if not why:  # a machine with much to do may need as long for a small one
            assert np.array_equal(arrays[0], GEOMETRIES[0].square(decode(data)))


def test_a_picture_that_takes_too_much_memory_is_the_only_one_without_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "MEMORY", 100_000_000)
    many = [encoded(Image.new("RGB", (5000, 8000)), kind, quality=0, method=0) for kind in ("BMP", "WEBP")]
    found = list(decode_apart([SMALL[0], BLACK, SMALL[1], *many, SMALL[2]], GEOMETRIES))
    reasons = [reason for _, reason in found]
    assert (reasons[0], reasons[2], reasons[5]) == ("", "", "")
    assert reasons[1] == reasons[3] == "took over 100 MB to decode"
    assert (found[4][0], reasons[4]) == ([], "a WebP that is damaged, or takes more memory than there is")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_large_transparent_picture_takes_little_more_than_its_pixels(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "MEMORY", 100_000_000)  # 4 bytes a pixel for Pillow, 3 as RGB: 63 MB
    data = encoded(Image.new(mode, (3000, 3000)))
    ((arrays, reason),) = decode_apart([data], GEOMETRIES[:1])
    assert reason == ""
    assert (arrays[0] == 255).all()  # on white


def test_decoders_that_were_ended_are_replaced() -> None:
    start_decoders(2)
    (killed, asked) = decoder_process._free
    killed._process.kill()
    killed._process.wait()
    assert [reason for _, reason in decode_apart(SMALL, GEOMETRIES)] == [""] * 40
    asked._process.send_signal(signal.SIGSTOP)
    os.kill(asked._process.pid, signal.SIGSEGV)  # delivered when it goes on
    asked._process.send_signal(signal.SIGCONT)
    asked._process.wait()
    assert [reason for _, reason in decode_apart(SMALL, GEOMETRIES)] == [""] * 40


def test_a_child_that_ends_while_it_waits_is_not_the_next_pictures_fault() -> None:
    start_decoders(1)
    (decoder,) = decoder_process._free
    for _ in range(3):
        assert [reason for _, reason in decode_apart(SMALL[:20], GEOMETRIES)] == [""] * 20
        (child,) = psutil.Process(decoder._process.pid).children()
        child.kill()
        psutil.wait_procs([child])
    assert [reason for _, reason in decode_apart(SMALL, GEOMETRIES)] == [""] * 40
    assert decoder_process._free == [decoder]


def test_a_child_that_ended_before_a_request_is_not_taken_for_its_end() -> None:
    start_decoders(1)
    (decoder,) = decoder_process._free
    for _ in range(3):
        assert [reason for _, reason in decode_apart(SMALL[:2], GEOMETRIES)] == ["", ""]
        process = psutil.Process(decoder._process.pid)
        (child,) = process.children()
        process.suspend()  # so that it learns of the child's end when the next request is already there
        child.kill()
        threading.Timer(0.2, process.resume).start()
        assert [reason for _, reason in decode_apart(SMALL, GEOMETRIES)] == [""] * 40
    assert decoder_process._free == [decoder]


def test_a_picture_that_ends_its_decoder_costs_no_new_start() -> None:
    start_decoders(1)
    (decoder,) = decoder_process._free
    next(decode_apart([SMALL[0]], GEOMETRIES))
    for _ in range(3):
        ((_, reason),) = decode_apart([BLACK], GEOMETRIES, seconds=0.1)
        assert reason == decoder_process.took_too_long(0.1) == "took over 0.1 s to decode"
        assert [reason for _, reason in decode_apart(SMALL[:20], GEOMETRIES)] == [""] * 20
    assert decoder_process._free == [decoder]


def test_a_decoder_that_crashes_is_the_reason() -> None:
    start_decoders(1)
    (decoder,) = decoder_process._free
    next(decode_apart([SMALL[0]], GEOMETRIES))
    decoder._process.send_signal(signal.SIGSEGV)
    decoder._process.wait()
    assert decoder.decode(SMALL, GEOMETRIES, False) == [([], "ended its decoder (SIGSEGV)")]


def test_decoders_outlive_what_a_terminal_sends_and_end_with_their_process() -> None:
    script = (
        "import os, signal, sys; from rfray.data import decoder_process as d; d.start_decoders(2);"
        "print(*(one._process.pid for one in d._free));"
        "one = d._free[0]; assert one.decode([b'x'], [], False)[0][0] == [];"
        "one._process.send_signal(signal.SIGINT); one._process.send_signal(signal.SIGTERM);"
        "assert one.decode([b'x'], [], False)[0][1] == 'not an image of a known format';"
        "sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr  # they have closed its stderr, else this would wait
    pids = ended.stdout.split()
    assert len(pids) == 2
    for pid in pids:
        with suppress(OSError):  # it is gone, or somebody else's number
            assert "decoder_process" not in Path(f"/proc/{pid}/cmdline").read_text()

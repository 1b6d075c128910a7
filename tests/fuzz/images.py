"""Pictures in every format that rfray reads, damaged -> a picture within the limits, or UnreadableImageError.

Each is decoded twice: in a process of its own, as predict and serve do, and in this one, as tune and audit do.
"""

import io
from pathlib import Path
from random import Random

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from rfray.data.decoder_process import REASON, decode_apart
from rfray.data.decoding import MAX_PIXELS, UnreadableImageError, decode, read_image
from rfray.data.fingerprints import fingerprint
from rfray.data.geometry import Geometry
from tests.fuzz.mutate import of_bytes
from tests.fuzz.runner import Check, Input, Make
from tests.pictures import picture

GEOMETRY = Geometry("scale", 32, None)
EXPENSIVE = 5_000_000
"""Pixels above which a picture is only decoded: what comes after takes a time that depends on its size alone."""
WORDS = (
    b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xc0\x00\x11\x08", b"\xff\xc2", b"\xff\xda\x00\x0c\x03", b"\xff\xd0",
    b"\xff\xff", b"\xff\xe1\x00\x10Exif\0\0MM\0*", b"\xff\xdd\x00\x04\0\1", b"\xff\xc4", b"\xff\xdb",
    b"\xff\xfe\x00\x04", b"ICC_PROFILE\0\1\1", b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"IEND\xaeB`\x82", b"PLTE",
    b"tRNS", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"iCCP", b"eXIf", b"RIFF", b"WEBPVP8 ", b"WEBPVP8L", b"VP8X",
    b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"BM", b"II*\0", b"MM\0*", b"II+\0",
)  # fmt: skip


def prepare(folder: Path) -> tuple[Make, Check]:
    """See the package."""
    seeds = _pictures()

    def make(random: Random) -> Input:
        return Input("picture", of_bytes(random, random.choice(seeds), seeds, WORDS))

    return make, check


def check(given: Input) -> None:
    """Raises AssertionError, or whatever a reader of pictures should not."""
    file, reason, apart = Path(given.target), "", "none"
    file.write_bytes(given.data)
    try:
        data = read_image(file)
        ((arrays, apart),) = decode_apart([data], [GEOMETRY], keep_picture=True)
        pixels = decode(data)
    except UnreadableImageError as error:
        reason = str(error)
    assert apart in ("none", reason[:REASON]), (apart, reason)
    if not reason:
        assert np.array_equal(arrays[1], pixels)
        _check_picture(data, pixels)
        return
    assert reason.strip()
    assert "\n" not in reason
    assert "MemoryError" not in reason


def _check_picture(data: bytes, pixels: np.ndarray) -> None:
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS, pixels.shape
    if pixels.size < EXPENSIVE:
        assert np.array_equal(decode(data), pixels)
        assert GEOMETRY.square(pixels).shape == (32, 32, 3)
        fingerprint(data, pixels)


def _pictures() -> list[bytes]:
    """One or more of each format and of what it may have in it."""
    generator = np.random.default_rng(0)
    colour = Image.fromarray(picture(True, generator))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(np.arange(32 * 32).reshape(32, 32).astype(np.uint8)))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x011A: 72.0})
    exif.get_ifd(0x8769).update({0x9003: "2026:11:30 00:00:00", 0xA002: 32})
    icc = bytes(generator.integers(0, 256, 300, np.uint8))
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50, zip=True)
    text.add_itxt("c", "d")
    sixteen = Image.fromarray(generator.integers(0, 65536, (32, 32)).astype(np.uint16))
    floating = Image.fromarray(generator.random((32, 32)).astype(np.float32))
    more = {"save_all": True, "append_images": [colour.rotate(90)], "duration": 20}
    made = [
        *(_saved(colour, "JPEG", **one) for one in ({}, {"progressive": True}, {"subsampling": 0, "quality": 95})),
        _saved(colour, "JPEG", exif=exif, icc_profile=icc, comment=b"hello"),
        _saved(colour, "JPEG", restart_marker_blocks=1),
        *(_saved(colour.convert(mode), "JPEG") for mode in ("L", "CMYK")),
        *(_saved(colour.convert(mode), "PNG") for mode in ("RGB", "L", "LA", "1", "P")),
        _saved(clear, "PNG", exif=exif, icc_profile=icc, pnginfo=text),
        _saved(clear.quantize(16), "PNG"),
        *(_saved(sixteen, form) for form in ("PNG", "TIFF")),
        _saved(colour, "PNG", **more),
        *(_saved(clear, "WEBP", **one) for one in ({}, {"lossless": True}, {"exif": exif, "icc_profile": icc}, more)),
        *(_saved(colour.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P")),
        _saved(clear, "BMP"),
        *(
            _saved(colour, "TIFF", compression=one)
            for one in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        *(_saved(colour.convert("1"), "TIFF", compression=one) for one in ("group3", "group4")),
        _saved(clear, "TIFF", tiffinfo={0x0112: 6, 0x010F: "maker", 0x011A: 72.0}, icc_profile=icc),
        _saved(colour.convert("YCbCr"), "TIFF"),
        _saved(floating, "TIFF"),
        _saved(colour, "TIFF", big_tiff=True),
        _tiled(),
        _saved(colour, "TIFF", save_all=True, append_images=[clear]),
        _run_length(),
    ]
    ok, encoded = cv2.imencode(".jpg", picture(True, generator), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
    assert ok
    return [*made, encoded.tobytes()]


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _tiled() -> bytes:
    """A grey TIFF of 32 x 32 in four tiles, which Pillow doesn't write."""
    tags = [(256, 32), (257, 32), (258, 8), (259, 1), (262, 1), (277, 1), (322, 16), (323, 16)]
    begin = 8 + 2 + (len(tags) + 2) * 12 + 4
    entries = [(tag, 3, 1, value) for tag, value in tags]
    entries += [(324, 4, 4, begin), (325, 4, 4, begin + 16)]
    data = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        data += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        data += count.to_bytes(4, "little") + value.to_bytes(4, "little")
    starts = [begin + 32 + 256 * number for number in range(4)]
    return data + b"".join(one.to_bytes(4, "little") for one in (0, *starts, *[256] * 4)) + bytes(range(256)) * 4


def _run_length() -> bytes:
    """A run-length coded BMP of 32 x 32, which Pillow doesn't write."""
    palette = b"".join(bytes((one, one, one, 0)) for one in range(256))
    body = b"".join(bytes((32, row)) + b"\0\0" for row in range(32)) + b"\0\1"
    numbers = [40, 32, 32, 1 | 8 << 16, 1, len(body), 2835, 2835, 256, 0]
    start = 14 + 40 + len(palette)
    head = b"BM" + (start + len(body)).to_bytes(4, "little") + bytes(4) + start.to_bytes(4, "little")
    return head + b"".join(number.to_bytes(4, "little") for number in numbers) + palette + body

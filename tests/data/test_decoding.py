import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rfray.data import decoding
from rfray.data.decoding import UnreadableImageError, decode, read_image, square

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
COLOURS = [[RED, GREEN], [BLUE, YELLOW]]
"""What a person sees in the four quarters: red, green on top, blue, yellow below."""


def quarters(top_left: object, top_right: object, bottom_left: object, bottom_right: object, dtype: type) -> np.ndarray:
    """A picture, 48 wide and 32 high, with one value in each quarter."""
    small = np.array([[top_left, top_right], [bottom_left, bottom_right]], dtype=dtype)
    return small.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)


def seen(data: bytes) -> list[list[tuple[int, ...]]]:
    """The decoded value in the middle of each quarter."""
    picture = decode(data)
    assert picture.dtype == np.uint8
    height, width, channels = picture.shape
    assert channels == 3
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [[tuple(picture[row, column].tolist()) for column in columns] for row in rows]


def encode(image: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


COLOURED = Image.fromarray(quarters(RED, GREEN, BLUE, YELLOW, np.uint8))
GREY = Image.fromarray(quarters(0, 85, 170, 255, np.uint8))
GREYS = [[(0, 0, 0), (85, 85, 85)], [(170, 170, 170), (255, 255, 255)]]


# what a person sees


@pytest.mark.parametrize(
    ("file_format", "mode", "options", "tolerance"),
    [
        ("JPEG", "RGB", {"quality": 95}, 4),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}, 4),
        ("JPEG", "RGB", {"quality": 95, "subsampling": "4:4:4"}, 4),
        ("JPEG", "CMYK", {"quality": 95}, 4),
        ("MPO", "RGB", {"quality": 95, "save_all": True, "append_images": [GREY]}, 4),
        ("PNG", "RGB", {}, 0),
        ("PNG", "RGBA", {}, 0),
        ("PNG", "P", {}, 0),
        ("WEBP", "RGB", {"quality": 95}, 8),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("WEBP", "RGBA", {"lossless": True}, 0),
        ("BMP", "RGB", {}, 0),
        ("BMP", "P", {}, 0),
        ("TIFF", "RGB", {}, 0),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 0),
        ("TIFF", "RGB", {"compression": "jpeg", "quality": 95}, 6),
        ("TIFF", "RGBA", {}, 0),
        ("TIFF", "CMYK", {}, 0),
        ("TIFF", "P", {}, 0),
    ],
)
def test_colours_are_right_and_in_their_corner(
    file_format: str, mode: str, options: dict[str, object], tolerance: int
) -> None:
    data = encode(COLOURED.convert(mode), file_format, **options)
    assert decode(data).shape == (HEIGHT, WIDTH, 3)
    assert np.abs(np.subtract(seen(data), COLOURS)).max() <= tolerance


@pytest.mark.parametrize(
    ("file_format", "mode", "tolerance"),
    [("JPEG", "L", 2), ("PNG", "L", 0), ("PNG", "LA", 0), ("BMP", "L", 0), ("TIFF", "L", 0), ("WEBP", "L", 4)],
)
def test_grey_becomes_three_equal_channels(file_format: str, mode: str, tolerance: int) -> None:
    data = encode(GREY.convert(mode), file_format)
    assert np.abs(np.subtract(seen(data), GREYS)).max() <= tolerance


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(file_format: str) -> None:
    data = encode(Image.fromarray(quarters(False, True, True, False, np.bool_)), file_format)
    assert seen(data) == [[(0,) * 3, (255,) * 3], [(255,) * 3, (0,) * 3]]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_loses_its_lower_eight_bits(file_format: str) -> None:
    # as scaled by 257 (0x5555), and as shifted by 8 bits (0xAA00, 0xFF00)
    data = encode(quarters(0, 0x5555, 0xAA00, 0xFF00, np.uint16), file_format)
    assert seen(data) == GREYS


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colour_loses_its_lower_eight_bits(suffix: str) -> None:
    picture = quarters((0xFFFF, 0x1234, 0), (0, 0xFF00, 0), (0, 0, 0x8000), (0xFFFF, 0xFFFF, 0), np.uint16)
    written, data = cv2.imencode(suffix, picture[..., ::-1])  # OpenCV writes blue first
    assert written
    assert seen(data.tobytes()) == [[(255, 0x12, 0), GREEN], [(0, 0, 128), YELLOW]]


def test_thirty_two_bit_grey_is_clipped_at_sixteen_bits() -> None:
    data = encode(quarters(-5, 0x5555, 0xAAAA, 1_000_000, np.int32), "TIFF")
    assert seen(data) == GREYS


def test_floating_point_grey_is_white_at_one() -> None:
    data = encode(quarters(np.nan, 1 / 3, 2 / 3, 7.5, np.float32), "TIFF")
    assert seen(data) == GREYS


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_transparent_pixels_lie_on_white(file_format: str, options: dict[str, object]) -> None:
    picture = quarters((*RED, 255), (*GREEN, 0), (*BLUE, 102), (*YELLOW, 204), np.uint8)
    # 102 / 255 = 0.4 of blue on 0.6 of white; 0.8 of yellow on 0.2 of white
    expected = [[RED, (255, 255, 255)], [(153, 153, 255), (255, 255, 51)]]
    assert np.abs(np.subtract(seen(encode(picture, file_format, **options)), expected)).max() <= 1


def test_transparent_grey_lies_on_white() -> None:
    picture = Image.merge("LA", (GREY, Image.fromarray(quarters(0, 255, 102, 255, np.uint8))))
    # 0.4 of 170 on 0.6 of 255 is 221
    assert seen(encode(picture, "PNG")) == [[(255,) * 3, (85,) * 3], [(221,) * 3, (255,) * 3]]


def test_transparent_palette_entry_lies_on_white() -> None:
    picture = Image.fromarray(quarters(0, 1, 2, 3, np.uint8), mode="P")
    picture.putpalette([*RED, *GREEN, *BLUE, *YELLOW])
    data = encode(picture, "PNG", transparency=1)
    assert seen(data) == [[RED, (255, 255, 255)], [BLUE, YELLOW]]


def test_transparent_colour_of_a_png_without_alpha_lies_on_white() -> None:
    data = encode(COLOURED, "PNG", transparency=BLUE)
    assert seen(data) == [[RED, GREEN], [(255, 255, 255), YELLOW]]


ORIENTED = [(file_format, mode) for file_format in ("JPEG",) for mode in ("RGB", "L", "CMYK")] + [
    (file_format, "RGB") for file_format in ("PNG", "WEBP", "TIFF")
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("file_format", "mode"), ORIENTED)
def test_images_are_turned_as_exif_says(file_format: str, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = (GREY if mode == "L" else COLOURED).convert(mode)
    data = encode(source, file_format, exif=exif, quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    picture = decode(data)
    assert picture.shape == ((HEIGHT, WIDTH, 3) if orientation <= 4 else (WIDTH, HEIGHT, 3))
    assert np.abs(picture - expected).max() <= 3  # two decoders may round differently


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})]
)
def test_a_picture_of_more_rows_than_are_made_at_once(
    file_format: str, options: dict[str, object], orientation: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2 * decoding.ROWS + 1, 300, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    alpha = pixels[..., 3:] / 255
    expected = alpha * pixels[..., :3] + (1 - alpha) * 255
    found = decode(encode(pixels, file_format, exif=exif, **options))
    assert np.abs(found - (expected if orientation == 1 else np.rot90(expected, -1))).max() <= 1


def test_a_quarter_turn_by_hand() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it clockwise to see it
    for data in (encode(COLOURED, "JPEG", exif=exif, quality=95), encode(COLOURED, "PNG", exif=exif)):
        assert np.abs(np.subtract(seen(data), [[BLUE, RED], [YELLOW, GREEN]])).max() <= 4


def test_exif_behind_another_block_of_metadata_is_found() -> None:
    plain = encode(COLOURED, "JPEG", quality=95, xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>')
    exif = Image.Exif()
    exif[0x0112] = 3
    block = b"\xff\xe1" + struct.pack(">H", len(exif.tobytes()) + 2) + exif.tobytes()
    behind = plain.index(b"\xff\xdb")
    data = plain[:behind] + block + plain[behind:]
    assert np.abs(np.subtract(seen(data), [[YELLOW, BLUE], [GREEN, RED]])).max() <= 4


# what can't be used


def noise(side: int = 160) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_rows": 1}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(file_format: str, options: dict[str, object], share: float) -> None:
    data = encode(noise(), file_format, **options)
    with pytest.raises(UnreadableImageError):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_refused(mode: str, progressive: bool) -> None:
    data = encode(noise().convert(mode), "JPEG", progressive=progressive)
    for missing in (1, 2, 3, 20):
        with pytest.raises(UnreadableImageError):
            decode(data[:-missing])


def test_a_jpeg_whose_second_half_was_never_written_is_refused() -> None:
    data = encode(noise(), "JPEG")
    half = data[: len(data) // 2] + bytes(len(data) // 2)
    thumbnail = encode(GREY, "JPEG")  # in the metadata; it has an end, but not the image's
    with_thumbnail = half[:2] + b"\xff\xef" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + half[2:]
    for truncated in (half, with_thumbnail):
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode(truncated)


def test_broken_metadata_is_not_complained_of_without_a_file_name() -> None:
    data = encode(COLOURED, "TIFF")
    script = "import sys; from rfray.data.decoding import decode; decode(sys.stdin.buffer.read())"
    ended = subprocess.run([sys.executable, "-c", script], input=data[:20], capture_output=True, check=False)
    assert b"UnreadableImageError" in ended.stderr
    assert b"UserWarning" not in ended.stderr


def test_much_padding_behind_a_png_does_no_harm() -> None:
    data = encode(noise(), "PNG")
    assert np.array_equal(decode(data + bytes(20_000)), decode(data))


def test_bytes_behind_the_image_do_no_harm() -> None:
    data = encode(COLOURED, "JPEG")
    assert np.array_equal(decode(data + b"behind" * 30), decode(data))


@pytest.mark.parametrize("data", [b"", b"hello, this is text\n" * 20, encode(COLOURED, "GIF"), encode(COLOURED, "PPM")])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match="not an image of a known format"):
        decode(data)


def png_with_size(width: int, height: int) -> bytes:
    data = encode(COLOURED, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def jpeg_with_size(width: int, height: int) -> bytes:
    data = encode(COLOURED, "JPEG")
    at, scan_begins = data.index(b"\xff\xc0") + 5, data.index(b"\xff\xda")
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 : scan_begins + 20]


def bmp_with_size(width: int, height: int) -> bytes:
    data = encode(COLOURED, "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize("made", [png_with_size, jpeg_with_size, bmp_with_size])
def test_an_image_over_fifty_megapixels_is_refused_by_its_header(made: Callable[[int, int], bytes]) -> None:
    # what follows the header is far too short: had the decoder been asked, it would have complained of that
    with pytest.raises(UnreadableImageError, match=r"^14000x9000 is over 50 megapixels$"):
        decode(made(14000, 9000))
    with pytest.raises(UnreadableImageError, match=r"^(?!.*megapixels)"):
        decode(made(140, 90))


def test_a_small_file_with_a_huge_image_is_refused() -> None:
    data = encode(Image.new("1", (14000, 14000)), "PNG")
    assert len(data) < 200_000
    with pytest.raises(UnreadableImageError, match="14000x14000 is over 50 megapixels"):
        decode(data)


def test_exactly_the_limit_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", WIDTH * HEIGHT)
    assert decode(encode(COLOURED, "PNG")).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnreadableImageError):
        decode(encode(Image.new("RGB", (WIDTH, HEIGHT + 1)), "PNG"))


def test_damaged_files_give_a_picture_or_are_refused() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = noise(40)
    files = [
        encode(picture, "JPEG", exif=exif),
        encode(picture, "JPEG", progressive=True),
        encode(picture.convert("CMYK"), "JPEG", exif=exif),
        encode(picture, "PNG", exif=exif),
        encode(picture.convert("P"), "PNG"),
        encode(picture.convert("LA"), "PNG"),
        encode(np.asarray(picture)[..., 0].astype(np.uint16), "PNG"),
        encode(picture, "WEBP", exif=exif),
        encode(picture.convert("RGBA"), "WEBP", lossless=True),
        encode(picture, "BMP"),
        encode(picture, "TIFF"),
        encode(picture, "TIFF", compression="tiff_adobe_deflate"),
    ]
    refused = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        for data in files:
            damaged = bytearray(data)
            for _ in range(generator.integers(1, 12)):
                reach = len(data) if generator.random() < 0.5 else 120  # often in the header
                damaged[generator.integers(reach)] = generator.integers(256)
            try:
                result = decode(bytes(damaged))
            except UnreadableImageError:
                refused += 1
            else:
                assert result.dtype == np.uint8
                assert result.ndim == 3
                assert result.shape[2] == 3
    assert 0 < refused < 20 * len(files)


# files that were made to hurt


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def frame(side: int, kind: int = 0xC0, components: int = 1) -> bytes:
    each = b"".join(bytes([number + 1, 0x11, 0]) for number in range(components))
    return segment(kind, struct.pack(">BHHB", 8, side, side, components) + each)


def tables(jpeg: bytes) -> bytes:
    """The quantisation and Huffman tables of a JPEG that Pillow has written."""
    position, found = 2, b""
    while (marker := jpeg[position + 1]) != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4])
        found += jpeg[position:end] if marker in (0xDB, 0xC4) else b""
        position = end
    return found


SCAN = segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
GREY_TABLES = tables(encode(GREY, "JPEG"))


@pytest.mark.parametrize("disguise", [b"\xff\xd0", b"\xff\xd7", b"\xff\x01", b"ab", b"\xff\x00", b"\xff\xff"])
def test_a_frame_that_only_the_decoder_sees_is_measured(disguise: bytes) -> None:
    hidden = GREY_TABLES + frame(9000) + SCAN + bytes(2000)
    behind = frame(8) + SCAN + b"\x00\x00\xff\xd9"
    with pytest.raises(UnreadableImageError, match="9000x9000 is over 50 megapixels"):
        decode(b"\xff\xd8" + segment(0xFE, b"") + disguise + struct.pack(">H", 99) + hidden + behind)


def test_two_frames_and_another_size_than_the_header_says_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImageError, match="two pictures"):
        decode(b"\xff\xd8" + GREY_TABLES + frame(16) + frame(8) + SCAN + bytes(99) + b"\xff\xd9")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match="two readers"):
        decode(encode(COLOURED, "JPEG"))


@pytest.mark.parametrize(("kind", "components"), [(0xC0, 3), (0xC0, 4), (0xC2, 1), (0xC2, 3), (0xC2, 4)])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(kind: int, components: int) -> None:
    scan = segment(0xDA, bytes([1, 1, 0, 0, 0 if kind == 0xC2 else 63, 0])) + bytes(8)
    comment = segment(0xFE, b"\xff\xd9")  # no end
    start = b"\xff\xd8" + GREY_TABLES + frame(16, kind, components) + scan + comment
    with pytest.raises(UnreadableImageError, match="more than 100 scans"):
        decode(start + 100 * scan + b"\xff\xd9")
    with pytest.raises(UnreadableImageError, match=r"^(?!.*more than)"):
        decode(start + 99 * scan + segment(0xC0, b"") + b"\xff\xd9")


@pytest.mark.parametrize("marker", [0xFE, 0xE5, 0xDB])
def test_a_jpeg_of_very_many_segments_is_refused(marker: int) -> None:
    plain = encode(COLOURED, "JPEG")
    with pytest.raises(UnreadableImageError, match="more than 10,000 segments"):
        decode(plain[:2] + 10_000 * segment(marker, b"") + plain[2:])
    assert decode(plain[:2] + 500 * segment(marker, b"") + plain[2:]).shape == (HEIGHT, WIDTH, 3)


def test_scans_are_not_counted_behind_the_image_or_in_its_metadata() -> None:
    for progressive in (False, True):
        plain = encode(COLOURED, "JPEG", progressive=progressive)
        data = plain[:2] + segment(0xE5, 200 * SCAN) + plain[2:] + 200 * SCAN
        assert np.array_equal(decode(data), decode(plain))


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF, grey, 16 x 16, with these tags too: tag, type, count, value."""
    usual = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries = sorted([*usual, *tags], key=lambda one: one[0])
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHLL", *one) for one in entries) + bytes(4)
    return (b"II*\0" + struct.pack("<L", 8) + directory).ljust(400, b"\0") + zlib.compress(bytes(256)) + bytes(99)


TILES = [(322, 4, 1, 16), (323, 4, 1, 16), (324, 4, 1, 400), (325, 4, 1, 60)]


def test_a_tiff_with_tiles_far_larger_than_its_picture_is_refused() -> None:
    assert decode(tiff(*TILES)).shape == (16, 16, 3)
    wide, high = (322, 4, 1, 40_000), (323, 3, 1, 40_000)
    for tiles in ([wide, high, *TILES[2:]], [wide, high, *TILES], [*TILES, wide, high]):  # Pillow takes the last
        with pytest.raises(UnreadableImageError, match="tiles of 40000x40000"):
            decode(tiff(*tiles))


@pytest.mark.parametrize("tag", [(324, 1, 2_000_000, 0), (700, 3, 2_000_000, 0)])
def test_a_tiff_with_millions_of_tiles_or_numbers_is_refused(tag: tuple[int, int, int, int]) -> None:
    with pytest.raises(UnreadableImageError, match=f"tag {tag[0]} has 2000000 values"):
        decode(tiff(*TILES[:2], tag))


@pytest.mark.parametrize("chunk", [b"prVt", b"IDAT", b"tEXt"])
def test_a_png_of_very_many_chunks_is_refused(chunk: bytes) -> None:
    data, empty = encode(COLOURED, "PNG"), bytes(4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = 33  # behind the header
    with pytest.raises(UnreadableImageError, match=r"a PNG of more than 1,0\d\d chunks"):
        decode(data[:at] + 1_100 * empty + data[at:])
    if chunk == b"prVt":
        assert np.array_equal(decode(data[:at] + 900 * empty + data[at:]), decode(data))


def test_a_large_run_length_coded_bmp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 32 * b"\x30\x07\x00\x00" + b"\x00\x01"  # 32 rows of 48 pixels of colour 7
    palette = bytes(4 * 7) + bytes([1, 2, 3, 0]) + bytes(4 * 248)  # blue, green, red
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(runs), 0, 0, 256, 0)
    data = b"BM" + struct.pack("<III", 54 + 1024 + len(runs), 0, 54 + 1024) + header + palette + runs
    assert np.array_equal(decode(data), np.full((HEIGHT, WIDTH, 3), (3, 2, 1)))
    monkeypatch.setattr(decoding, "MAX_RLE_BYTES", len(data) - 1)
    with pytest.raises(UnreadableImageError, match="run-length coded BMP"):
        decode(data)
    decode(encode(COLOURED, "BMP"))  # of any size, where it is plain


def test_a_side_that_no_jpeg_can_have_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="over 65,535 pixels a side"):
        decode(png_with_size(65_536, 1))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("error", [TypeError, struct.error, RecursionError, MemoryError, ZeroDivisionError])
def test_whatever_a_decoder_raises_is_the_reason(
    file_format: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error("met this")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(UnreadableImageError, match="met this"):
        decode(encode(COLOURED, file_format))


@pytest.mark.parametrize("kind", [11, 12])
def test_a_tiff_whose_pixels_lie_at_a_fraction_is_refused(kind: int) -> None:
    at = (273, kind, 1, 0x3F800000 if kind == 11 else 300)  # 1.0 as four bytes; eight bytes elsewhere
    deflated, plain = (struct.pack("<HHLL", 259, 3, 1, way) for way in (8, 1))
    raw = tiff(at, (278, 4, 1, 16), (279, 4, 1, 256)).replace(deflated, plain)
    with pytest.raises(UnreadableImageError, match="TypeError"):
        decode(raw)


def test_only_plain_files_below_the_limit_are_read(tmp_path: Path) -> None:
    zero, pipe, sparse, folder = (tmp_path / name for name in ("zero.jpg", "pipe.jpg", "sparse.jpg", "folder.jpg"))
    zero.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    folder.mkdir()
    with sparse.open("wb") as file:
        file.truncate(20_000_000_000)
    for path, reason in [
        (zero, "not a plain file"),
        (pipe, "not a plain file"),
        (folder, "a folder"),
        (sparse, "20000 MB are over 512 MB"),
        (tmp_path / "gone.jpg", "No such file or directory"),
    ]:
        with pytest.raises(UnreadableImageError, match=reason):
            read_image(path)


# the square that a model sees


def test_square_leaves_an_image_of_that_size_alone() -> None:
    picture = np.asarray(noise(20))
    assert square(picture, 20) is picture


def test_square_cuts_the_middle_out() -> None:
    picture = np.arange(4 * 7, dtype=np.uint8).reshape(4, 7, 1).repeat(3, 2)
    # 7 - 4 = 3 columns too many: 1 at the left, 2 at the right
    assert np.array_equal(square(picture, 4), picture[:, 1:5])
    assert np.array_equal(square(picture.transpose(1, 0, 2), 4), picture.transpose(1, 0, 2)[1:5])


def test_square_averages_when_it_makes_smaller() -> None:
    picture = np.array([[0, 10, 100, 100], [20, 30, 100, 100], [7, 7, 0, 0], [7, 7, 0, 4]], dtype=np.uint8)
    assert square(picture[..., None].repeat(3, 2), 2)[..., 0].tolist() == [[15, 100], [7, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (3, 200), (31, 33), (64, 32), (500, 320)])
def test_square_gives_the_side_asked_for(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 77, dtype=np.uint8)
    result = square(picture, 32)
    assert result.shape == (32, 32, 3)
    assert (result == 77).all()


def test_a_jpeg_that_says_how_its_colours_are_stored() -> None:
    jpeg = encode(COLOURED, "JPEG")
    adobe = jpeg[:2] + b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00\x01" + jpeg[2:]
    assert np.abs(np.subtract(seen(adobe), COLOURS)).max() <= 8

import hashlib
import io
import multiprocessing
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rfray.data import pixels
from rfray.data.pixels import ScannedFile, UnreadableImageError, cache_folder, decode, load, scan, square
from rfray.errors import DataError

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
    script = "import sys; from rfray.data.pixels import decode; decode(sys.stdin.buffer.read())"
    ended = subprocess.run([sys.executable, "-c", script], input=data[:20], capture_output=True, check=False)
    assert b"UnreadableImageError" in ended.stderr
    assert b"UserWarning" not in ended.stderr


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
    monkeypatch.setattr(pixels, "MAX_PIXELS", WIDTH * HEIGHT)
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


# one file of pixels a node


def write_images(folder: Path, count: int) -> list[str]:
    """Writes 0.png, 1.jpg, 2.png, … of different sizes, each with its own grey."""
    folder.mkdir(parents=True)
    paths = [f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20 + number, 40 - number), (number * 5,) * 3).save(folder / path)
    return paths


def digests_of(folder: Path, paths: list[str]) -> list[str]:
    return [hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in paths]


def pixel_files(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_scan_reads_all_files_in_order_and_load_gives_their_pixels(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 30)[::-1]
    scanned = scan(folder, paths, 16, cache)
    assert scanned == [ScannedFile(digest, None) for digest in digests_of(folder, paths)]
    loaded = load(folder, paths, [file.digest for file in scanned], 16, cache)
    assert isinstance(loaded, np.memmap)
    assert loaded.shape == (30, 16, 16, 3)
    assert not loaded.flags.writeable
    for path, row in zip(paths, loaded, strict=True):
        assert np.array_equal(row, square(decode((folder / path).read_bytes()), 16))


def test_unreadable_files_are_named_with_a_reason_and_left_out(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 4)
    (folder / paths[1]).write_text("not a picture")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    paths.insert(0, "gone.png")
    scanned = scan(folder, paths, 16, cache)
    assert [file.reason for file in scanned] == [
        "No such file or directory",
        None,
        "not an image of a known format",
        None,
        None,
    ]
    assert scanned[0].digest == ""
    assert scanned[2].digest == hashlib.sha256(b"not a picture").hexdigest()
    good = [paths[1], paths[3], paths[4]]
    before = pixel_files(cache)
    loaded = load(folder, good, digests_of(folder, good), 16, cache)
    assert pixel_files(cache) == before  # what scan wrote was used
    assert [int(row[8, 8, 0]) for row in loaded] == [0, 10, 15]


def test_what_is_there_is_not_decoded_again(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 5)
    digests = digests_of(folder, paths)
    scan(folder, paths, 16, cache)
    first = load(folder, paths, digests, 16, cache)
    (file,) = pixel_files(cache)
    before = file.stat()
    shutil.rmtree(folder)  # nothing can be decoded any more
    second = load(folder, paths, digests, 16, cache)
    assert np.array_equal(first, second)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_load_makes_what_is_missing_and_other_sizes(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 5)
    digests = digests_of(folder, paths)
    assert load(folder, paths, digests, 16, cache).shape == (5, 16, 16, 3)
    assert load(folder, paths, digests, 24, cache).shape == (5, 24, 24, 3)
    assert sorted(file.stat().st_size for file in pixel_files(cache)) == [5 * 16 * 16 * 3, 5 * 24 * 24 * 3]


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_was_cut_short_is_made_again(tmp_path: Path, size: int) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 5)
    digests = digests_of(folder, paths)
    expected = np.array(load(folder, paths, digests, 16, cache))
    (file,) = pixel_files(cache)
    file.write_bytes(file.read_bytes()[:size])
    assert np.array_equal(load(folder, paths, digests, 16, cache), expected)


def test_other_content_never_meets_old_pixels(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 5)
    load(folder, paths, digests_of(folder, paths), 16, cache)
    Image.new("RGB", (30, 30), (200, 200, 200)).save(folder / paths[2])
    changed = load(folder, paths, digests_of(folder, paths), 16, cache)
    assert [int(row[8, 8, 0]) for row in changed] == [0, 5, 200, 15, 20]


@pytest.mark.parametrize("how", ["other content", "No such file", "not an image"])
def test_a_file_that_changed_since_it_was_scanned_is_named(tmp_path: Path, how: str) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 5)
    digests = digests_of(folder, paths)
    changed = folder / paths[3]
    if how == "other content":
        Image.new("RGB", (30, 30)).save(changed)
    elif how == "No such file":
        changed.unlink()
    else:
        changed.write_text("text")
    with pytest.raises(DataError) as raised:
        load(folder, paths, digests, 16, cache)
    assert str(changed) in str(raised.value)
    assert how in str(raised.value)
    assert pixel_files(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("command", ["scan", "load"])
def test_nothing_is_left_behind_by_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: type[BaseException]
) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 40)
    digests = digests_of(folder, paths)

    def failing(data: bytes) -> np.ndarray:
        if hashlib.sha256(data).hexdigest() == digests[25]:
            raise error
        return decode(data)

    monkeypatch.setattr(pixels, "decode", failing)
    with pytest.raises(error):
        scan(folder, paths, 16, cache) if command == "scan" else load(folder, paths, digests, 16, cache)
    assert pixel_files(cache) == []
    monkeypatch.undo()
    assert load(folder, paths, digests, 16, cache).shape == (40, 16, 16, 3)


def scan_and_load(folder: Path, paths: list[str], cache: Path, barrier: Barrier, sums: "Queue[list[int]]") -> None:
    """What a process of a node does, at the same time as another."""
    barrier.wait(60)
    digests = [file.digest for file in scan(folder, paths, 16, cache)]
    barrier.wait(60)
    sums.put([int(load(folder, paths, digests, side, cache).sum()) for side in (16, 24)])


def test_two_processes_at_once_end_with_one_file_a_size(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    paths = write_images(folder, 40)
    context = multiprocessing.get_context("spawn")
    barrier, sums = context.Barrier(2), context.Queue()
    workers = [context.Process(target=scan_and_load, args=(folder, paths, cache, barrier, sums)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [sums.get(timeout=90) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    expected = [
        sum(int(square(decode((folder / path).read_bytes()), side).sum()) for path in paths) for side in (16, 24)
    ]
    assert results == [expected, expected]
    assert sorted(file.stat().st_size for file in pixel_files(cache)) == [40 * 16 * 16 * 3, 40 * 24 * 24 * 3]


def test_the_cache_is_where_the_sweep_or_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFRAY_CACHE", "/somewhere")
    assert cache_folder("/given") == Path("/given")
    assert cache_folder(None) == Path("/somewhere")
    monkeypatch.delenv("RFRAY_CACHE")
    assert cache_folder(None).name == "rfray"

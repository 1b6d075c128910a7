"""the bytes and pixels of an image file -> Fingerprint: how it was stored, and what it shows.

Everything comes from one reading and one decoding, so that each of 140,000 images is read once.
"""

import hashlib
import io
import math
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import IFD
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.TiffImagePlugin import TiffImageFile
from scipy import fft

from rfray.data.decoding import IMAGE_FORMATS, UnreadableImageError
from rfray.data.geometry import hashed_square

KEYPOINTS = 48
"""ORB keypoints kept of an image, the strongest: 768 of the 1,100 bytes of its row."""
KEYPOINT_SIDE = 160
"""Keypoints are looked for after the picture is resized to as many pixels as a square of this side has."""
LONG_SIDE = 16
"""Frequencies along a side of the long perceptual hash."""
SPECTRUM_SIDE = 256
"""Largest side, in pixels, of the central square whose spectrum is taken: the transform of more takes too long."""
SPECTRUM_BINS = 32
"""Radial frequencies of a spectrum: a square of 64 pixels has one in each."""
SPECTRUM_FLOOR = 1e-6
"""Least power: a flat picture has none, and no logarithm."""


class Fingerprint(NamedTuple):
    """How one image file was stored, and what it shows. A table of many has its fields as columns; 1.1 kB a row.

    Of what is stored: Pillow's names of the file format and of the colour mode (RGB, L, P, CMYK, I;16, …); eight hex
    digits for the JPEG quantisation tables, which the encoder and its quality choose; the quality (see `jpeg_quality`);
    the chroma subsampling of a colour JPEG (4:4:4, 4:2:2, 4:2:0 or other); whether it has a colour profile (icc). Text
    is empty, and the quality nan, where a file has none. Perceptual hashes (Zauner 2010, by imagehash) are the signs of
    the lowest frequencies of the picture, and of the picture mirrored left to right; phash_256 is the first one with
    more of them (see `long_hashes`). Keypoints have 16 bytes for each
    of at most KEYPOINTS: the first 128 bits of the ORB descriptors of the strongest. The spectrum is (SPECTRUM_BINS,)
    float32 (see `power_spectrum`).
    """

    file_bytes: int
    format: str
    mode: str
    bytes_per_pixel: float
    quantisation: str
    quality: float
    subsampling: str
    progressive: bool
    exif: bool
    icc: bool
    phash: np.uint64
    phash_mirrored: np.uint64
    phash_256: bytes
    keypoints: bytes
    spectrum: np.ndarray


def fingerprint(data: bytes, pixels: np.ndarray) -> Fingerprint:
    """The fingerprint of one file: its bytes, and the (height, width, 3) uint8 RGB that `decoding.decode` made of them.

    Only the file's header is read again. Threads may call it side by side. Raises UnreadableImageError.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = hashed_square(pixels)
    phashes = [np.uint64(int(str(imagehash.phash(image)), 16)) for image in _both_ways(small)]
    # ordered by FAST's score: of those with the highest Harris score, fewer are found again in a crop
    orb = cv2.ORB.create(
        KEYPOINTS, scaleFactor=1.2, nlevels=6, edgeThreshold=12, fastThreshold=7, scoreType=cv2.ORB_FAST_SCORE
    )
    descriptors = orb.detectAndCompute(resized(grey, KEYPOINT_SIDE), None)[1]
    return Fingerprint(
        **_stored(data),
        phash=phashes[0],
        phash_mirrored=phashes[1],
        phash_256=long_hashes(small)[0],
        keypoints=b"" if descriptors is None else descriptors[:KEYPOINTS, :16].tobytes(),
        spectrum=power_spectrum(grey),
    )


def long_hashes(small: np.ndarray) -> tuple[bytes, bytes]:
    """The perceptual hash of 256 bits of a picture and of the picture mirrored: 32 bytes each, the lowest 8 x 8 first.

    `small` is the picture's `hashed_square`, (32, 32) uint8. Of 16 x 16 frequencies, it tells pictures apart by
    themselves, where the hash of 64 bits only proposes candidates.
    """
    low = np.zeros((LONG_SIDE, LONG_SIDE), bool)
    low[: LONG_SIDE // 2, : LONG_SIDE // 2] = True
    plain, mirrored = (
        np.packbits(np.concatenate([signs[low], signs[~low]])).tobytes()
        for image in _both_ways(small)
        for signs in [imagehash.phash(image, hash_size=LONG_SIDE, highfreq_factor=2).hash]
    )
    return plain, mirrored


def _both_ways(small: np.ndarray) -> tuple[Image.Image, Image.Image]:
    image = Image.fromarray(small)
    return image, ImageOps.mirror(image)


def _stored(data: bytes) -> dict[str, Any]:
    """The fields of how a file was stored. Raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            tables = image.quantization if isinstance(image, JpegImageFile) else {}
            tiff_exif = isinstance(image, TiffImageFile) and IFD.Exif in image.tag_v2
            in_colour = isinstance(image, JpegImageFile) and image.layers == 3
            return {
                "file_bytes": len(data),
                "format": image.format or "",
                "mode": image.mode,
                "bytes_per_pixel": len(data) / math.prod(image.size),
                "quantisation": hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:8] if tables else "",
                "quality": jpeg_quality(np.array(tables[0])) if 0 in tables else np.nan,
                "subsampling": ("4:4:4", "4:2:2", "4:2:0", "other")[get_sampling(image)] if in_colour else "",
                "progressive": bool(image.info.get("progressive")),
                "exif": tiff_exif or bool(image.info.get("exif")),
                "icc": bool(image.info.get("icc_profile")),
            }
    except Exception as error:  # the picture could be decoded, but Pillow stumbles over what else is in the file
        raise UnreadableImageError(f"damaged header ({type(error).__name__}: {error})") from None


def jpeg_quality(luma: np.ndarray) -> float:
    """The quality (1 to 100) at which libjpeg's table is nearest to this one: least sum of absolute differences.

    `luma` has 64 numbers, row by row. Exact for files of libjpeg and its kin.
    """
    return float(1 + np.abs(_libjpeg_tables() - luma).sum(axis=1).argmin())


def power_spectrum(grey: np.ndarray) -> np.ndarray:
    """(height, width) uint8 -> (32,) float32: log10 of the power at radial frequencies from 0 to 0.5 per pixel.

    Power is averaged around the circle (Durall et al. 2020), over the central square, at most 256 pixels wide and never
    resized, since resizing is what leaves such traces; less its mean, under a Hann window, and divided by the window's
    energy, so that white noise has its variance at every frequency and size. Squares below 64 pixels have no frequency
    in some bins: NaN there.
    """
    side = min(*grey.shape, SPECTRUM_SIDE)
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    middle = grey[top : top + side, left : left + side].astype(np.float32)
    window, bins, counts = _radial(side)
    transformed = fft.rfft2((middle - middle.mean()) * window)
    power = transformed.real**2 + transformed.imag**2
    power[:, 1 : (side + 1) // 2] *= 2  # each stands for its mirror image as well
    total = np.bincount(bins, power.ravel(), SPECTRUM_BINS + 1)[:SPECTRUM_BINS]
    with np.errstate(invalid="ignore"):  # 0 / 0 in a bin without a frequency
        return np.asarray(np.log10(np.maximum(total / counts, SPECTRUM_FLOOR)), np.float32)


def resized(grey: np.ndarray, side: int) -> np.ndarray:
    """(height, width) -> the same picture with about side x side pixels, in its own proportions, 8 at least a side."""
    height, width = grey.shape
    scale = side / np.sqrt(height * width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


@lru_cache
def _libjpeg_tables() -> np.ndarray:
    """(100, 64): the luma tables of qualities 1 to 100, as the libjpeg of Pillow writes them."""
    files = [io.BytesIO() for _ in range(100)]
    for quality, file in enumerate(files, 1):
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
    return np.array([JpegImageFile(io.BytesIO(file.getvalue())).quantization[0] for file in files])


@lru_cache(maxsize=64)
def _radial(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Window of energy 1, each frequency's bin (those beyond Nyquist in one more), and how many each bin has."""
    hann = np.hanning(side + 2)[1:-1]  # without the zeros at its ends
    window = np.outer(hann, hann)
    radius = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None])
    bins = np.minimum(radius * 2 * SPECTRUM_BINS, SPECTRUM_BINS).astype(np.int64)
    twice = np.ones_like(radius)
    twice[:, 1 : (side + 1) // 2] = 2
    counts = np.bincount(bins.ravel(), twice.ravel(), SPECTRUM_BINS + 1)[:SPECTRUM_BINS]
    return (window / np.sqrt((window**2).sum())).astype(np.float32), bins.ravel(), counts

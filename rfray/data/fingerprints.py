"""the bytes and pixels of an image file -> Fingerprint: how it was stored, and what it shows; many -> a table.

Everything comes from one reading and one decoding, so that each of 140,000 images is read once.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from scipy import fft

from rfray.data.decoding import IMAGE_FORMATS

KEYPOINTS = 48
"""ORB keypoints kept of an image, the strongest: 768 of the 1,100 bytes of its row."""
KEYPOINT_SIDE = 160
"""Keypoints are looked for after the picture is resized to as many pixels as a square of this side has."""
SPECTRUM_SIDE = 256
"""Largest side, in pixels, of the central square whose spectrum is taken: the transform of more takes too long."""
SPECTRUM_BINS = 32
"""Radial frequencies of a spectrum: a square of 64 pixels has one in each."""
SPECTRUM_FLOOR = 1e-6
"""Least power: a flat picture has none, and no logarithm."""
SAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0", (4, 2): "4:1:0"}
"""How many times more luma than chroma samples there are, (horizontally, vertically) -> the usual name."""
EXIF_TAG = 0x8769
"""The tag of a TIFF file that holds EXIF data (Exif 2.32, section 4.6.3)."""
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""The example luma quantisation table of the JPEG standard (ITU-T T.81, table K.1)."""


@dataclass(frozen=True)
class Fingerprint:
    """What one image file is like: how it was stored, and what it shows. Its fields are the columns of the table."""

    file_bytes: int
    width: int
    """In pixels as stored, before EXIF rotates the picture; so is the height."""
    height: int
    format: str
    """Pillow's name of the file format: JPEG, PNG, …"""
    mode: str
    """Pillow's name of the colour mode as stored: RGB, L, P, CMYK, I;16, … (a colour JPEG is RGB)."""
    bytes_per_pixel: float
    quantisation: str
    """Eight hex digits that stand for the JPEG quantisation tables: the encoder and its quality; else empty."""
    quality: float
    """JPEG quality, 1 to 100 (see `jpeg_quality`); nan where the file is no JPEG."""
    subsampling: str
    """Chroma subsampling of a colour JPEG, such as 4:2:0; else empty."""
    progressive: bool
    exif: bool
    icc: bool
    """Whether there is a colour profile."""
    phash: np.uint64
    """Perceptual hash (Zauner 2010, by imagehash): signs of the lowest frequencies of the whole picture."""
    phash_mirrored: np.uint64
    """The same of the picture mirrored left to right."""
    keypoints: bytes
    """16 bytes for each of at most KEYPOINTS: the first 128 bits of the ORB descriptors of the strongest keypoints."""
    spectrum: np.ndarray
    """(SPECTRUM_BINS,) float32: see `power_spectrum`."""


def fingerprint(data: bytes, pixels: np.ndarray) -> Fingerprint:
    """The fingerprint of one file: its bytes, and the (height, width, 3) uint8 RGB that `decoding.decode` made of them.

    Only the file's header is read again. Threads may call it side by side.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS)  # the size that phash works on
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        width, height = image.size
        tables = image.quantization if isinstance(image, JpegImageFile) else {}
        tiff_exif = isinstance(image, TiffImageFile) and EXIF_TAG in image.tag_v2
        return Fingerprint(
            file_bytes=len(data),
            width=width,
            height=height,
            format=image.format or "",
            mode=image.mode,
            bytes_per_pixel=len(data) / (width * height),
            quantisation=hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:8] if tables else "",
            quality=jpeg_quality(np.array(tables[0])) if 0 in tables else np.nan,
            subsampling=_subsampling(image),
            progressive=bool(image.info.get("progressive")),
            exif=tiff_exif or bool(image.info.get("exif")),
            icc=bool(image.info.get("icc_profile")),
            phash=_phash(small),
            phash_mirrored=_phash(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
            keypoints=_keypoints(grey),
            spectrum=power_spectrum(grey),
        )


def jpeg_quality(luma: np.ndarray) -> float:
    """The quality (1 to 100) whose table, by the Independent JPEG Group's scaling formula, is nearest to this one.

    `luma` has 64 numbers, row by row. Exact for files of libjpeg and its kin; of other encoders, the quality of
    libjpeg that quantises most alike (least sum of absolute differences).
    """
    return float(1 + np.abs(_libjpeg_tables() - luma.reshape(8, 8)).sum(axis=(1, 2)).argmin())


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


def to_table(fingerprints: Sequence[Fingerprint]) -> pd.DataFrame:
    """One row for each fingerprint, one column for each field, all of types that parquet knows; 1.1 kB a row."""
    columns = {field.name: [getattr(one, field.name) for one in fingerprints] for field in fields(Fingerprint)}
    spectrum = pd.Series(columns.pop("spectrum"), dtype=object)
    return pd.DataFrame(columns).assign(spectrum=spectrum)


def resized(grey: np.ndarray, side: int) -> np.ndarray:
    """(height, width) -> the same picture with about side x side pixels, in its own proportions, 8 at least a side."""
    height, width = grey.shape
    scale = side / np.sqrt(height * width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _keypoints(grey: np.ndarray) -> bytes:
    # ordered by FAST's score: of those with the highest Harris score, fewer are found again in a crop
    orb = cv2.ORB.create(
        KEYPOINTS, scaleFactor=1.2, nlevels=6, edgeThreshold=12, fastThreshold=7, scoreType=cv2.ORB_FAST_SCORE
    )
    descriptors = orb.detectAndCompute(resized(grey, KEYPOINT_SIDE), None)[1]
    return b"" if descriptors is None else descriptors[:KEYPOINTS, :16].tobytes()


def _phash(image: Image.Image) -> np.uint64:
    return np.uint64(int(str(imagehash.phash(image)), 16))


def _subsampling(image: Image.Image) -> str:
    if not isinstance(image, JpegImageFile) or len(image.layer) != 3:
        return ""
    (_, luma_across, luma_down, _), (_, across, down, _) = image.layer[:2]
    return SAMPLINGS.get((luma_across // across, luma_down // down), "other")


@lru_cache
def _libjpeg_tables() -> np.ndarray:
    """(100, 8, 8): the luma tables of qualities 1 to 100, as jpeg_quality_scaling() of libjpeg makes them."""
    qualities = np.arange(1, 101)
    percent = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.asarray(((percent[:, None, None] * LUMA + 50) // 100).clip(1, 255))


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

"""A folder of photographs -> a data set of real and resampled ("fake") ones, for `quality` on one more folder.

Half of the photographs stay what they are, the other half become fakes: an ellipse in the middle, where the face is,
goes through a smaller size and back, as an auto-encoder's output does, and is blended in. Both halves are encoded anew
alike, and no photograph is in both, so that neither content nor format tells real from fake.
"""

from pathlib import Path

import cv2
import numpy as np

SMALLER = (0.4, 0.7)
"""Least and greatest size of the smaller image, as a share of the image's, drawn evenly for every fake."""
SHARE = (0.6, 1.0)
"""Least and greatest weight of the resampled image in the ellipse, drawn evenly; the photograph has the rest."""
JPEG_QUALITY = (80, 95)
"""Lowest and highest quality, drawn evenly for every image, real or fake."""
ENLARGING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def write_resampled(photographs: Path, folder: Path, seed: int = 0) -> Path:
    """Writes {real,fake}/<name>.jpg below `folder`, which it returns: half of the photographs each, in size and number.

    `photographs` is a folder of image files. The same arguments give the same images.
    """
    files = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    generator = np.random.default_rng(seed)
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)
    for position, chosen in enumerate(generator.permutation(len(files) - len(files) % 2)):
        picture, name = cv2.imread(str(files[chosen])), "real"
        if position % 2:
            picture, name = resampled(picture, generator), "fake"
        quality = int(generator.integers(*JPEG_QUALITY, endpoint=True))
        cv2.imwrite(str(folder / name / f"{chosen:06d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return folder


def resampled(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8, with an ellipse in the middle that was smaller once."""
    height, width = picture.shape[:2]
    factor, share = generator.uniform(*SMALLER), generator.uniform(*SHARE)
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, (width, height), interpolation=ENLARGING[generator.integers(len(ENLARGING))])
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = np.clip((1 - np.hypot(rows / 0.85, columns / 0.7)) * 5, 0, 1)[..., None] * share  # a soft edge
    return np.rint(inside * back + (1 - inside) * picture).astype(np.uint8)

"""A folder of images -> the time to audit them against that of decoding alone."""

import os
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cache import decode_all
from benchmarks.figures import Figure, alternate, timed
from benchmarks.pictures import write_pictures
from rfray.data.decoding import decode
from rfray.data.fingerprints import Fingerprint, fingerprint
from rfray.data.geometry import Geometry
from rfray.data.images import scan
from rfray.data.near_duplicates import find_pairs
from rfray.spec.sweep import CacheSettings

SIDE = 224


def audit(folder: Path, rounds: int = 3, images: int = 1000) -> list[Figure]:
    """Reading, decoding, the cache, fingerprints and the search for near duplicates, of JPEGs of 256 px."""
    pictures = write_pictures(folder / "256", images)
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    files = [np.frombuffer((pictures / path).read_bytes(), np.uint8) for path in paths]
    caches = (CacheSettings(dir=str(pictures / f"cache-{number}")) for number in count())

    def read(number: int) -> np.ndarray:
        return decode((pictures / paths[number]).read_bytes())

    def audited() -> None:
        scanned, prints, _ = scan(pictures, paths, [Geometry("scale", SIDE, None)], next(caches), fingerprint)
        table = pd.DataFrame(prints, columns=Fingerprint._fields)
        find_pairs(scanned["digest"].tolist(), table, read, os.cpu_count() or 1)

    ours, theirs = alternate(lambda: timed(audited), lambda: timed(lambda: decode_all(files)), rounds)
    each = images / float(np.median(ours)) / (os.cpu_count() or 1)
    note = f"{each:.0f} images/s on each core"
    return [Figure(f"audit {images} JPEGs of 256 px", "decoding alone", ours, theirs, None, note=note)]

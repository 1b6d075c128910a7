"""What a detector has learned from, as fingerprints in its bundle <-> which of other images are among them.

Of each image of train and val: 16 bytes of the SHA-256 of its file, and its perceptual hash of 256 bits (see
`fingerprints.long_hashes`): 48 bytes an image, 6.7 MB for 140,000. Measured on 4,048 images of faces (CIPLab at 160 px,
six sources at 224 px): JPEG of quality 30 to 90, other sizes, brightness and mirroring change at most 10 of the 256
bits, and at most 3 of the lowest 64; of 4.2 million pairs of different pictures the nearest differ in 26. Crops are not
found.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rfray.errors import RunError, first_line
from rfray.store.files import write_whole
from rfray.store.sealed import SEAL, read_sealed, seal

DIGEST_BYTES = 16
"""Of a SHA-256: of 140,000 x 500,000 pairs of different files none agrees by chance in so many (2e-28)."""
HASH_BYTES = 32
ALIKE, LOW_ALIKE = 20, 3
"""Bits in which the hashes of a picture and its copy may differ, of 256 and of the lowest 64: see above."""
CHUNKS = LOW_ALIKE + 1
"""Of the lowest 64 bits: two that differ in at most LOW_ALIKE have one chunk in common (Norouzi et al. 2012)."""
AT_ONCE = 1_000
"""Images that are looked for at once (our choice): it keeps memory flat."""


@dataclass(frozen=True, eq=False)
class LearnedImages:
    """The fingerprints of m images."""

    digests: np.ndarray
    """(m, DIGEST_BYTES) uint8: the first bytes of each file's SHA-256."""
    hashes: np.ndarray
    """(m, HASH_BYTES) uint8: perceptual hashes."""

    @cached_property
    def files(self) -> set[bytes]:
        """The digests."""
        return {row.tobytes() for row in self.digests}

    @cached_property
    def by_chunk(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each of CHUNKS: its values in rising order, (m,) uint64, and the positions of the hashes with them."""
        low, found = self.hashes.view(np.uint64)[:, 0], []
        for number in range(CHUNKS):
            keys = _chunk(low, number)
            order = np.argsort(keys, kind="stable")
            found.append((keys[order], order))
        return found


def write_learned_images(path: Path, images: pd.DataFrame) -> None:
    """Writes the fingerprints of `images` (digest in hex, phash_256), in an order that says nothing of their names."""
    found = images[["digest", "phash_256"]].sort_values("digest", kind="stable")
    digests = bytes.fromhex("".join(digest[: 2 * DIGEST_BYTES] for digest in found["digest"]))
    arrays = {
        "digests": np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        "hashes": np.frombuffer(b"".join(found["phash_256"]), np.uint8).reshape(-1, HASH_BYTES),
    }
    write_whole(path, seal(save(arrays, SEAL)))


def read_learned_images(path: Path) -> LearnedImages:
    """What `write_learned_images` wrote. Raises RunError, with the file's name, where it is damaged or gone."""
    try:
        arrays = load(read_sealed(path))
        digests, hashes = arrays["digests"], arrays["hashes"]
        shapes = (len(hashes), DIGEST_BYTES), (len(hashes), HASH_BYTES)
        if (digests.shape, hashes.shape) != shapes or {digests.dtype, hashes.dtype} != {np.dtype(np.uint8)}:
            raise ValueError("its arrays are not those of fingerprints")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(f"{path}: no fingerprints that can be read: {first_line(error)}; copy the bundle anew") from None
    return LearnedImages(digests, hashes)


def find_learned(table: pd.DataFrame, known: LearnedImages) -> np.ndarray:
    """(n,) of text, for each row of `table` (digest, hash, hash_mirrored): exact, alike, or "" for neither.

    exact: the file is one of those; alike: its picture, or its mirror image, has a hash near to one of theirs. A row
    without a digest is neither.
    """
    digests = [bytes.fromhex(one[: 2 * DIGEST_BYTES]) for one in table["digest"]]
    exact = np.array([digest in known.files for digest in digests], bool)
    alike = np.zeros(len(table), bool)
    asked = np.flatnonzero(~exact & np.array([bool(digest) for digest in digests], bool))
    for column in ("hash", "hash_mirrored"):
        hashes = np.frombuffer(b"".join(table[column].iloc[asked]), np.uint64).reshape(-1, HASH_BYTES // 8)
        for start in range(0, len(asked), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            alike[asked[some]] |= _near(hashes[some], known)
    return np.where(exact, "exact", np.where(alike, "alike", "")).astype(object)


def _chunk(low: np.ndarray, number: int) -> np.ndarray:
    """The chunk of this number of the lowest 64 bits."""
    width = 64 // CHUNKS
    return np.asarray((low >> np.uint64(width * number)) & np.uint64(2**width - 1))


def _near(asked: np.ndarray, known: LearnedImages) -> np.ndarray:
    """(n,) bool: which of the hashes (n, 4) uint64 are near to a known one, among those that share a chunk."""
    theirs, near = known.hashes.view(np.uint64), np.zeros(len(asked), bool)
    for number, (ordered, order) in enumerate(known.by_chunk):
        wanted = _chunk(asked[:, 0], number)
        first, last = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(np.arange(len(asked)), counts)
        places = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(first, counts)
        bits = np.bitwise_count(asked[rows] ^ theirs[order[places]])
        close = (bits[:, 0] <= LOW_ALIKE) & (bits.sum(axis=1, dtype=np.int64) <= ALIKE)
        near[rows[close]] = True
    return near

"""Perceptual hashes of 256 bits -> which of them are near to each other: pictures that are the same, or nearly so.

Measured on 4,048 images of faces (CIPLab at 160 px, six sources at 224 px): JPEG of quality 30 to 90, other sizes,
brightness and mirroring change at most 10 of the 256 bits, and at most 3 of the lowest 64; of 4.2 million pairs of
different pictures the nearest differ in 26. Crops are not found.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

HASH_BYTES = 32
ALIKE, LOW_ALIKE = 20, 3
"""Bits in which the hashes of a picture and its copy may differ, of 256 and of the lowest 64: see above."""
CHUNKS = LOW_ALIKE + 1
"""Of the lowest 64 bits: two that differ in at most LOW_ALIKE have one chunk in common (Norouzi et al. 2012)."""
AT_ONCE = 1_000
"""Images that are looked for at once (our choice): it keeps memory flat."""


@dataclass(frozen=True, eq=False)
class HashIndex:
    """Hashes in which others are looked for."""

    hashes: np.ndarray
    """(m, HASH_BYTES) uint8."""

    def near(self, asked: np.ndarray) -> np.ndarray:
        """(k, 2) int: rows of `asked`, (n, HASH_BYTES) uint8, and of the hashes here that are near to each."""
        pairs = [np.empty((0, 2), np.int64)]
        for start in range(0, len(asked), AT_ONCE):
            rows, places = self._near(np.ascontiguousarray(asked[start : start + AT_ONCE]).view(np.uint64))
            pairs.append(np.column_stack([rows + start, places]))
        return np.concatenate(pairs)

    @cached_property
    def _by_chunk(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each of CHUNKS: its values in rising order, (m,) uint64, and the positions of the hashes with them."""
        low, found = self.hashes.view(np.uint64)[:, 0], []
        for number in range(CHUNKS):
            keys = _chunk(low, number)
            order = np.argsort(keys, kind="stable")
            found.append((keys[order], order))
        return found

    def _near(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `asked` (n, 4) uint64 and positions of hashes near to them, among those that share a chunk."""
        theirs, found = self.hashes.view(np.uint64), []
        for number, (ordered, order) in enumerate(self._by_chunk):
            wanted = _chunk(asked[:, 0], number)
            first, last = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
            counts = last - first
            rows = np.repeat(np.arange(len(asked)), counts)
            places = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(first, counts)
            bits = np.bitwise_count(asked[rows] ^ theirs[order[places]])
            close = (bits[:, 0] <= LOW_ALIKE) & (bits.sum(axis=1, dtype=np.int64) <= ALIKE)
            found.append((rows[close], order[places[close]]))
        rows, places = (np.concatenate(each) for each in zip(*found, strict=True))
        return rows, places


def hashes_of(column: "pd.Series[bytes]") -> np.ndarray:
    """(n, HASH_BYTES) uint8: the hashes of a column of bytes."""
    return np.frombuffer(b"".join(column), np.uint8).reshape(-1, HASH_BYTES)


def alike_pairs(table: pd.DataFrame) -> np.ndarray:
    """(k, 2) int, rows of `table` (hash, hash_mirrored) with pictures alike, maybe mirrored; enough to link all such.

    Not every pair of them: rows with the same hash are linked with the first one of them.
    """
    plain = hashes_of(table["hash"])
    different, first, of = np.unique(plain, axis=0, return_index=True, return_inverse=True)
    index = HashIndex(np.ascontiguousarray(different))
    same = np.column_stack([first[of.ravel()], np.arange(len(table))])
    near = (first[index.near(hashes_of(table[column])[first])] for column in ("hash", "hash_mirrored"))
    return np.concatenate([same, *near])


def _chunk(low: np.ndarray, number: int) -> np.ndarray:
    """The chunk of this number of the lowest 64 bits."""
    width = 64 // CHUNKS
    return np.asarray((low >> np.uint64(width * number)) & np.uint64(2**width - 1))

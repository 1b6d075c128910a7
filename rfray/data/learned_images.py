"""What a detector has learned from, as fingerprints in its bundle <-> which of other images are among them.

Of each image of train and val: 16 bytes of the SHA-256 of its file, and its perceptual hash of 256 bits (see
`fingerprints.long_hashes` and `hash_index`): 48 bytes an image, 6.7 MB for 140,000.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rfray.data.hash_index import HASH_BYTES, HashIndex, hashes_of
from rfray.errors import RunError, first_line
from rfray.store.files import write_whole
from rfray.store.sealed import SEAL, read_sealed, seal

PRINTS = ("digest", "hash", "hash_mirrored")
"""What is known of an image's file and picture: SHA-256 in hex, "" where it could not be read, and `long_hashes`."""
DIGEST_BYTES = 16
"""Of a SHA-256: of 140,000 x 500,000 pairs of different files none agrees by chance in so many (2e-28)."""


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
    def index(self) -> HashIndex:
        """The hashes, each once, to look for others in."""
        return HashIndex(np.unique(self.hashes, axis=0))


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
    """(n,) of text, for each row of `table` (PRINTS): exact, alike, or "" for neither.

    exact: the file is one of those; alike: its picture, or its mirror image, has a hash near to one of theirs. A row
    without a digest is neither.
    """
    digests = [bytes.fromhex(one[: 2 * DIGEST_BYTES]) for one in table["digest"]]
    exact = np.array([digest in known.files for digest in digests], bool)
    alike = np.zeros(len(table), bool)
    asked = np.flatnonzero(~exact & np.array([bool(digest) for digest in digests], bool))
    for column in ("hash", "hash_mirrored"):
        near = known.index.near(hashes_of(table[column].iloc[asked]))
        alike[asked[near[:, 0]]] = True
    return np.where(exact, "exact", np.where(alike, "alike", "")).astype(object)


def divided(
    images: pd.DataFrame, shards: Iterable[pd.DataFrame], known: LearnedImages | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The images that count, those left out as the detector has learned from them, and the unreadable ones.

    `shards` say what was found of `images` (id, label, subfolder), in their order: reason, PRINTS and p_fake of each
    model. The tables have all of that, path (the id) and kind (see `find_learned`).
    """
    found = [shard.assign(kind=find_learned(shard, known) if known is not None else "") for shard in shards]
    whole = images[["id", "label", "subfolder"]].join(pd.concat(found, ignore_index=True))
    whole.insert(0, "path", whole["id"])
    read, learned = whole["reason"] == "", whole["kind"] != ""
    return whole[read & ~learned].reset_index(drop=True), whole[read & learned], whole[~read]

"""digests + table of fingerprints + the pictures of candidates -> pairs and groups of near duplicates.

Three steps, each with fewer pairs than the last. Candidates: perceptual hashes a few bits apart, or several ORB
keypoints alike (found by locality-sensitive hashing, Indyk and Motwani 1998); never all pairs. Verification: the two
pictures are laid on each other, and their detail must agree. Groups: what verified pairs connect.

Found: copies, re-encodings, resized or slightly brightened copies, whole pictures mirrored left to right, and crops of
at least 70 % of width and height. Pictures that differ in one place only, such as a photograph and a manipulation of
it, are found too. Not found: rotated copies and mirrored crops. Often missed: crops of pictures that are out of focus
or all fine texture, such as foliage, since other keypoints are the strongest in each crop.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rfray.data.fingerprints import resized

Kind = Literal["exact", "re-encoded", "mirrored", "crop"]
"""Same file; same picture; same picture mirrored; one shows a part of the other, or both a part of a third."""
Read = Callable[[int], np.ndarray]
"""Number of an image -> its (height, width, 3) uint8 RGB pixels; several threads call it at once."""

HASH_DISTANCE = 6
"""Bits in which the perceptual hashes of candidates may differ, of 64."""
TABLES = 16
KEY_BITS = 26
"""Each table looks for keypoints that agree in these many bits, chosen at random once."""
KEYPOINT_DISTANCE = 13
"""Bits in which two keypoints that are alike may differ, of 128."""
KEYPOINTS_FOUND, KEYPOINTS_ALIKE = 2, 3
"""Fewest keypoints of candidates that the tables find alike, and that are."""
CROWD = 50
"""Where more keypoints, or hashes, have one key, it tells little, and each is compared only with the next few images:
frames of one video are neighbours by name."""
NEIGHBOURS = 3
"""How many those few are."""
CANDIDATES_EACH = 4
"""Candidates followed up of an image as the first of a pair: those with the most keypoints alike."""

LOOKS = 2000
"""Pictures kept at hand for verification, of about 200 kB each."""
SIDE = 192
"""Pictures are compared with as many pixels as a square of this side has."""
MATCHES = 30
"""Fewest keypoints that must agree on where a crop was cut; true crops of faces have 60 and more."""
STRETCH = (0.5, 2.0)
"""Least and greatest scale, in width and in height, from one picture of a crop pair to the other at that size."""
SHEAR = 0.08
"""Crops are neither sheared nor turned: greatest share of x in y and of y in x."""
OVERLAP = 0.4
"""Least share of each picture that the other shows too; 0.7 x 0.7 = 0.49 of one is in its smallest crop."""
LIKENESS = 0.4
"""Least correlation of the two pictures themselves."""
AGREEMENT = 0.75
"""Least correlation of the detail of two pictures laid on each other; different faces reach 0.66."""


@dataclass(frozen=True)
class Pair:
    """Two images that are near duplicates."""

    first: int
    second: int
    """Numbers of the images, first < second."""
    kind: Kind
    agreement: float
    """Correlation of their detail laid on each other, 0.75 to 1: copies 0.9 and more, manipulated ones often less."""


def find_pairs(digests: Sequence[str], table: pd.DataFrame, read: Read, workers: int = 1) -> list[Pair]:
    """The pairs of near duplicates, ordered by their numbers.

    `digests` and the rows of `table` (of `fingerprints.to_table`: keypoints, phash, phash_mirrored) are in the order of
    the images. Of files with the same digest, each is paired with the first of them, and only that one with others.
    `read` is called for candidates only.
    """
    leads, lead_of = np.unique(np.asarray(digests, dtype=np.str_), return_index=True, return_inverse=True)[1:]
    exact = [Pair(int(leads[lead]), own, "exact", 1.0) for own, lead in enumerate(lead_of) if leads[lead] != own]
    ones = np.sort(leads)
    pairs = ones[candidates(table.iloc[ones])]
    look = lru_cache(LOOKS)(lambda number: look_at(read(number)))
    with ThreadPoolExecutor(workers) as pool:
        found = [pair for pair in pool.map(lambda pair: verify(look, *pair), pairs.tolist()) if pair]
    return sorted([*exact, *found], key=lambda pair: (pair.first, pair.second))


def connected(n: int, links: np.ndarray) -> np.ndarray:
    """(n,) int: the same number for what `links`, (k, 2) int positions, connect, directly or through others."""
    one, other = links.T
    return np.asarray(connected_components(coo_array((np.ones(len(links), bool), (one, other)), shape=(n, n)))[1])


def candidates(table: pd.DataFrame) -> np.ndarray:
    """(m, 2) int64, rows of the table that may be near duplicates; first < second, each pair once, in order."""
    n = len(table)
    hashes = np.concatenate([table[name].to_numpy(np.uint64) for name in ("phash", "phash_mirrored")])
    pairs = np.concatenate([_of_hashes(hashes, np.tile(np.arange(n), 2)), _of_keypoints(table["keypoints"].tolist())])
    return np.unique(pairs, axis=0)


@dataclass(frozen=True)
class Look:
    """What verification needs of a picture."""

    grey: np.ndarray
    """(height, width) uint8, about SIDE x SIDE pixels."""
    detail: np.ndarray
    """(height, width) float32: see `_detail`."""
    points: np.ndarray
    """(k, 2) float32: x and y of its keypoints."""
    descriptors: np.ndarray
    """(k, 32) uint8: what they look like."""


def look_at(pixels: np.ndarray) -> Look:
    """(height, width, 3) uint8 RGB -> what verification needs of it."""
    grey = resized(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), SIDE)
    orb = cv2.ORB.create(500, edgeThreshold=12, fastThreshold=7, scoreType=cv2.ORB_FAST_SCORE)
    keypoints, descriptors = orb.detectAndCompute(grey, None)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
    return Look(grey, _detail(grey), points, np.zeros((0, 32), np.uint8) if descriptors is None else descriptors)


def verify(look: Callable[[int], Look], first: int, second: int) -> Pair | None:
    """How two images are near duplicates, by their pictures; None if they are not."""
    one, other = look(first), look(second)
    stretched = cv2.resize(other.grey, one.grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    whole: dict[Kind, np.ndarray] = {"re-encoded": stretched, "mirrored": stretched[:, ::-1]}
    agreement, kind = max((_agreement(one, np.ascontiguousarray(laid)), kind) for kind, laid in whole.items())
    if agreement >= AGREEMENT:
        return Pair(first, second, kind, agreement)
    placed = _place(one, other)
    if placed is None:
        return None
    moved, seen = (
        cv2.warpAffine(picture, placed, one.grey.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=border)
        for picture, border in ((other.grey, cv2.BORDER_REPLICATE), (np.ones_like(other.grey), cv2.BORDER_CONSTANT))
    )
    overlap = seen.sum() / max(one.grey.size, other.grey.size * abs(np.linalg.det(placed[:, :2])))
    if overlap < OVERLAP:
        return None
    inside = cv2.erode(seen, np.ones((9, 9)), borderValue=0) > 0  # where no border is in the moved picture's detail
    agreement = _agreement(one, moved, inside)
    return Pair(first, second, "crop", agreement) if agreement >= AGREEMENT else None


def _of_hashes(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(m, 2) owners with hashes at most HASH_DISTANCE apart, so alike in two of eight bytes (Norouzi et al. 2012)."""
    in_bytes = hashes.view(np.uint8).reshape(-1, 8).astype(np.uint32)
    found = [np.zeros((0, 2), np.int64)]
    for left, right in combinations(range(8), 2):
        for one, other in _sharing(in_bytes[:, left] << 8 | in_bytes[:, right], owners):
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= HASH_DISTANCE
            found.append(np.sort(owners[np.stack([one[near], other[near]], axis=1)], axis=1))
    return np.concatenate(found)


def _of_keypoints(descriptors: Sequence[bytes]) -> np.ndarray:
    """(m, 2) images with KEYPOINTS_ALIKE: where two are found by their keys, all of both images are compared."""
    codes = np.frombuffer(b"".join(descriptors), np.uint64).reshape(-1, 2)
    lengths = np.array([len(one) // 16 for one in descriptors], np.int64)
    begins = np.concatenate([[0], lengths.cumsum()])
    owners, n = np.repeat(np.arange(len(lengths)), lengths), len(lengths)
    generator = np.random.default_rng(0)
    found = [np.zeros(0, np.int64)]  # keypoint of the first image, and second image, in one number
    for _ in range(TABLES):
        chosen = np.zeros(128, np.uint8)
        chosen[generator.permutation(128)[:KEY_BITS]] = 1
        low, high = np.packbits(chosen).view(np.uint64)
        # mixed by an odd multiplier (Knuth); different bits that meet in one key by chance are told apart below
        keys = (codes[:, 0] & low) * np.uint64(0x9E3779B97F4A7C15) ^ (codes[:, 1] & high)
        for one, other in _sharing(keys, owners):
            near = np.bitwise_count(codes[one] ^ codes[other]).sum(axis=1) <= KEYPOINT_DISTANCE
            found.append(one[near] * n + owners[other[near]])
    keypoints, seconds = np.divmod(np.unique(np.concatenate(found)), n)
    shared, counts = np.unique(owners[keypoints] * n + seconds, return_counts=True)
    pairs = np.stack(np.divmod(shared[counts >= KEYPOINTS_FOUND], n), axis=1)
    alike = np.array([_alike(*(codes[begins[one] : begins[one + 1]] for one in pair)) for pair in pairs], np.int64)
    best_first = np.lexsort((-alike, pairs[:, 0]))
    pairs, alike = pairs[best_first], alike[best_first]
    place = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])  # among those of the same first image
    return pairs[(alike >= KEYPOINTS_ALIKE) & (place < CANDIDATES_EACH)]


def _sharing(keys: np.ndarray, owners: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions, the lower first, of two equal keys of different owners; in a CROWD, of NEIGHBOURS only."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)])
    counts = np.diff(starts, append=len(keys))
    following = np.repeat(starts + counts, counts) - np.arange(len(keys)) - 1  # how many equal ones come after each
    reach = np.where(np.repeat(counts, counts) > CROWD, np.minimum(following, NEIGHBOURS), following)
    one, distance = np.flatnonzero(reach), 1
    while one.size:
        first, second = order[one], order[one + distance]
        different = owners[first] != owners[second]
        yield first[different], second[different]
        distance += 1
        one = one[reach[one] >= distance]


def _alike(one: np.ndarray, other: np.ndarray) -> int:
    """How many keypoints, (k, 2) uint64, of the one image are like one of the other; the lesser of both ways round."""
    codes = one.view(np.uint8), other.view(np.uint8)
    nearest = [cv2.batchDistance(*both, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1)[0] for both in (codes, codes[::-1])]
    return int(min((distances <= KEYPOINT_DISTANCE).sum() for distances in nearest))


def _place(one: Look, other: Look) -> np.ndarray | None:
    """(2, 3) matrix that lays the other picture on the one, the same scene cut out otherwise; or None."""
    if min(len(one.points), len(other.points)) < MATCHES:
        return None
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(other.descriptors, one.descriptors)
    if len(matches) < MATCHES:
        return None
    source = other.points[[match.queryIdx for match in matches]]
    target = one.points[[match.trainIdx for match in matches]]
    placed, agreeing = cv2.estimateAffine2D(source, target, ransacReprojThreshold=3, maxIters=1000)
    if placed is None or agreeing.sum() < MATCHES:
        return None
    across, down = placed[0, 0], placed[1, 1]
    if not (STRETCH[0] <= across <= STRETCH[1] and STRETCH[0] <= down <= STRETCH[1]):
        return None
    return placed if max(abs(placed[0, 1]), abs(placed[1, 0])) <= SHEAR else None


def _agreement(one: Look, laid: np.ndarray, inside: np.ndarray | slice = slice(None)) -> float:
    """Correlation of the detail; 0 where the pictures themselves are not alike, but have one texture."""
    if _correlation(one.grey[inside].astype(np.float32), laid[inside].astype(np.float32)) < LIKENESS:
        return 0.0
    return _correlation(one.detail[inside], _detail(laid)[inside])


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """-1 to 1; 0 for a picture without any detail."""
    one, other = one - one.mean(), other - other.mean()
    energy = float((one**2).mean() * (other**2).mean())
    return float((one * other).mean()) / energy**0.5 if energy > 0 else 0.0


def _detail(grey: np.ndarray) -> np.ndarray:
    """What is 4 to 20 pixels wide: coarser, all faces are alike; finer, JPEG keeps nothing."""
    picture = grey.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5) - cv2.GaussianBlur(picture, (0, 0), 6))

"""digests, a table of fingerprints, and the pictures of candidates -> pairs of near duplicates, and what they connect.

Three steps, each with fewer pairs than the last. Candidates: perceptual hashes a few bits apart, or several ORB
keypoints alike (found by locality-sensitive hashing, Indyk and Motwani 1998); never all pairs. Verification: the two
pictures are aligned, and their detail must correlate. Groups: what verified pairs connect.

Found: copies, re-encodings, resized or slightly brightened copies, whole pictures mirrored left to right, and crops of
at least 70 % of width and height. Pictures that differ in one region only, such as a photograph and a manipulation of
it, are found too. Not found: rotated copies and mirrored crops. Often missed: crops of pictures that are out of focus
or all fine texture, such as foliage, since other keypoints are the strongest in each crop.

Thresholds without another source were set with planted copies of photographs (tests/data/test_near_duplicates.py): all
are found, and nothing else.
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

PairKind = Literal["exact", "re-encoded", "mirrored", "crop"]
"""Same file; same picture; same picture mirrored; one shows a part of the other, or both a part of a third."""

HASH_DISTANCE = 6
"""Bits in which the perceptual hashes of candidates may differ, of 64."""
TABLES = 16
KEY_BITS = 26
"""Each table looks for keypoints that agree in these many bits, chosen at random once."""
KEYPOINT_DISTANCE = 13
"""Bits in which two keypoints that are alike may differ, of 128: TABLES find nearly all of them."""
KEYPOINTS_FOUND, KEYPOINTS_ALIKE = 2, 3
"""Fewest keypoints of candidates that the tables find alike, and that are."""
CROWD = 50
"""Where more keypoints, or hashes, have one key, they say little, and each is compared only with the next few images:
frames of one video are neighbours by name. Without this limit the time grows with the square of such a crowd."""
NEIGHBOURS = 3
"""How many those few are."""
CANDIDATES_EACH = 4
"""Candidates that are verified of an image as the first of a pair: those with the most keypoints alike."""

PICTURES_KEPT = 2000
"""Pictures kept in memory during verification, of about 200 kB each."""
SIDE = 192
"""Pictures are compared with as many pixels as a square of this side has."""
MATCHES = 30
"""Fewest keypoints that must agree on the position of a crop; true crops of faces have 60 and more."""
STRETCH = (0.5, 2.0)
"""Least and greatest scale, in width and in height, from one picture of a crop pair to the other at that size."""
SHEAR = 0.08
"""Crops are neither sheared nor rotated: greatest share of x in y and of y in x."""
OVERLAP = 0.4
"""Least share of each picture that the other shows too; 0.7 x 0.7 = 0.49 of one is in its smallest crop."""
LIKENESS = 0.4
"""Least correlation of the two pictures themselves."""
AGREEMENT = 0.75
"""Least correlation of the detail of two aligned pictures; different faces reach 0.66."""


def find_pairs(
    digests: Sequence[str], table: pd.DataFrame, read: Callable[[int], np.ndarray], workers: int = 1
) -> pd.DataFrame:
    """The pairs of near duplicates: first, second (numbers of the images, first < second, in order), kind, agreement.

    `agreement` is the correlation of their detail once aligned, 0.75 to 1: copies 0.9 and more, manipulated ones often
    less. `digests` and the rows of `table` (of `fingerprints.to_table`: keypoints, phash, phash_mirrored) are in the
    order of the images. Of files with the same digest, each is paired with the first of them, and only that one with
    others. `read` returns the (height, width, 3) uint8 RGB pixels of the image with a number; it is called for
    candidates only, by several threads at once.
    """
    firsts, first_of = np.unique(np.asarray(digests, dtype=np.str_), return_index=True, return_inverse=True)[1:]
    different = np.sort(firsts)
    pairs = different[candidates(table.iloc[different])].tolist()
    features = lru_cache(PICTURES_KEPT)(lambda number: picture_features(read(number)))
    with ThreadPoolExecutor(workers) as pool:
        verified = list(pool.map(lambda pair: verify(features(pair[0]), features(pair[1])), pairs))
    rows: list[tuple[int, int, PairKind, float]] = [
        (int(firsts[at]), number, "exact", 1.0) for number, at in enumerate(first_of) if firsts[at] != number
    ]
    rows += [(*pair, *found) for pair, found in zip(pairs, verified, strict=True) if found is not None]
    return pd.DataFrame(sorted(rows), columns=["first", "second", "kind", "agreement"])


def linked_groups(n: int, links: np.ndarray) -> np.ndarray:
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
class PictureFeatures:
    """What verification needs of a picture."""

    grey: np.ndarray
    """(height, width) uint8, about SIDE x SIDE pixels."""
    detail: np.ndarray
    """(height, width) float32: see `_detail`."""
    points: np.ndarray
    """(k, 2) float32: x and y of its keypoints."""
    descriptors: np.ndarray
    """(k, 32) uint8: their ORB descriptors."""


def picture_features(pixels: np.ndarray) -> PictureFeatures:
    """(height, width, 3) uint8 RGB -> what verification needs of it."""
    grey = resized(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), SIDE)
    orb = cv2.ORB.create(500, edgeThreshold=12, fastThreshold=7, scoreType=cv2.ORB_FAST_SCORE)
    keypoints, descriptors = orb.detectAndCompute(grey, None)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
    return PictureFeatures(
        grey, _detail(grey), points, np.zeros((0, 32), np.uint8) if descriptors is None else descriptors
    )


def verify(one: PictureFeatures, other: PictureFeatures) -> tuple[PairKind, float] | None:
    """The kind and agreement of two pictures that are near duplicates; else None."""
    size = one.grey.shape[::-1]
    stretched = cv2.resize(other.grey, size, interpolation=cv2.INTER_LINEAR)
    whole: dict[PairKind, np.ndarray] = {"re-encoded": stretched, "mirrored": np.ascontiguousarray(stretched[:, ::-1])}
    agreement, kind = max((_agreement(one, aligned), kind) for kind, aligned in whole.items())
    if agreement >= AGREEMENT:
        return kind, agreement
    matrix = _alignment(one, other)
    if matrix is None:
        return None
    aligned = cv2.warpAffine(other.grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpAffine(np.ones_like(other.grey), matrix, size, flags=cv2.INTER_LINEAR)
    if seen.sum() / max(one.grey.size, other.grey.size * abs(np.linalg.det(matrix[:, :2]))) < OVERLAP:
        return None
    inside = cv2.erode(seen, np.ones((9, 9)), borderValue=0) > 0  # where no border is in the aligned picture's detail
    agreement = _agreement(one, aligned, inside)
    return ("crop", agreement) if agreement >= AGREEMENT else None


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
    """(m, 2) images with KEYPOINTS_ALIKE: where KEYPOINTS_FOUND share a key, all of both images are compared."""
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
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])  # among those of the same first image
    return pairs[(alike >= KEYPOINTS_ALIKE) & (rank < CANDIDATES_EACH)]


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


def _alignment(one: PictureFeatures, other: PictureFeatures) -> np.ndarray | None:
    """(2, 3) matrix from the other picture to the one, which shows the same scene cropped otherwise; or None."""
    if min(len(one.points), len(other.points)) < MATCHES:
        return None
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(other.descriptors, one.descriptors)
    if len(matches) < MATCHES:
        return None
    source = other.points[[match.queryIdx for match in matches]]
    target = one.points[[match.trainIdx for match in matches]]
    matrix, agreeing = cv2.estimateAffine2D(source, target, ransacReprojThreshold=3, maxIters=1000)
    if matrix is None or agreeing.sum() < MATCHES:
        return None
    scaled = all(STRETCH[0] <= scale <= STRETCH[1] for scale in (matrix[0, 0], matrix[1, 1]))
    return matrix if scaled and max(abs(matrix[0, 1]), abs(matrix[1, 0])) <= SHEAR else None


def _agreement(one: PictureFeatures, aligned: np.ndarray, inside: np.ndarray | slice = slice(None)) -> float:
    """Correlation of the detail; 0 where the pictures themselves are not alike, but have one texture."""
    if _correlation(one.grey[inside].astype(np.float32), aligned[inside].astype(np.float32)) < LIKENESS:
        return 0.0
    return _correlation(one.detail[inside], _detail(aligned)[inside])


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """-1 to 1; 0 for a picture without any detail."""
    one, other = one - one.mean(), other - other.mean()
    energy = float((one**2).mean() * (other**2).mean())
    return float((one * other).mean()) / energy**0.5 if energy > 0 else 0.0


def _detail(grey: np.ndarray) -> np.ndarray:
    """What is 4 to 20 pixels wide: coarser, all faces are alike; finer, JPEG keeps nothing."""
    picture = grey.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5) - cv2.GaussianBlur(picture, (0, 0), 6))

"""digests, a table of fingerprints, and the pictures of candidates -> pairs of near duplicates, and what they connect.

Candidates have perceptual hashes a few bits apart, or several ORB keypoints alike (found by locality-sensitive hashing,
Indyk and Motwani 1998). Verification aligns the two pictures, whose detail must correlate. It finds copies, re-encoded,
resized or slightly brightened, whole pictures mirrored left to right, crops of at least 70 % of width and height, and
pictures that differ in one region only, such as a manipulated one. It does not find rotated copies and mirrored crops,
and often misses crops of pictures that are out of focus or all fine texture: other keypoints are strongest in each.

Thresholds without a source were set with planted copies (tests/data/test_near_duplicates.py): all found, no others.
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
TABLES, KEY_BITS = 16, 26
"""Each table looks for keypoints that agree in these many bits, chosen at random once."""
KEYPOINT_DISTANCE = 13
"""Bits in which two keypoints that are alike may differ, of 128: TABLES find nearly all of them."""
KEYPOINTS_FOUND, KEYPOINTS_ALIKE = 2, 3
"""Fewest keypoints of candidates that the tables find alike, and that are."""
CROWD, NEIGHBOURS = 50, 3
"""Where more keypoints, or hashes, have one key, they say little, and each is compared with the next few images alone:
frames of one video are neighbours by name. Without this limit the time grows with the square of such a crowd."""
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
    digests: Sequence[str], table: pd.DataFrame, read: Callable[[int], np.ndarray | None], workers: int = 1
) -> pd.DataFrame:
    """The pairs of near duplicates: first, second (numbers of the images, first < second, in order), kind.

    `digests` and the rows of `table` (fields of Fingerprint: keypoints, phash, phash_mirrored) are in the order of the
    images. Of files with the same digest, each is paired with the first of them, and only that one with others. `read`
    returns the (height, width, 3) uint8 RGB pixels of the image with a number, or None where they can't be had, so that
    it is like no other; it is called for candidates only, by several threads at once.
    """
    first_of: dict[str, int] = {}
    firsts = [first_of.setdefault(digest, number) for number, digest in enumerate(digests)]
    different = np.unique(np.array(firsts, np.int64))
    pairs = different[candidates(table.iloc[different])].tolist()

    @lru_cache(PICTURES_KEPT)
    def features(number: int) -> PictureFeatures | None:
        return None if (pixels := read(number)) is None else picture_features(pixels)

    def kind_of(pair: tuple[int, int]) -> PairKind | None:
        one, other = map(features, pair)
        return None if one is None or other is None else verify(one, other)

    with ThreadPoolExecutor(workers) as pool:
        kinds = list(pool.map(kind_of, pairs))
    rows = [(first, number, "exact") for number, first in enumerate(firsts) if first != number]
    rows += [(first, second, kind) for (first, second), kind in zip(pairs, kinds, strict=True) if kind is not None]
    return pd.DataFrame(sorted(rows), columns=["first", "second", "kind"])


def linked_groups(n: int, links: np.ndarray) -> np.ndarray:
    """(n,) int: the same number for what `links`, (k, 2) int positions, connect, directly or through others."""
    one, other = links.T
    return np.asarray(connected_components(coo_array((np.ones(len(links), bool), (one, other)), shape=(n, n)))[1])


def candidates(table: pd.DataFrame) -> np.ndarray:
    """(m, 2) int64, rows of the table that may be near duplicates; first < second, each pair once, in order."""
    found = [_of_keypoints(table["keypoints"].tolist())]
    hashes = np.concatenate([table[name].to_numpy(np.uint64) for name in ("phash", "phash_mirrored")])
    in_bytes, owners = hashes.view(np.uint8).reshape(-1, 8).astype(np.uint32), np.tile(np.arange(len(table)), 2)
    # hashes at most HASH_DISTANCE bits apart have two of eight bytes in common (Norouzi et al. 2012)
    for left, right in combinations(range(8), 2):
        for one, other in _sharing(in_bytes[:, left] << 8 | in_bytes[:, right], owners):
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= HASH_DISTANCE
            found.append(np.sort(owners[np.stack([one[near], other[near]], axis=1)], axis=1))
    return np.unique(np.concatenate(found), axis=0)


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
    """(k, 32) uint8: their ORB descriptors; OpenCV gives None for no keypoint."""


def picture_features(pixels: np.ndarray) -> PictureFeatures:
    """(height, width, 3) uint8 RGB -> what verification needs of it."""
    grey = resized(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), SIDE)
    orb = cv2.ORB.create(500, edgeThreshold=12, fastThreshold=7, scoreType=cv2.ORB_FAST_SCORE)
    keypoints, descriptors = orb.detectAndCompute(grey, None)
    return PictureFeatures(grey, _detail(grey), np.array(cv2.KeyPoint.convert(keypoints)), descriptors)


def verify(one: PictureFeatures, other: PictureFeatures) -> PairKind | None:
    """The kind of two pictures that are near duplicates; else None."""
    size = one.grey.shape[::-1]
    stretched = cv2.resize(other.grey, size, interpolation=cv2.INTER_LINEAR)
    whole: dict[PairKind, np.ndarray] = {"re-encoded": stretched, "mirrored": np.ascontiguousarray(stretched[:, ::-1])}
    agreement, kind = max((_agreement(one, aligned), kind) for kind, aligned in whole.items())
    if agreement >= AGREEMENT:
        return kind
    # whether a crop of the one is in the other: keypoints alike, and an affine map that brings them together
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
    scales, shears = matrix[[0, 1], [0, 1]], matrix[[0, 1], [1, 0]]
    if scales.min() < STRETCH[0] or scales.max() > STRETCH[1] or np.abs(shears).max() > SHEAR:
        return None
    aligned = cv2.warpAffine(other.grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpAffine(np.ones_like(other.grey), matrix, size, flags=cv2.INTER_LINEAR)
    if seen.sum() / max(one.grey.size, other.grey.size * abs(np.linalg.det(matrix[:, :2]))) < OVERLAP:
        return None
    inside = cv2.erode(seen, np.ones((9, 9)), borderValue=0) > 0  # where no border is in the aligned picture's detail
    return "crop" if _agreement(one, aligned, inside) >= AGREEMENT else None


def _of_keypoints(descriptors: Sequence[bytes]) -> np.ndarray:
    """(m, 2) images with KEYPOINTS_ALIKE: where KEYPOINTS_FOUND share a key, all of both images are compared."""
    codes = np.frombuffer(b"".join(descriptors), np.uint64).reshape(-1, 2)
    lengths, n = np.array([len(one) // 16 for one in descriptors], np.int64), len(descriptors)
    images, owners = np.split(codes, lengths.cumsum()[:-1]), np.repeat(np.arange(n), lengths)
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
    alike = np.array([_alike(images[one], images[other]) for one, other in pairs], np.int64)
    best_first = pairs[np.argsort(-alike, kind="stable")][: (alike >= KEYPOINTS_ALIKE).sum()]
    rank = pd.Series(best_first[:, 0]).groupby(best_first[:, 0]).cumcount()  # among those of the same first image
    return best_first[rank.to_numpy() < CANDIDATES_EACH]


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

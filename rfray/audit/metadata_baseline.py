"""images -> `MetadataBaseline`: how well the files' properties predict the label without looking at a single pixel.

Every property becomes yes-no questions (which format? larger than this quantile, or than this value that many share?),
without looking at labels, and a logistic regression on the answers is cross-validated: additive, so that thirty images
suffice; of more than 10,000, so many are drawn. AUCs compare images of the same fold only, and classes weigh the same
in every fold; else a fold with more fakes left to learn from has fewer to predict, and a model that knows nothing ends
below 0.5.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from rfray.stats.intervals import delong, logit_interval
from rfray.store.audit_record import FeatureAuc, MetadataBaseline

FOLDS = 5
FEWEST = 4
"""Images that the smaller class needs: two in each of two folds."""
BINS = 16
"""Most quantile bins of a number."""
IMAGES_A_BIN = 5
"""Fewest images that make a category or a bin."""
PENALTY = 0.1
"""Inverse strength of the ridge penalty: strong, as most properties are noise and would blur the one that tells."""
MOST = 10_000
"""Of more images, so many are drawn: the interval is then at most 0.02 wide, and all of them would take minutes."""
SHARED = 0.02
"""A value that this share of the images has is asked for by itself: 512 pixels tells more than 500 to 530."""

REENCODE = "Set `data.reencode: {quality: 90}`, so that all images go through the same compression."
CROP = "Set `trial.resize: crop`, so that images are cut out instead of scaled, and sizes leave no trace."


@dataclass(frozen=True)
class Feature:
    """A property of image files that a model might learn instead of the picture."""

    of: Callable[[pd.DataFrame], Sequence["pd.Series[float] | pd.Series[str]"]]
    """images -> the columns that describe it; numbers are cut into steps, text is taken as it is."""
    remedy: str


FEATURES: dict[str, Feature] = {
    "file size": Feature(lambda images: [images["file_bytes"]], REENCODE),
    "dimensions": Feature(
        lambda images: [images["width"], images["height"], images["width"] / images["height"]],
        CROP,
    ),
    "file format": Feature(lambda images: [images["format"]], REENCODE),
    "JPEG quantisation tables": Feature(lambda images: [images["quantisation"], images["quality"]], REENCODE),
    "chroma subsampling": Feature(lambda images: [images["subsampling"]], REENCODE),
    "progressive flag": Feature(lambda images: [images["progressive"].astype(str)], REENCODE),
    "EXIF presence": Feature(lambda images: [images["exif"].astype(str)], REENCODE),
    "ICC profile presence": Feature(lambda images: [images["icc"].astype(str)], REENCODE),
    "colour mode": Feature(lambda images: [images["mode"]], REENCODE),
    "bytes per pixel": Feature(lambda images: [images["bytes_per_pixel"]], REENCODE),
}
"""Name -> property. A new one is an entry here."""


def metadata_baseline(images: pd.DataFrame, group_ids: np.ndarray, seed: int = 0) -> MetadataBaseline | None:
    """Cross-validates the baseline on `images` (columns as in `rfray.audit.audit`); None where there are too few.

    `group_ids` (n,) int: images with the same number (duplicates) stay in one fold. The interval is DeLong's over the
    folds; it does not know that folds share training images, so it is somewhat too narrow.
    """
    if len(images) > MOST:
        drawn = np.sort(np.random.default_rng(seed).choice(len(images), MOST, replace=False))
        images, group_ids = images.iloc[drawn], group_ids[drawn]
    labels = images["label"].to_numpy().astype(int)
    smaller = min(int(labels.sum()), int((1 - labels).sum()))
    if smaller < FEWEST:
        return None
    folds = min(FOLDS, smaller // 2)
    fold = _folds(labels, group_ids, folds, seed)
    coded = {name: _coded(feature.of(images)) for name, feature in FEATURES.items()}
    scores = [_out_of_fold(sparse.hstack(list(coded.values())).tocsr(), labels, fold)]
    scores += [_out_of_fold(matrix, labels, fold) for matrix in coded.values()]
    try:
        found = delong(labels, np.column_stack(scores), fold)
    except ValueError:  # groups so large that no fold has both classes
        return None
    aucs = found.aucs
    intervals = [
        logit_interval(float(auc), float(variance), smaller)
        for auc, variance in zip(aucs, np.diag(found.covariance), strict=True)
    ]
    features = [
        FeatureAuc(feature=name, auc=float(auc), low=interval.low, high=interval.high, remedy=FEATURES[name].remedy)
        for name, auc, interval in zip(FEATURES, aucs[1:], intervals[1:], strict=True)
    ]
    features.sort(key=lambda feature: -feature.auc)
    best, auc, whole = features[0], float(aucs[0]), intervals[0]
    sentence = (
        f"The files' properties alone, without a look at a single pixel, predict the label with AUC {auc:.2f} "
        f"(95 % interval {whole.low:.2f} to {whole.high:.2f}, {len(labels):,} images; 0.5 is chance). "
    ) + (
        f"Most telling: {best.feature} (AUC {best.auc:.2f} alone)."
        if best.low > 0.5 and whole.low > 0.5
        else "No single one of them tells real from fake."
    )
    return MetadataBaseline(
        auc=auc, low=whole.low, high=whole.high, n=len(labels), folds=folds, features=tuple(features), sentence=sentence
    )


def _folds(labels: np.ndarray, group_ids: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(n,) int: the fold that each image is predicted in."""
    fold = np.zeros(len(labels), dtype=int)
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(cut.split(labels, labels, group_ids)):
        fold[held_out] = number
    return fold


def _out_of_fold(matrix: sparse.csr_matrix, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(n,) float64: log-odds of fake, each image by a model that has not seen its fold."""
    scores = np.zeros(len(labels))
    if not matrix.shape[1]:
        return scores  # all images are alike
    for number in np.unique(fold):
        learn, held_out = fold != number, fold == number
        if not 0 < labels[learn].sum() < learn.sum():
            continue  # one class left: nothing to learn
        model = LogisticRegression(class_weight="balanced", solver="newton-cholesky", C=PENALTY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a ranking
            model.fit(matrix[learn], labels[learn])
        # rounded, so that ties stay ties whatever the optimiser's last digits are
        scores[held_out] = np.round(model.decision_function(matrix[held_out]), 6)
    return scores


def _coded(columns: Sequence["pd.Series[float] | pd.Series[str]"]) -> sparse.csr_matrix:
    """(n, k) of 0 and 1: what the columns say, without what all images share; k may be 0."""
    coded = np.column_stack([_steps(column) if _is_number(column) else _categories(column) for column in columns])
    return sparse.csr_matrix(coded[:, (coded != coded[0]).any(axis=0)].astype(np.float64))


def _is_number(column: "pd.Series[float] | pd.Series[str]") -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _steps(column: "pd.Series[float] | pd.Series[str]") -> np.ndarray:
    """(n, k) bool: whether the value reaches each quantile, and each shared value and the next number after it.

    Steps instead of bins, since one coefficient then tells all small values from all large ones; a last column says
    that there is no value.
    """
    values = column.to_numpy(dtype=np.float64)
    there = values[~np.isnan(values)]
    unique, counts = np.unique(there, return_counts=True)
    shared = unique[counts >= max(IMAGES_A_BIN, SHARED * len(values))]
    bins = int(np.clip(len(there) // IMAGES_A_BIN, 1, BINS))
    quantiles = np.quantile(there, np.linspace(0, 1, bins + 1)) if len(there) else there
    edges = np.unique(np.concatenate([quantiles, shared, np.nextafter(shared, np.inf)]))
    return np.column_stack([values[:, None] >= edges, np.isnan(values)])


def _categories(column: "pd.Series[float] | pd.Series[str]") -> np.ndarray:
    """(n, k) bool: which of the names that enough images have; none for a rare one."""
    names = column.astype(str).to_numpy(dtype=np.str_)
    unique, counts = np.unique(names, return_counts=True)
    return np.asarray(names[:, None] == unique[counts >= IMAGES_A_BIN])

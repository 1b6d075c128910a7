"""images -> `MetadataBaseline`: how well the properties of the files alone predict the label, without their pixels.

Every property becomes yes-no questions (which format? larger than this quantile? than this frequent value?), made
without the labels, and a logistic regression on the answers is cross-validated; it is additive, so that thirty images
suffice. AUCs compare only images of the same fold, and both classes weigh the same in every fold: else a fold with
fewer fakes has more of them to learn from, and a model that knows nothing ends below 0.5.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from rfray.stats.paired_tests import placements
from rfray.store.records import FeatureAuc, MetadataBaseline

BASELINE_FOLDS = 5
"""Five or ten are usual (Hastie, Tibshirani and Friedman 2009, section 7.10); five take half the time."""
FEWEST = 4
"""Images that the smaller class needs: two in each of two folds."""
QUANTILE_BINS = 16
"""Most quantile bins of a number: more would be cut where chance put the values."""
IMAGES_A_BIN = 5
"""Fewest images that make a category or a bin: one in each fold."""
PENALTY = 0.1
"""Inverse strength of the ridge penalty: strong, as most properties are noise and would hide the one that predicts."""
MOST_IMAGES = 10_000
"""Of more images, so many are drawn: the interval is then at most 0.02 wide, and all of them would take minutes."""
SHARED = 0.02
"""A value that this share of the images has gets a question of its own: "512 pixels" says more than "500 to 530"."""

REENCODE = "Set `data.reencode: {quality: 90}`, so that all images go through the same compression."
CROP = "Set `trial.resize: crop`, so that images are cut out instead of scaled, and sizes leave no trace."

FEATURES: dict[str, tuple[str, ...]] = {
    "file size": ("file_bytes",),
    "dimensions": ("width", "height", "aspect_ratio"),
    "file format": ("format",),
    "JPEG quantisation tables": ("quantisation", "quality"),
    "chroma subsampling": ("subsampling",),
    "progressive flag": ("progressive",),
    "EXIF presence": ("exif",),
    "ICC profile presence": ("icc",),
    "colour mode": ("mode",),
    "bytes per pixel": ("bytes_per_pixel",),
}
"""A property of image files that a model might learn instead of the picture -> the columns that describe it."""


def metadata_baseline(images: pd.DataFrame, group_ids: np.ndarray, seed: int = 0) -> MetadataBaseline | None:
    """Cross-validates the baseline on `images` (columns as in `rfray.audit.audit`); None where there are too few.

    `group_ids` (n,) int: images with the same number (duplicates) stay in one fold, and are one piece of evidence. The
    interval is DeLong's (with groups Obuchowski's) over the folds; it ignores that folds share training images, so it
    is somewhat too narrow.
    """
    if len(images) > MOST_IMAGES:
        drawn = np.sort(np.random.default_rng(seed).choice(len(images), MOST_IMAGES, replace=False))
        images, group_ids = images.iloc[drawn], group_ids[drawn]
    labels = images["label"].to_numpy().astype(int)
    smaller = min(int(labels.sum()), int((1 - labels).sum()))
    folds = min(BASELINE_FOLDS, smaller // 2, len(np.unique(group_ids)))
    if smaller < FEWEST or folds < 2:
        return None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, group_ids))
    fold = np.zeros(len(labels), dtype=int)
    for number, (_, judged) in enumerate(splits):
        fold[judged] = number
    images = images.assign(aspect_ratio=images["width"] / images["height"])
    answers = [np.column_stack([_answers(images[column]) for column in columns]) for columns in FEATURES.values()]
    scores = [_out_of_fold(matrix, labels, splits) for matrix in (np.hstack(answers), *answers)]
    try:
        found = placements(labels, np.stack(scores), fold, group_ids)
    except ValueError:  # groups so large that no fold has both classes
        return None
    (auc, *aucs), ((low, high), *intervals) = found.aucs.tolist(), found.intervals.tolist()
    features = [
        FeatureAuc(feature=name, auc=one, low=ends[0], high=ends[1], remedy=CROP if name == "dimensions" else REENCODE)
        for name, one, ends in zip(FEATURES, aucs, intervals, strict=True)
    ]
    best, *_ = features = sorted(features, key=lambda feature: -feature.auc)
    sentence = (
        f"The properties of the files alone, without a single pixel, predict the label with AUC {auc:.2f} "
        f"(95 % interval {low:.2f} to {high:.2f}, {len(labels):,} images; 0.5 is chance). "
    )
    if best.low > 0.5 and low > 0.5:
        sentence += f"The best single one is {best.feature} (AUC {best.auc:.2f} alone)."
    else:
        sentence += "No single one of them tells real from fake."
    return MetadataBaseline(
        auc=auc, low=low, high=high, n=len(labels), folds=folds, features=tuple(features), sentence=sentence
    )


def _out_of_fold(
    answers: np.ndarray, labels: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """(n,) float64: log-odds of fake, each image by a model that has not seen its fold."""
    scores = np.zeros(len(labels))
    answers = answers[:, (answers != answers[0]).any(axis=0)].astype(np.float64)
    for training, judged in splits:
        if not answers.size or len(np.unique(labels[training])) < 2:
            continue  # all images are alike, or one class is left: nothing to learn
        model = LogisticRegression(class_weight="balanced", solver="newton-cholesky", C=PENALTY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a ranking
            model.fit(answers[training], labels[training])
        # rounded, so that ties stay ties whatever the optimiser's last digits are
        scores[judged] = np.round(model.decision_function(answers[judged]), 6)
    return scores


def _answers(column: "pd.Series[float] | pd.Series[str]") -> np.ndarray:
    """(n, k) bool: which of the names that enough images have; of a number, whether it reaches each of some steps.

    The steps are each quantile, each shared value, and the next number after that. Steps instead of bins, since one
    coefficient then separates all small values from all large ones. The last column says that there is no value.
    """
    if column.dtype.kind not in "iuf":
        names = column.astype(str).to_numpy(dtype=np.str_)
        unique, counts = np.unique(names, return_counts=True)
        return np.asarray(names[:, None] == unique[counts >= IMAGES_A_BIN])
    values = column.to_numpy(dtype=np.float64)
    known = values[~np.isnan(values)]
    unique, counts = np.unique(known, return_counts=True)
    shared = unique[counts >= max(IMAGES_A_BIN, SHARED * len(values))]
    bins = int(np.clip(len(known) // IMAGES_A_BIN, 1, QUANTILE_BINS))
    quantiles = np.quantile(known, np.linspace(0, 1, bins + 1)) if len(known) else known
    edges = np.unique(np.concatenate([quantiles, shared, np.nextafter(shared, np.inf)]))
    return np.column_stack([values[:, None] >= edges, np.isnan(values)])

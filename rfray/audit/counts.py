"""how many images each part has, and which can't be read -> findings: too few, or too uneven.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

from collections.abc import Iterator

import numpy as np

from rfray.audit.facts import Facts, are, out_of
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES
from rfray.store.records import Finding

IMBALANCE = 5
"""Images of the larger class for one of the smaller, above which accuracy says little: a constant answer has 83 %."""
FEW_IMAGES = 100
"""Images of a class below which an AUC of 0.75 is uncertain by 0.07 either way."""
UNREADABLE_SHARE = 0.01
"""Share of unreadable files above which they are a warning."""


def unreadable_files(facts: Facts) -> Iterator[Finding]:
    """Files that are in no part."""
    if facts.unreadable:
        files = len(facts.images) + facts.unreadable
        yield Finding(
            grade="warning" if facts.unreadable > UNREADABLE_SHARE * files else "note",
            code="unreadable",
            sentence=f"{out_of(facts.unreadable, files, 'file')} unreadable and left out.",
            what_to_do="See `unreadable.csv` for the reasons; copy the files anew, or delete them.",
        )


def class_counts(facts: Facts) -> Iterator[Finding]:
    """Many more images of one class than of the other; too few to choose by (val), or to measure with (test)."""
    auc = 0.75
    two_fakes, two_reals = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    for part in ("train", *(("val",) if facts.chosen_on_val else ()), *facts.test_parts):
        real, fake = counts = facts.counts(part)
        if 0 < IMBALANCE * counts.min() < counts.max():
            yield Finding(
                grade="warning",
                code="class-imbalance",
                sentence=f"The {facts.title(part)} images are {real:,} real and {fake:,} fake: calling everything "
                f"{CLASSES[int(counts.argmax())]} is right in {counts.max() / counts.sum():.0%}.",
                what_to_do="Set `trial.class_balance: weights` (or `sampling`) and read AUC and balanced accuracy, "
                "not accuracy.",
            )
        if part != "train" and 0 < counts.min() < FEW_IMAGES:
            variance = auc * (1 - auc) + (fake - 1) * (two_fakes - auc**2) + (real - 1) * (two_reals - auc**2)
            uncertain = min(2 * np.sqrt(variance / (real * fake)), 0.5)  # two standard errors (Hanley and McNeil 1982)
            yield Finding(
                grade="note" if is_test(part) else "warning",
                code="few-images",
                sentence=f"There {are(counts.min())} only {counts.min():,} {CLASSES[int(counts.argmin())]} among the "
                f"{facts.title(part)} images: an AUC of {auc} measured on them is uncertain by about {uncertain:.2f} "
                "either way.",
                what_to_do=f"Add images{', or raise `data.val`' if part == 'val' else ''}. "
                "Don't trust smaller differences between models.",
            )

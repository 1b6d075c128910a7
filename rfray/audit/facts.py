"""What the rules of the audit go by, and words that they share."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rfray.data.listing import counted
from rfray.spec.parts import FURTHER, TEST
from rfray.spec.sweep import CLASSES, DataSettings
from rfray.store.records import Finding, MetadataBaseline

NAMED = 3
"""Examples in a sentence: more would not be read."""
SAME_CASE = "If they are the same, begin the pattern with (?i), or rename the files in one case."
"""What to do where upper and lower case hide a name, or make two of one."""


@dataclass(frozen=True)
class Facts:
    """The input of the rules."""

    images: pd.DataFrame
    """See `rfray.audit.audit`; `part` is never empty, and every class has images."""
    pairs: pd.DataFrame
    """first, second (rows of `images`), kind, first_part, second_part (in alphabetical order), across_labels, named."""
    unreadable: int
    """Files that could not be read."""
    baseline: MetadataBaseline | None
    reencoded: bool
    """Whether `data.reencode` brings all images through one size and codec before a model sees them."""
    data: DataSettings | None = None
    """By which they are divided."""
    chosen_on_val: bool = True
    """Whether the val images are those that models are chosen on."""

    def of_class(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a column for real images in use, and for fake ones."""
        images = used(self.images)
        real, fake = (images.loc[images["label"] == label, column].to_numpy() for label in (0, 1))
        return real, fake

    @property
    def test_parts(self) -> list[str]:
        """The test sets that have images, the first one first."""
        parts = self.images["part"].unique()
        return [part for part in (self.data.test_parts if self.data else (TEST,)) if part in parts]

    def title(self, part: str) -> str:
        """What a part is called in sentences."""
        return self.data.title(part) if self.data else part

    def counts(self, part: str) -> np.ndarray:
        """(2,) int: real and fake images of a part, which has some of both or none."""
        return np.bincount(self.images.loc[self.images["part"] == part, "label"], minlength=len(CLASSES))


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, errors first and notes last; within a grade in the order they have."""
    return tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.grade)))


def used(images: pd.DataFrame) -> pd.DataFrame:
    """The images that a model learns from or is measured on: not left out; all where a class would have none.

    Further test sets are from elsewhere: what is in their files says nothing of what the training images give away.
    """
    kept = images[(images["part"] != "left out") & ~images["part"].str.startswith(FURTHER)]
    return kept if kept["label"].nunique() == images["label"].nunique() else images


def out_of(count: int, whole: int, noun: str) -> str:
    """3 of 20 files are, 1 of 1 file is."""
    return f"{count:,} of {counted(whole, noun)} {are(count)}"


def are(count: int) -> str:
    """Is one, are others."""
    return "is" if count == 1 else "are"

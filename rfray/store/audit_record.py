"""audit.json -> `Audit`: what was found in the images before anything was trained on them."""

from typing import Literal

from rfray.spec.schema_base import Strict

Grade = Literal["note", "warning", "error"]
"""note: worth knowing; warning: the results may mislead; error: they will, and `rfray tune` stops."""


class Finding(Strict):
    """One thing that was found."""

    grade: Grade
    code: str
    """Short name of the rule, for scripts."""
    sentence: str
    """What was found, with its numbers, for people who have never seen the code."""
    what_to_do: str
    """The remedy: the setting of the sweep where there is one."""


class Count(Strict):
    """How many images of one class there are in one part."""

    part: str
    """train, val, test or left out; train or test where folders were audited without dividing them."""
    label: int
    """0 real, 1 fake."""
    images: int
    groups: int
    """Different subfolders; 0 where there are none."""


class GroupCount(Strict):
    """How many images of one class there are in one subfolder."""

    group: str
    label: int
    images: int


class Spread(Strict):
    """Least, middle and greatest value."""

    min: float
    median: float
    max: float


class Sizes(Strict):
    """How large the files of one class are."""

    label: int
    width: Spread
    """Pixels."""
    height: Spread
    """Pixels."""
    file_bytes: Spread
    bytes_per_pixel: Spread
    formats: dict[str, int]
    """File format -> images, most frequent first."""


class Pairs(Strict):
    """How many pairs of similar images of one kind there are within a part, or between two."""

    kind: str
    """exact (same file), re-encoded (same picture, other file), mirrored or crop (one is a piece of the other)."""
    first: str
    second: str
    """Parts of the two images, in alphabetical order."""
    across_labels: bool
    """Whether one is called real and the other fake."""
    pairs: int
    examples: tuple[tuple[str, str], ...]
    """Paths of the first few pairs, below the data folder, the image in `first` first."""


class Unreadable(Strict):
    """A file that could not be read."""

    path: str
    reason: str


class FeatureAuc(Strict):
    """How well one property of the files alone predicts the label."""

    feature: str
    auc: float
    low: float
    high: float
    remedy: str
    """What takes the property away from a model."""


class MetadataBaseline(Strict):
    """How well the files' properties predict the label without looking at a single pixel."""

    auc: float
    """Cross-validated; 0.5 is chance."""
    low: float
    high: float
    """Its 95 % interval."""
    n: int
    """Images it was measured on."""
    folds: int
    features: tuple[FeatureAuc, ...]
    """Each property alone, measured the same way, best first."""
    sentence: str


class Audit(Strict):
    """audit.json."""

    version: Literal[1] = 1
    images: int
    counts: tuple[Count, ...]
    groups: tuple[GroupCount, ...]
    """The largest subfolders."""
    sizes: tuple[Sizes, ...]
    """Of each class that has images, real first."""
    unreadable_count: int
    unreadable: tuple[Unreadable, ...]
    """The first few."""
    duplicates: tuple[Pairs, ...]
    baseline: MetadataBaseline | None
    """None where a class has too few images for a cross-validation."""
    findings: tuple[Finding, ...]
    """Gravest first."""

    def graded(self, grade: Grade) -> list[Finding]:
        """The findings of one grade."""
        return [finding for finding in self.findings if finding.grade == grade]

    @property
    def stamp(self) -> str:
        """What every leaderboard of these images must say; "" where there is no error."""
        return " ".join(finding.sentence for finding in self.graded("error"))

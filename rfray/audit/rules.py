"""facts about the images -> findings, gravest first: every rule of RULES looks for one thing and says what to do.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from rfray.audit.metadata_baseline import CROP, REENCODE
from rfray.spec.sweep import CLASSES
from rfray.store.records import Finding, Grade, MetadataBaseline

BASELINE_ERROR, BASELINE_WARNING = 0.9, 0.65
"""AUC of the metadata baseline above which it is an error, or a warning."""
IMBALANCE = 5
"""The larger class has more than so many times the images of the smaller one; accuracy says little above that: calling
everything the larger class is right in 83 %."""
FEW_IMAGES = 100
"""Images of a class below which an AUC of 0.75 is uncertain by 0.07 either way (see `_standard_error`)."""
UNREADABLE_SHARE = 0.01
"""Share of unreadable files above which they are a warning."""
FORMAT_SHARE = 0.2
"""Share of a class that would have to change its format to match the other one."""
SIZE_DISTANCE_WARNING, SIZE_DISTANCE_NOTE = 0.5, 0.25
"""Greatest distance between the cumulative distributions of the classes (Kolmogorov and Smirnov)."""
SIZE_CHANCE = 0.001
"""Probability of such a distance by chance, above which it is no finding: four measures of any folder are tested."""
SPECTRUM_EFFECT = 0.3
"""Difference of the classes' means in standard deviations; 0.2 is called small, 0.5 medium (Cohen 1988)."""
NAMED = 3
"""Examples in a sentence: more would not be read."""
KINDS = {"exact": "the same file", "re-encoded": "re-encoded", "mirrored": "mirrored", "crop": "cropped"}
"""Kind of pair, the closest first -> its name in a sentence."""


@dataclass(frozen=True)
class Facts:
    """The input of the rules."""

    images: pd.DataFrame
    """See `rfray.audit.audit`; `part` is never empty."""
    pairs: pd.DataFrame
    """first, second (rows of `images`), kind, first_part, second_part (in alphabetical order), across_labels."""
    unreadable: int
    """Files that could not be read."""
    baseline: MetadataBaseline | None
    reencoded: bool
    """Whether `data.reencode` brings all images through one size and codec before a model sees them."""

    def of_class(self, column: str) -> list[np.ndarray]:
        """The values of a column for real images, and for fake ones."""
        return [self.images.loc[self.images["label"] == label, column].to_numpy() for label in range(len(CLASSES))]

    def counts(self, part: str) -> np.ndarray:
        """(2,) int: real and fake images of a part."""
        return np.bincount(self.images.loc[self.images["part"] == part, "label"], minlength=len(CLASSES))


AuditRule = Callable[[Facts], Iterator[Finding]]


def test_in_training(facts: Facts) -> Iterator[Finding]:
    """Copies of test images among the training images: a model may remember them."""
    is_test = facts.images["part"].eq("test").to_numpy()
    pairs = facts.pairs[is_test[facts.pairs["first"]] != is_test[facts.pairs["second"]]]
    if pairs.empty:
        return
    first, second, swap = pairs["first"], pairs["second"], is_test[pairs["second"]]
    copies = pairs.assign(test=np.where(swap, second, first), training=np.where(swap, first, second))
    left_out = bool((facts.images["part"].to_numpy()[copies["training"]] == "left out").all())
    closest_first = copies["kind"].map(list(KINDS).index).sort_values(kind="stable").index
    copies = copies.loc[closest_first].drop_duplicates("test")
    yield Finding(
        grade="error",
        code="test-in-training",
        sentence=f"{_of(len(copies), int(is_test.sum()), 'test image')} also among the training images "
        f"({_kinds(copies)}), e.g. {_named(facts, copies['test'], copies['training'])}"
        + (
            "; these training images are left out of train and val."
            if left_out
            else ": a model that remembers them would seem better than it is."
        ),
        what_to_do="Look at them; `--accept-audit` goes on without these training images."
        if left_out
        else "Set `data.test_duplicates: leave_out`, or delete these images from one of the two folders.",
    )


def metadata_tells(facts: Facts) -> Iterator[Finding]:
    """File properties that predict the label: a model may learn them instead of the pictures."""
    baseline = facts.baseline
    if baseline is None or baseline.low <= 0.5 or baseline.auc <= BASELINE_WARNING:
        return
    remedies = [feature.remedy for feature in baseline.features if feature.low > 0.5]
    yield Finding(
        grade="error" if baseline.auc > BASELINE_ERROR and not facts.reencoded else "warning",
        code="metadata-tells",
        sentence=baseline.sentence + (" `data.reencode` keeps models from seeing it." if facts.reencoded else ""),
        what_to_do=" ".join(dict.fromkeys(remedies)) or baseline.features[0].remedy,
    )


def both_labels(facts: Facts) -> Iterator[Finding]:
    """The same picture called real and fake.

    Only a warning, also between train and test: those copies are an error by `test_in_training` already. A crop is a
    note: a fake may be made from a part of a real image.
    """
    across = facts.pairs[facts.pairs["across_labels"]]
    crops = across["kind"] == "crop"
    cases: list[tuple[str, Grade, pd.DataFrame, str]] = [
        ("both-labels", "warning", across[~crops], "the same picture under both labels"),
        ("crop-of-other-class", "note", across[crops], "one cut out of the other"),
    ]
    for code, grade, pairs, relation in cases:
        if len(pairs):
            yield Finding(
                grade=grade,
                code=code,
                sentence=f"{_counted(len(pairs), 'pair')} of a real and a fake image {_are(len(pairs))} {relation}, "
                f"e.g. {_named(facts, pairs['first'], pairs['second'])}.",
                what_to_do="Look at them and delete the wrong one of each pair, unless the fakes are small edits of "
                "these very pictures.",
            )


def copies_across_the_split(facts: Facts) -> Iterator[Finding]:
    """Copies in train and in val: val then rewards a model that remembers them."""
    pairs = facts.pairs[(facts.pairs["first_part"] == "train") & (facts.pairs["second_part"] == "val")]
    if len(pairs):
        yield Finding(
            grade="warning",
            code="copies-across-the-split",
            sentence=f"In {_counted(len(pairs), 'pair')} of similar images ({_kinds(pairs)}), one is in train and the "
            f"other in val, e.g. {_named(facts, pairs['first'], pairs['second'])}: a model that remembers the one is "
            "scored on the other.",
            what_to_do="Delete these images from one of the two folders.",
        )


def copies_within_a_part(facts: Facts) -> Iterator[Finding]:
    """Copies in one part with one label: they count twice, no more."""
    pairs = facts.pairs[(facts.pairs["first_part"] == facts.pairs["second_part"]) & ~facts.pairs["across_labels"]]
    for part, found in pairs.groupby("first_part"):
        copies = len(np.unique(found[["first", "second"]].to_numpy()))
        yield Finding(
            grade="note",
            code="copies-within-a-part",
            sentence=f"{_of(copies, int(facts.counts(str(part)).sum()), f'{part} image')} there more than once "
            f"({_kinds(found)}), e.g. {_named(facts, found['first'], found['second'])}.",
            what_to_do="Nothing needs to be done: copies count twice. Delete them where they should not.",
        )


def unreadable_files(facts: Facts) -> Iterator[Finding]:
    """Files that are in no part."""
    if facts.unreadable:
        files = len(facts.images) + facts.unreadable
        yield Finding(
            grade="warning" if facts.unreadable > UNREADABLE_SHARE * files else "note",
            code="unreadable",
            sentence=f"{_of(facts.unreadable, files, 'file')} unreadable and left out.",
            what_to_do="See `unreadable.csv` for the reasons; copy the files anew, or delete them.",
        )


def class_imbalance(facts: Facts) -> Iterator[Finding]:
    """Many more images of one class than of the other."""
    for part in ("train", "val", "test"):
        counts = facts.counts(part)
        if counts.min() > 0 and counts.max() > IMBALANCE * counts.min():
            yield Finding(
                grade="warning",
                code="class-imbalance",
                sentence=f"The {part} images are {counts[0]:,} real and {counts[1]:,} fake: calling everything "
                f"{CLASSES[int(counts.argmax())]} is right in {counts.max() / counts.sum():.0%}.",
                what_to_do="Set `trial.class_balance: weights` (or `sampling`) and read AUC and balanced accuracy, "
                "not accuracy.",
            )


def few_images(facts: Facts) -> Iterator[Finding]:
    """Too few images to choose by (val), or to measure with (test)."""
    for part in ("val", "test"):
        counts = facts.counts(part)
        if counts.max() > 0 and counts.min() < FEW_IMAGES:
            smaller = int(counts.argmin())
            uncertain = min(2 * _standard_error(0.75, *counts.tolist()), 0.5)
            yield Finding(
                grade="note" if part == "test" else "warning",
                code="few-images",
                sentence=f"There {_are(counts[smaller])} only {counts[smaller]:,} {CLASSES[smaller]} among the {part} "
                f"images: an AUC of 0.75 measured on them is uncertain by about {uncertain:.2f} either way.",
                what_to_do=f"Add images{', or raise `data.val`' if part == 'val' else ''}. "
                "Don't trust smaller differences between models.",
            )


def formats_differ(facts: Facts) -> Iterator[Finding]:
    """Classes in different file formats."""
    shares = pd.crosstab(facts.images["label"], facts.images["format"], normalize="index")
    if len(shares) < len(CLASSES):
        return
    distance = float(np.abs(np.diff(shares.to_numpy(), axis=0)).sum() / 2)  # total variation, in [0, 1]
    if distance >= FORMAT_SHARE:
        real, fake = (
            ", ".join(f"{share:.0%} {name}" for name, share in row[row > 0].sort_values(ascending=False).items())
            for _, row in shares.iterrows()
        )
        yield Finding(
            grade="warning",
            code="formats-differ",
            sentence=f"The classes come in different file formats: real images are {real}; fake images are {fake} "
            f"({distance:.0%} would have to change to match).",
            what_to_do=REENCODE,
        )


def sizes_differ(facts: Facts) -> Iterator[Finding]:
    """Classes of different dimensions or compression."""
    for what, remedy, measures in (
        ("dimensions", CROP, {"width": "width in pixels", "height": "height in pixels"}),
        ("file sizes", REENCODE, {"file_bytes": "file size in bytes", "bytes_per_pixel": "number of bytes per pixel"}),
    ):
        distances = {column: _distance(*facts.of_class(column)) for column in measures}
        column = max(distances, key=distances.__getitem__)
        distance = distances[column]
        if distance >= SIZE_DISTANCE_NOTE:
            real, fake = (_number(np.median(values)) for values in facts.of_class(column))
            yield Finding(
                grade="warning" if distance >= SIZE_DISTANCE_WARNING else "note",
                code=f"{what.replace(' ', '-')}-differ",
                sentence=f"The classes differ in their {what}: the median {measures[column]} is {real} for real images "
                f"and {fake} for fake ones (distance of the distributions {distance:.2f}; 0 is alike, 1 is apart).",
                what_to_do=remedy,
            )


def spectra_differ(facts: Facts) -> Iterator[Finding]:
    """Different fine detail: traces of up-sampling, or only of compression and scaling."""
    spectra = [np.stack(list(values)) if len(values) else np.zeros((0, 1)) for values in facts.of_class("spectrum")]
    finest = [values[:, -values.shape[1] // 4 :].mean(axis=1) for values in spectra]
    real, fake = (values[np.isfinite(values)] for values in finest)
    if min(len(real), len(fake)) < 2 or real.std() == fake.std() == 0:
        return
    difference = fake.mean() - real.mean()
    t = float(stats.ttest_ind(fake, real).statistic)
    effect = t * np.sqrt(1 / len(real) + 1 / len(fake))  # Cohen's d
    if abs(effect) >= SPECTRUM_EFFECT and abs(t) > 2:
        yield Finding(
            grade="note",
            code="spectra-differ",
            sentence=f"Fake images have {'more' if effect > 0 else 'less'} fine detail: their typical power in the "
            f"highest quarter of frequencies is {10**difference:.2f} times that of real ones (effect size d = "
            f"{effect:+.2f}).",
            what_to_do="Look at the spectra. It may be the generator's up-sampling, which is what you want to find, or "
            "only another compression or scaling, which `data.reencode: {quality: 90}` evens out.",
        )


RULES: tuple[AuditRule, ...] = (
    test_in_training,
    metadata_tells,
    both_labels,
    copies_across_the_split,
    formats_differ,
    sizes_differ,
    class_imbalance,
    few_images,
    unreadable_files,
    copies_within_a_part,
    spectra_differ,
)
"""Every rule; within a grade, findings keep this order. A new one is an entry here."""

GRADES: tuple[Grade, ...] = ("error", "warning", "note")


def find(facts: Facts) -> tuple[Finding, ...]:
    """What all rules find, gravest first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(found, key=lambda finding: GRADES.index(finding.grade)))


def _distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance of two distributions, in [0, 1]; 0 where chance may have made it."""
    if not len(real) or not len(fake):
        return 0.0
    test = stats.ks_2samp(real, fake, method="asymp")
    return float(test.statistic) if test.pvalue < SIZE_CHANCE else 0.0


def _standard_error(auc: float, real: int, fake: int) -> float:
    """Standard error of an AUC on so many images of each class (Hanley and McNeil 1982)."""
    if min(real, fake) == 0:
        return 1.0
    two_fakes, two_reals = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (fake - 1) * (two_fakes - auc**2) + (real - 1) * (two_reals - auc**2)
    return float(np.sqrt(variance / (real * fake)))


def _named(facts: Facts, first: "pd.Series[int]", second: "pd.Series[int]") -> str:
    """The first few pairs of rows by their paths, with their folders where these differ."""
    named = []
    for pair in zip(first[:NAMED], second[:NAMED], strict=True):
        paths, folders = (facts.images[column].iloc[list(pair)].tolist() for column in ("path", "folder"))
        if folders[0] != folders[1]:
            paths = [f"{folder}/{path}" for folder, path in zip(folders, paths, strict=True)]
        named.append(" and ".join(paths))
    return "; ".join(named)


def _kinds(pairs: pd.DataFrame) -> str:
    counts = pairs["kind"].value_counts()
    return ", ".join(f"{counts[kind]:,} {shown}" for kind, shown in KINDS.items() if kind in counts)


def _of(count: int, whole: int, noun: str) -> str:
    return f"{count:,} of {_counted(whole, noun)} {_are(count)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

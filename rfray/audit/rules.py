"""facts about the images -> findings, gravest first: every rule of RULES looks for one thing and says what to do.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from rfray.audit.metadata_baseline import CROP, REENCODE
from rfray.data.catalog import identities
from rfray.spec.sweep import CLASSES, DataSettings
from rfray.store.records import Finding, MetadataBaseline

BASELINE_ERROR, BASELINE_WARNING = 0.9, 0.65
"""AUC of the metadata baseline above which it is an error, or a warning."""
IMBALANCE = 5
"""Images of the larger class for one of the smaller, above which accuracy says little: a constant answer has 83 %."""
FEW_IMAGES = 100
"""Images of a class below which an AUC of 0.75 is uncertain by 0.07 either way."""
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
MATCHED_SHARE = 0.5
"""Share of the images of a class to which a setting must apply: below, it is hardly what was meant."""
NAMED = 3
"""Examples in a sentence: more would not be read."""
KINDS = {"exact": "the same file", "re-encoded": "re-encoded", "mirrored": "mirrored", "crop": "cropped"}
"""Kind of pair, the closest first -> its name in a sentence."""


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

    @property
    def used(self) -> pd.DataFrame:
        """The images that a model learns from or is measured on: none that was left out."""
        return used(self.images)

    def of_class(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a column for real images in use, and for fake ones."""
        images = self.used
        real, fake = (images.loc[images["label"] == label, column].to_numpy() for label in (0, 1))
        return real, fake

    def counts(self, part: str) -> np.ndarray:
        """(2,) int: real and fake images of a part, which has some of both or none."""
        return np.bincount(self.images.loc[self.images["part"] == part, "label"], minlength=len(CLASSES))


def used(images: pd.DataFrame) -> pd.DataFrame:
    """Those that were not left out; all where a class would have none."""
    kept = images[images["part"] != "left out"]
    return kept if kept["label"].nunique() == images["label"].nunique() else images


def test_in_training(facts: Facts) -> Iterator[Finding]:
    """Copies of test images among the training images: a model may remember them."""
    is_test = facts.images["part"].eq("test").to_numpy()
    first, second = facts.pairs["first"], facts.pairs["second"]
    pairs = facts.pairs.assign(test=np.where(is_test[first], first, second))[is_test[first] != is_test[second]]
    if pairs.empty:
        return
    outcome = ": a model that remembers them would seem better than it is."
    what_to_do = "Set `data.test_duplicates: leave_out`, or delete these images from one of the two folders."
    if pairs["first_part"].eq("left out").all():
        outcome = "; these training images are left out of train and val."
        what_to_do = "Look at them; `--accept-audit` goes on without these training images."
    closest_first = pairs["kind"].map([*KINDS].index).sort_values(kind="stable").index
    copies = pairs.loc[closest_first].drop_duplicates("test")
    yield Finding(
        grade="error",
        code="test-in-training",
        sentence=f"{_of(len(copies), int(is_test.sum()), 'test image')} also among the training images "
        f"{_examples(copies)}{outcome}",
        what_to_do=what_to_do,
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


def misplaced_copies(facts: Facts) -> Iterator[Finding]:
    """The same picture called real and fake, or in train and in val.

    Under both labels it is only a warning, also between train and test: those copies are an error by `test_in_training`
    already. A crop is a note: a fake may be made from a part of a real image.
    """
    pairs = facts.pairs[(facts.pairs[["first_part", "second_part"]] != "left out").any(axis=1)]
    across, crop = pairs["across_labels"], pairs["kind"] == "crop"
    split = (pairs["first_part"] == "train") & (pairs["second_part"] == "val")
    wrong = (
        "Look at them and delete the wrong one of each pair, unless the fakes are small edits of these very pictures."
    )
    told = "A model that remembers the one is scored on the other: delete these images from one of the two folders."
    for code, found, relation, what_to_do in (
        (
            "both-labels",
            pairs[across & ~crop],
            "of a real and a fake image {} the same picture under both labels",
            wrong,
        ),
        ("crop-of-other-class", pairs[across & crop], "of a real and a fake image {} one cut out of the other", wrong),
        ("copies-across-the-split", pairs[split], "of similar images {} divided between train and val", told),
    ):
        if len(found):
            relation = relation.format(_are(len(found)))
            yield Finding(
                grade="note" if code == "crop-of-other-class" else "warning",
                code=code,
                sentence=f"{_counted(len(found), 'pair')} {relation} {_examples(found)}.",
                what_to_do=what_to_do,
            )


def copies_within_a_part(facts: Facts) -> Iterator[Finding]:
    """Copies in one part with one label: they count twice, no more."""
    inside = (facts.pairs["first_part"] == facts.pairs["second_part"]) & (facts.pairs["first_part"] != "left out")
    pairs = facts.pairs[inside & ~facts.pairs["across_labels"]]
    for part, found in pairs.groupby("first_part"):
        copies, images = len(np.unique(found[["first", "second"]].to_numpy())), int(facts.counts(str(part)).sum())
        yield Finding(
            grade="note",
            code="copies-within-a-part",
            sentence=f"{_of(copies, images, f'{part} image')} there more than once {_examples(found)}.",
            what_to_do="Nothing needs to be done: copies count twice. Delete them where they should not.",
        )


def settings_for_few(facts: Facts) -> Iterator[Finding]:
    """`data.group_pattern` and `data.split_by: group` where they keep hardly any images together."""
    data, training = facts.data, facts.images[facts.images["folder"] != "test"]
    asked: dict[str, pd.Series] = {}
    if training.empty:
        return
    if data is not None and data.group_pattern is not None:
        asked[f"data.group_pattern: {data.group_pattern}"] = identities(training["path"], data.group_pattern)
    if data is not None and data.split_by == "group":
        asked["data.split_by: group"] = training["subfolder"].map(lambda name: [name] if name else [])
    for setting, texts in asked.items():
        has = texts.map(bool)
        shares, what_to_do = has.groupby(training["label"]).mean(), ""
        least = int(shares.to_numpy().argmin())
        if not has.any():
            said = f"finds nothing in the {len(has):,} training images: none are kept together by it"
        elif shares[least] < MATCHED_SHARE:
            found, of = has[training["label"] == least].sum(), int((training["label"] == least).sum())
            said = f"finds something in only {found:,} of {_counted(of, f'{CLASSES[least]} training image')}"
        elif texts.explode().dropna().is_unique:
            said = "finds another text in each training image: none are kept together by it"
        elif data is not None and "group_p" in setting and re.compile(data.group_pattern or "").groups > 1:
            said, what_to_do = (
                "has several groups in brackets, of which only the first counts",
                "Write the others (?:…).",
            )
        else:
            continue
        yield Finding(
            grade="warning" if has.any() else "error",
            code="setting-for-few",
            sentence=f"`{setting}` {said}.",
            what_to_do=what_to_do
            or f"Images that belong together may be in train and in val. Paths are such as "
            f"`{training['path'].iloc[0]}` (upper and lower case differ); mend the setting, or leave it out.",
        )


def identities_across(facts: Facts) -> Iterator[Finding]:
    """Identities (`data.group_pattern`) in parts that models are judged on, and in those that they learn from."""
    if facts.data is None or facts.data.group_pattern is None:
        return
    texts = identities(facts.images["path"], facts.data.group_pattern).explode().dropna()
    part = facts.images["part"].loc[texts.index]
    known = {name: set(texts[part.eq(name).to_numpy()]) for name in ("train", "val", "test")}
    for here, there in (("test", known["train"] | known["val"]), ("val", known["train"])):
        if both := sorted(known[here] & there):
            yield Finding(
                grade="warning",
                code="identities-across",
                sentence=f"{len(both):,} of {len(known[here]):,} identities of {here} (`data.group_pattern`) "
                f"{_are(len(both))} also among the training images, e.g. {', '.join(both[:NAMED])}.",
                what_to_do="A model that knows them would seem better than it is on new ones: divide the folders by "
                "identity, or make the part a share of the training folder.",
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


def class_counts(facts: Facts) -> Iterator[Finding]:
    """Many more images of one class than of the other; too few to choose by (val), or to measure with (test)."""
    auc = 0.75
    two_fakes, two_reals = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    for part in ("train", "val", "test"):
        real, fake = counts = facts.counts(part)
        if 0 < IMBALANCE * counts.min() < counts.max():
            yield Finding(
                grade="warning",
                code="class-imbalance",
                sentence=f"The {part} images are {real:,} real and {fake:,} fake: calling everything "
                f"{CLASSES[int(counts.argmax())]} is right in {counts.max() / counts.sum():.0%}.",
                what_to_do="Set `trial.class_balance: weights` (or `sampling`) and read AUC and balanced accuracy, "
                "not accuracy.",
            )
        if part != "train" and 0 < counts.min() < FEW_IMAGES:
            variance = auc * (1 - auc) + (fake - 1) * (two_fakes - auc**2) + (real - 1) * (two_reals - auc**2)
            uncertain = min(2 * np.sqrt(variance / (real * fake)), 0.5)  # two standard errors (Hanley and McNeil 1982)
            yield Finding(
                grade="note" if part == "test" else "warning",
                code="few-images",
                sentence=f"There {_are(counts.min())} only {counts.min():,} {CLASSES[int(counts.argmin())]} among the "
                f"{part} images: an AUC of {auc} measured on them is uncertain by about {uncertain:.2f} either way.",
                what_to_do=f"Add images{', or raise `data.val`' if part == 'val' else ''}. "
                "Don't trust smaller differences between models.",
            )


def formats_differ(facts: Facts) -> Iterator[Finding]:
    """Classes in different file formats."""
    images = facts.used
    shares = pd.crosstab(images["label"], images["format"], normalize="index")
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
        tests = {column: stats.ks_2samp(*facts.of_class(column), method="asymp") for column in measures}
        column = max(tests, key=lambda name: tests[name].statistic)
        distance = float(tests[column].statistic)
        if distance >= SIZE_DISTANCE_NOTE and tests[column].pvalue < SIZE_CHANCE:
            medians = [float(np.median(values)) for values in facts.of_class(column)]
            real, fake = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in medians)
            yield Finding(
                grade="warning" if distance >= SIZE_DISTANCE_WARNING else "note",
                code=f"{what.replace(' ', '-')}-differ",
                sentence=f"The classes differ in their {what}: the median {measures[column]} is {real} for real images "
                f"and {fake} for fake ones (distance of the distributions {distance:.2f}; 0 is alike, 1 is apart).",
                what_to_do=remedy,
            )


def spectra_differ(facts: Facts) -> Iterator[Finding]:
    """Different fine detail: traces of up-sampling, or only of compression and scaling."""
    spectra = [np.stack(list(values)) for values in facts.of_class("spectrum")]
    finest = [values[:, -values.shape[1] // 4 :].mean(axis=1) for values in spectra]
    real, fake = (values[np.isfinite(values)] for values in finest)
    if min(len(real), len(fake)) < 2 or real.std() == fake.std() == 0:
        return
    t = float(stats.ttest_ind(fake, real).statistic)
    effect = t * np.sqrt(1 / len(real) + 1 / len(fake))  # Cohen's d
    if abs(effect) >= SPECTRUM_EFFECT and abs(t) > 2:
        yield Finding(
            grade="note",
            code="spectra-differ",
            sentence=f"Fake images have {'more' if effect > 0 else 'less'} fine detail: their typical power in the "
            f"highest quarter of frequencies is {10 ** (fake.mean() - real.mean()):.2f} times that of real ones "
            f"(effect size d = {effect:+.2f}).",
            what_to_do="Look at the spectra. It may be the generator's up-sampling, which is what you want to find, or "
            "only another compression or scaling, which `data.reencode: {quality: 90}` evens out.",
        )


RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    test_in_training,
    metadata_tells,
    settings_for_few,
    misplaced_copies,
    identities_across,
    formats_differ,
    sizes_differ,
    class_counts,
    unreadable_files,
    copies_within_a_part,
    spectra_differ,
)
"""Every rule; within a grade, findings keep this order. A new one is an entry here."""


def _examples(pairs: pd.DataFrame) -> str:
    """How many pairs there are of each kind, and the first few."""
    counts = pairs["kind"].value_counts()
    kinds = ", ".join(f"{counts[kind]:,} {shown}" for kind, shown in KINDS.items() if kind in counts)
    return f"({kinds}), e.g. {'; '.join(pairs['named'].head(NAMED))}"


def _of(count: int, whole: int, noun: str) -> str:
    return f"{count:,} of {_counted(whole, noun)} {_are(count)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"

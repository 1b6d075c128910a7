"""what is known of the images -> findings: RULES, each of which looks for one thing and says what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from rfray.spec.sweep import CLASSES
from rfray.store.audit_record import Finding, Grade, MetadataBaseline

BASELINE_ERROR, BASELINE_WARNING = 0.9, 0.65
"""AUC of the metadata baseline above which it is an error, or a warning."""
IMBALANCE = 5
"""The larger class has more than so many times the images of the smaller one."""
FEW = 100
"""Fewer images of a class than this leave too much to chance."""
UNREADABLE_SHARE = 0.01
"""Share of unreadable files above which they are a warning."""
FORMAT_SHARE = 0.2
"""Share of a class that would have to change its format to match the other one."""
SIZE_DISTANCE_WARNING, SIZE_DISTANCE_NOTE = 0.5, 0.25
"""Greatest distance between the classes' cumulative distributions (Kolmogorov-Smirnov)."""
SPECTRUM_EFFECT = 0.3
"""Difference of the classes' means in standard deviations (Cohen's d); 0.2 is called small, 0.5 medium."""
NAMED = 3
"""Examples in a sentence."""
CLOSENESS = {"exact": 0, "re-encoded": 1, "mirrored": 2, "crop": 3}
"""Kind of pair -> its rank, closest first."""
LIKE = {"exact": "the same file", "re-encoded": "re-encoded", "mirrored": "mirrored", "crop": "cropped"}
"""Kind of pair, in the same order -> how a sentence calls it."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    images: pd.DataFrame
    """One row a file, with `place`: its part, or its folder where there are no parts."""
    pairs: pd.DataFrame
    """first, second (rows of `images`), kind, first_place, second_place (in alphabetical order), across_labels."""
    unreadable: int
    """Files that could not be read."""
    baseline: MetadataBaseline | None
    reencoded: bool
    """Whether `data.reencode` brings all images through one size and codec before a model sees them."""


Rule = Callable[[Facts], Iterator[Finding]]


def test_in_training(facts: Facts) -> Iterator[Finding]:
    """Copies of test images among the training images: test then measures memory."""
    is_test = facts.images["place"].eq("test").to_numpy()
    pairs = facts.pairs[is_test[facts.pairs["first"]] != is_test[facts.pairs["second"]]]
    if pairs.empty:
        return
    swapped = ~is_test[pairs["first"]]
    copies = pd.DataFrame(
        {
            "test": np.where(swapped, pairs["second"], pairs["first"]),
            "training": np.where(swapped, pairs["first"], pairs["second"]),
            "kind": pairs["kind"].to_numpy(),
            "closeness": pairs["kind"].map(CLOSENESS).to_numpy(),
        }
    )
    left_out = bool((facts.images["place"].to_numpy()[copies["training"]] == "left out").all())
    copies = copies.sort_values("closeness", kind="stable").drop_duplicates("test")  # each image once, closest kind
    yield Finding(
        grade="error",
        code="test-in-training",
        sentence=f"{_of(len(copies), int(is_test.sum()), 'test image')} also among the training images "
        f"({_kinds(copies)}), e.g. {_named(facts, copies['test'], copies['training'])}"
        + (
            "; these training images are left out of train and val."
            if left_out
            else ": what a model knows by heart would count as recognised."
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
    yield Finding(
        grade="error" if baseline.auc > BASELINE_ERROR and not facts.reencoded else "warning",
        code="metadata-tells",
        sentence=baseline.sentence + (" `data.reencode` keeps models from seeing it." if facts.reencoded else ""),
        what_to_do=" ".join(dict.fromkeys(feature.remedy for feature in baseline.features if feature.low > 0.5))
        or baseline.features[0].remedy,
    )


def both_labels(facts: Facts) -> Iterator[Finding]:
    """The same picture called real and fake.

    Only a warning, also between training and test: copies between those are an error by `test_in_training`
    already. A crop is a note: a fake may be made from a part of a real image.
    """
    across = facts.pairs[facts.pairs["across_labels"]]
    grades: dict[Grade, list[str]] = {"warning": ["exact", "re-encoded", "mirrored"], "note": ["crop"]}
    for grade, kinds in grades.items():
        pairs = across[across["kind"].isin(kinds)]
        if pairs.empty:
            continue
        pairs_are = f"{_counted(len(pairs), 'pair')} of a real and a fake image {'is' if len(pairs) == 1 else 'are'}"
        same = "the same picture under both labels" if grade == "warning" else "one cut out of the other"
        yield Finding(
            grade=grade,
            code="both-labels" if grade == "warning" else "crop-of-other-class",
            sentence=f"{pairs_are} {same}, e.g. {_named(facts, pairs['first'], pairs['second'])}.",
            what_to_do="Look at them and delete the wrong one of each pair, unless the fakes are small edits of these "
            "very pictures.",
        )


def copies_across_the_split(facts: Facts) -> Iterator[Finding]:
    """Copies on both sides of train and val: what is chosen there is chosen by memory."""
    pairs = facts.pairs[(facts.pairs["first_place"] == "train") & (facts.pairs["second_place"] == "val")]
    if len(pairs):
        yield Finding(
            grade="warning",
            code="copies-across-the-split",
            sentence=f"{_counted(len(pairs), 'pair')} of like images ({_kinds(pairs)}) "
            f"{'has' if len(pairs) == 1 else 'have'} one in train and one in val, e.g. "
            f"{_named(facts, pairs['first'], pairs['second'])}: the val score flatters models that know by heart.",
            what_to_do="Put the copies of a picture into one subfolder and set `data.split_by: group`, or delete them.",
        )


def copies_within_a_place(facts: Facts) -> Iterator[Finding]:
    """Copies on one side with one label: they count twice, no more."""
    pairs = facts.pairs[(facts.pairs["first_place"] == facts.pairs["second_place"]) & ~facts.pairs["across_labels"]]
    for place, found in pairs.groupby("first_place"):
        involved = len(np.unique(found[["first", "second"]].to_numpy()))
        yield Finding(
            grade="note",
            code="copies-within-a-part",
            sentence=f"{_of(involved, int((facts.images['place'] == place).sum()), f'{_place(str(place))} image')} "
            f"there more than once ({_kinds(found)}), e.g. {_named(facts, found['first'], found['second'])}.",
            what_to_do="Nothing needs to be done: copies count twice. Delete them where they should not.",
        )


def unreadable_files(facts: Facts) -> Iterator[Finding]:
    """Files that take no part."""
    listed = len(facts.images) + facts.unreadable
    if facts.unreadable:
        yield Finding(
            grade="warning" if facts.unreadable > UNREADABLE_SHARE * listed else "note",
            code="unreadable",
            sentence=f"{facts.unreadable:,} of {_counted(listed, 'file')} can't be read and "
            f"take{'s' if facts.unreadable == 1 else ''} no part.",
            what_to_do="See `unreadable.csv` for the reasons; copy the files anew, or delete them.",
        )


def class_imbalance(facts: Facts) -> Iterator[Finding]:
    """Many more images of one class than of the other."""
    for place, counts in _per_place(facts).items():
        if counts.min() > 0 and counts.max() > IMBALANCE * counts.min():
            larger = int(counts.argmax())
            yield Finding(
                grade="warning",
                code="class-imbalance",
                sentence=f"The {_place(place)} images are {counts[0]:,} real and {counts[1]:,} fake: "
                f"calling everything {CLASSES[larger]} is right in {counts.max() / counts.sum():.0%}.",
                what_to_do="Set `trial.class_balance: weights` (or `sampling`) and read AUC and balanced accuracy, "
                "not accuracy.",
            )


def few_images(facts: Facts) -> Iterator[Finding]:
    """Too few images to choose by."""
    for place, counts in _per_place(facts).items():
        if place != "train" and counts.min() < FEW:
            smaller = int(counts.argmin())
            reach = 2 * _standard_error(0.75, int(counts[0]), int(counts[1]))
            yield Finding(
                grade="note" if place == "test" else "warning",
                code="few-images",
                sentence=f"There {'is' if counts[smaller] == 1 else 'are'} only {counts[smaller]:,} {CLASSES[smaller]} "
                f"among the {_place(place)} images: an AUC of 0.75 measured on them is uncertain by about "
                f"{min(reach, 0.5):.2f} either way.",
                what_to_do="Add images"
                + (", or raise `data.val`." if place == "val" else ".")
                + " Don't trust smaller differences between models.",
            )


def formats_differ(facts: Facts) -> Iterator[Finding]:
    """Classes in different file formats."""
    shares = pd.crosstab(facts.images["label"], facts.images["format"], normalize="index")
    if len(shares) == len(CLASSES) and (distance := _distance(shares)) >= FORMAT_SHARE:
        listed = [
            ", ".join(f"{share:.0%} {name}" for name, share in row[row > 0].sort_values(ascending=False).items())
            for _, row in shares.iterrows()
        ]
        yield Finding(
            grade="warning",
            code="formats-differ",
            sentence=f"The classes come in different file formats: real images are {listed[0]}; fake images are "
            f"{listed[1]} ({distance:.0%} would have to change to match).",
            what_to_do="Set `data.reencode: {quality: 90}`, so that all images go through the same compression.",
        )


def sizes_differ(facts: Facts) -> Iterator[Finding]:
    """Classes of different dimensions or compression."""
    found: list[tuple[float, str, str, np.ndarray, np.ndarray]] = []
    measures = {
        "width": ("width", "pixels"),
        "height": ("height", "pixels"),
        "file_bytes": ("file size", "bytes"),
        "bytes_per_pixel": ("compression", "bytes a pixel"),
    }
    for key, (column, unit) in measures.items():
        real, fake = (facts.images.loc[facts.images["label"] == label, key].to_numpy() for label in (0, 1))
        if len(real) and len(fake):
            test = stats.ks_2samp(real, fake, method="asymp")
            if test.statistic >= SIZE_DISTANCE_NOTE and test.pvalue < 0.001:
                found.append((float(test.statistic), column, unit, real, fake))
    dimensions = [one for one in found if one[1] in ("width", "height")]
    for some, what, remedy in (
        (dimensions, "dimensions", "Set `trial.resize: crop`, so that sizes leave no trace in the pixels."),
        (
            [one for one in found if one not in dimensions],
            "file sizes",
            "Set `data.reencode: {quality: 90}`, so that all images go through the same compression.",
        ),
    ):
        if some:
            distance, column, unit, real, fake = max(some, key=lambda one: one[0])
            yield Finding(
                grade="warning" if distance >= SIZE_DISTANCE_WARNING else "note",
                code=f"{what.replace(' ', '-')}-differ",
                sentence=f"The classes differ in their {what}: the median {column} is "
                f"{_number(np.median(real))} {unit} for real images and {_number(np.median(fake))} {unit} "
                f"for fake ones (distance of the distributions {distance:.2f}; 0 is alike, 1 is wholly apart).",
                what_to_do=remedy,
            )


def spectra_differ(facts: Facts) -> Iterator[Finding]:
    """Different fine detail: traces of up-sampling, or only of compression and scaling."""
    spectra = np.stack(facts.images["spectrum"].to_list()) if len(facts.images) else np.zeros((0, 32))
    finest = spectra[:, -spectra.shape[1] // 4 :].mean(axis=1)
    labels = facts.images["label"].to_numpy()
    real, fake = finest[(labels == 0) & np.isfinite(finest)], finest[(labels == 1) & np.isfinite(finest)]
    if min(len(real), len(fake)) < 2:
        return
    pooled = np.sqrt(
        ((len(real) - 1) * real.var(ddof=1) + (len(fake) - 1) * fake.var(ddof=1)) / (len(real) + len(fake) - 2)
    )
    if pooled == 0:
        return
    effect = float((fake.mean() - real.mean()) / pooled)
    if abs(effect) >= SPECTRUM_EFFECT and abs(effect) > 2 * np.sqrt(1 / len(real) + 1 / len(fake)):
        yield Finding(
            grade="note",
            code="spectra-differ",
            sentence=f"Fake images have {'more' if effect > 0 else 'less'} fine detail: their typical power in the "
            f"highest quarter of frequencies is {10 ** (fake.mean() - real.mean()):.2f} times that of real ones "
            f"(effect size d = {effect:+.2f}).",
            what_to_do="Look at the spectra. It may be the generator's up-sampling, which is what you want to find, or "
            "only another compression or scaling, which `data.reencode: {quality: 90}` evens out.",
        )


RULES: tuple[Rule, ...] = (
    test_in_training,
    metadata_tells,
    both_labels,
    copies_across_the_split,
    formats_differ,
    sizes_differ,
    class_imbalance,
    few_images,
    unreadable_files,
    copies_within_a_place,
    spectra_differ,
)
"""Every rule; within a grade, findings keep this order. A new one is an entry here."""

GRADES: tuple[Grade, ...] = ("error", "warning", "note")


def find(facts: Facts) -> tuple[Finding, ...]:
    """What all rules find, gravest first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(found, key=lambda finding: GRADES.index(finding.grade)))


def _distance(shares: pd.DataFrame) -> float:
    """Total variation distance between the two rows, in [0, 1]."""
    rows = shares.to_numpy(dtype=np.float64)
    return float(np.abs(rows[0] - rows[1]).sum() / 2)


def _per_place(facts: Facts) -> dict[str, np.ndarray]:
    """Place -> (2,) int images of each class."""
    return {
        str(place): np.bincount(images["label"], minlength=len(CLASSES))
        for place, images in facts.images.groupby("place", sort=False)
    }


def _standard_error(auc: float, real: int, fake: int) -> float:
    """Standard error of an AUC on so many images of each class (Hanley and McNeil 1982)."""
    if min(real, fake) == 0:
        return 1.0
    two_fakes, two_reals = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (fake - 1) * (two_fakes - auc**2) + (real - 1) * (two_reals - auc**2)
    return float(np.sqrt(variance / (real * fake)))


def _named(facts: Facts, first: "np.ndarray | pd.Series[int]", second: "np.ndarray | pd.Series[int]") -> str:
    """The first few pairs of rows by their paths, with their folders where these differ."""
    paths, folders = facts.images["path"].to_numpy(), facts.images["folder"].to_numpy()

    def pair(one: int, other: int) -> str:
        if folders[one] == folders[other]:
            return f"{paths[one]} and {paths[other]}"
        return f"{folders[one]}/{paths[one]} and {folders[other]}/{paths[other]}"

    return "; ".join(pair(one, other) for one, other in zip(first[:NAMED], second[:NAMED], strict=True))


def _kinds(pairs: pd.DataFrame) -> str:
    counts = pairs["kind"].value_counts()
    return ", ".join(f"{counts[kind]:,} {shown}" for kind, shown in LIKE.items() if kind in counts)


def _of(count: int, whole: int, noun: str) -> str:
    return f"{count:,} of {_counted(whole, noun)} {'is' if count == 1 else 'are'}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _place(place: str) -> str:
    return {"train": "training", "test": "validation"}.get(place, place)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

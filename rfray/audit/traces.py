"""formats, sizes, spectra and metadata of the classes -> findings: what tells them apart but what they show.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from rfray.audit.facts import Facts, used
from rfray.audit.metadata_baseline import CROP, REENCODE
from rfray.store.records import Finding

BASELINE_ERROR, BASELINE_WARNING = 0.9, 0.65
"""AUC of the metadata baseline above which it is an error, or a warning."""
FORMAT_SHARE = 0.2
"""Share of a class that would have to change its format to match the other one."""
SIZE_DISTANCE_WARNING, SIZE_DISTANCE_NOTE = 0.5, 0.25
"""Greatest distance between the cumulative distributions of the classes (Kolmogorov and Smirnov)."""
SIZE_CHANCE = 0.001
"""Probability of such a distance by chance, above which it is no finding: four measures of any folder are tested."""
SPECTRUM_EFFECT = 0.3
"""Difference of the classes' means in standard deviations; 0.2 is called small, 0.5 medium (Cohen 1988)."""


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


def formats_differ(facts: Facts) -> Iterator[Finding]:
    """Classes in different file formats."""
    images = used(facts.images)
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

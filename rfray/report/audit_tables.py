"""`Audit` -> the columns and rows of its tables, the same in the terminal and on the page."""

from rfray.spec.sweep import CLASSES
from rfray.store.records import Audit, Spread

Table = tuple[list[str], list[list[str]]]
"""Columns and rows; the first column is text."""


def count_rows(audit: Audit) -> Table:
    """Images and subfolders of each class in each part."""
    rows = []
    for part in ("train", "val", "left out", "test"):
        here = [count for count in audit.counts if count.part == part]
        if not here:
            continue
        images = [sum(count.images for count in here if count.label == label) for label in range(len(CLASSES))]
        groups = [sum(count.groups for count in here if count.label == label) for label in range(len(CLASSES))]
        rows.append([part, *(f"{count:,}" for count in images), " + ".join(map(str, groups)) if any(groups) else "-"])
    return ["part", *CLASSES, "subfolders"], rows


def size_rows(audit: Audit) -> Table:
    """Least, median and greatest size of each class, and its formats."""
    columns = ["least / median / greatest", *(CLASSES[sizes.label] for sizes in audit.sizes)]
    rows = [
        ["width (pixels)", *(_spread(sizes.width) for sizes in audit.sizes)],
        ["height (pixels)", *(_spread(sizes.height) for sizes in audit.sizes)],
        ["file size (kB)", *(_spread(sizes.file_bytes, 1000) for sizes in audit.sizes)],
        ["bytes per pixel", *(_spread(sizes.bytes_per_pixel) for sizes in audit.sizes)],
        ["format", *(", ".join(f"{name} {n:,}" for name, n in sizes.formats.items()) for sizes in audit.sizes)],
    ]
    return columns, rows if audit.sizes else []


def duplicate_rows(audit: Audit) -> Table:
    """Pairs of like images, by kind, where their two images are, and whether their labels agree."""
    rows = [
        [
            pairs.kind,
            pairs.first if pairs.first == pairs.second else f"{pairs.first} and {pairs.second}",
            "real and fake" if pairs.across_labels else "same",
            f"{pairs.pairs:,}",
        ]
        for pairs in audit.duplicates
    ]
    return ["like", "where", "labels", "pairs"], rows


def baseline_rows(audit: Audit) -> Table:
    """What each property of the files alone predicts."""
    found = audit.baseline.features if audit.baseline is not None else []
    rows = [[one.feature, f"{one.auc:.2f}", f"{one.low:.2f} to {one.high:.2f}"] for one in found]
    return ["property", "AUC", "95 % interval"], rows


def audit_tables(audit: Audit) -> list[tuple[str, list[str], list[list[str]]]]:
    """Heading, columns and rows of every table that has rows."""
    tables = {
        "Images": count_rows(audit),
        "Files": size_rows(audit),
        "Pairs of images that are alike": duplicate_rows(audit),
        "What the files' properties alone predict": baseline_rows(audit),
    }
    return [(heading, columns, rows) for heading, (columns, rows) in tables.items() if rows]


def baseline_sentence(audit: Audit) -> str:
    """What the metadata baseline came to; "" where there is none, or where a finding says it already."""
    said = {finding.sentence for finding in audit.findings}
    return audit.baseline.sentence if audit.baseline is not None and audit.baseline.sentence not in said else ""


def _spread(spread: Spread, unit: float = 1) -> str:
    """One number where all are the same, else least - median - greatest."""
    values = [spread.min / unit, spread.median / unit, spread.max / unit]
    return " / ".join(dict.fromkeys(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values))

"""images, pairs of similar images, unreadable files -> `Audit`: what would make results on these images mislead.

`images` has one row for each file: path (str, below its data folder), label (0 real, 1 fake), subfolder (str), folder
(train or test), part (train, val, test, left out, or "" where folders are audited without dividing them), and the
columns of `fingerprints.Fingerprint` but for hashes and keypoints.
`pairs`: first, second (row positions in `images`), kind (exact, re-encoded, mirrored or crop).
`unreadable`: path, reason.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rfray.audit.metadata_baseline import metadata_baseline
from rfray.audit.rules import Facts, find
from rfray.data.near_duplicates import linked_groups
from rfray.spec.sweep import CLASSES
from rfray.store.records import Audit, Count, GroupCount, Pairs, Sizes, Spread, Unreadable

EXAMPLES = 5
"""Pairs of each kind that audit.json names: enough to open and look at."""
LISTED = 20
"""Unreadable files and subfolders that audit.json names: a screen of them. `unreadable.csv` has all."""


def audit_images(
    images: pd.DataFrame, pairs: pd.DataFrame, unreadable: pd.DataFrame, reencoded: bool = False, seed: int = 0
) -> Audit:
    """Audits the images (columns: see the module's docstring).

    `reencoded` is whether models see the images only after all have gone through one size and codec. `seed` divides the
    images for the metadata baseline, in which similar ones stay in one fold.
    """
    images = images.reset_index(drop=True)
    images = images.assign(part=images["part"].where(images["part"] != "", images["folder"]))
    pairs = _with_parts(images, pairs)
    baseline = metadata_baseline(images, linked_groups(len(images), pairs[["first", "second"]].to_numpy()), seed)
    named = unreadable[["path", "reason"]].head(LISTED).itertuples(index=False)
    return Audit(
        images=len(images),
        counts=tuple(_counts(images)),
        groups=tuple(_groups(images)),
        sizes=tuple(_sizes(images)),
        unreadable_count=len(unreadable),
        unreadable=tuple(Unreadable(path=str(path), reason=str(reason)) for path, reason in named),
        duplicates=tuple(_duplicates(images, pairs)),
        baseline=baseline,
        findings=find(Facts(images, pairs, len(unreadable), baseline, reencoded)),
    )


def _with_parts(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs with the columns of `Facts.pairs`, the image whose part is first in the alphabet first."""
    parts, labels = images["part"].to_numpy(), images["label"].to_numpy()
    first, second = (pairs[column].to_numpy().astype(int) for column in ("first", "second"))
    swap = parts[first] > parts[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "kind": pairs["kind"].to_numpy(),
            "first_part": parts[first],
            "second_part": parts[second],
            "across_labels": labels[first] != labels[second],
        }
    )


def _counts(images: pd.DataFrame) -> Iterator[Count]:
    for (part, label), some in images.groupby(["part", "label"]):
        groups = some["subfolder"][some["subfolder"] != ""].nunique()
        yield Count(part=str(part), label=int(str(label)), images=len(some), groups=int(groups))


def _groups(images: pd.DataFrame) -> Iterator[GroupCount]:
    sizes = images[images["subfolder"] != ""].groupby(["subfolder", "label"], as_index=False).size()
    largest = sizes.sort_values("size", ascending=False, kind="stable").head(LISTED)
    for group, label, count in largest[["subfolder", "label", "size"]].itertuples(index=False):
        yield GroupCount(group=str(group), label=int(label), images=int(count))


def _sizes(images: pd.DataFrame) -> Iterator[Sizes]:
    for label in range(len(CLASSES)):
        some = images[images["label"] == label]
        if len(some):
            spreads = {
                column: Spread(min=some[column].min(), median=some[column].median(), max=some[column].max())
                for column in ("width", "height", "file_bytes", "bytes_per_pixel")
            }
            formats = {str(name): int(count) for name, count in some["format"].value_counts().items()}
            yield Sizes(label=label, formats=formats, **spreads)


def _duplicates(images: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Pairs]:
    paths = images["path"].to_numpy()
    for (kind, first, second, across), some in pairs.groupby(["kind", "first_part", "second_part", "across_labels"]):
        shown = some.head(EXAMPLES)
        yield Pairs(
            kind=str(kind),
            first=str(first),
            second=str(second),
            across_labels=bool(across),
            pairs=len(some),
            examples=tuple(zip(paths[shown["first"]].tolist(), paths[shown["second"]].tolist(), strict=True)),
        )

"""images, pairs of like images, unreadable files -> `Audit`: corrupt, duplicated, leaking, given away by their format.

`images`, one row a file: path (str, below its data folder), label (0 real, 1 fake), subfolder (str), folder (train or
valid), part (train, val, test, or "" where a folder is audited by itself), file_bytes, width, height (int),
format, mode (str), bytes_per_pixel (float), quantisation (str, "" where it is no JPEG), quality (float, nan likewise),
subsampling (str), progressive, exif, icc (bool), spectrum (floats: log10 radial power from 0 to Nyquist).
`pairs`: first, second (row positions in `images`), kind (exact, re-encoded or crop).
`unreadable`: path, reason.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rfray.audit.metadata_baseline import metadata_baseline
from rfray.audit.rules import Facts, find
from rfray.data.near_duplicates import groups
from rfray.spec.sweep import CLASSES
from rfray.store.audit_record import Audit, Count, GroupCount, Pairs, Sizes, Spread, Unreadable

EXAMPLES = 5
"""Pairs of each kind that are named."""
LISTED = 20
"""Unreadable files and subfolders that are named."""


def audit_images(
    images: pd.DataFrame, pairs: pd.DataFrame, unreadable: pd.DataFrame, reencoded: bool = False, seed: int = 0
) -> Audit:
    """Audits the images (columns: see the module's docstring); images that are alike stay in one fold of the baseline.

    `reencoded`: whether models see the images only after all have gone through one size and codec.
    """
    images = images.reset_index(drop=True)
    images = images.assign(place=images["part"].where(images["part"] != "", images["folder"]))
    pairs = _placed(images, pairs)
    baseline = metadata_baseline(images, groups(len(images), pairs[["first", "second"]].to_numpy()), seed)
    return Audit(
        images=len(images),
        counts=tuple(_counts(images)),
        groups=tuple(_groups(images)),
        sizes=tuple(_sizes(images)),
        unreadable_count=len(unreadable),
        unreadable=tuple(
            Unreadable(path=str(path), reason=str(reason))
            for path, reason in unreadable[["path", "reason"]].head(LISTED).itertuples(index=False)
        ),
        duplicates=tuple(_duplicates(images, pairs)),
        baseline=baseline,
        findings=find(Facts(images, pairs, len(unreadable), baseline, reencoded)),
    )


def _placed(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs, each turned so that its places are in alphabetical order, with the columns of `Facts.pairs`."""
    places, labels = images["place"].to_numpy(), images["label"].to_numpy()
    first, second = (pairs[column].to_numpy().astype(int) for column in ("first", "second"))
    turned = places[first] > places[second]
    first, second = np.where(turned, second, first), np.where(turned, first, second)
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "kind": pairs["kind"].to_numpy(),
            "first_place": places[first],
            "second_place": places[second],
            "across_labels": labels[first] != labels[second],
        }
    )


def _counts(images: pd.DataFrame) -> Iterator[Count]:
    for (folder, part, label), some in images.groupby(["folder", "part", "label"]):
        groups = some["subfolder"][some["subfolder"] != ""].nunique()
        yield Count(folder=str(folder), part=str(part), label=int(str(label)), images=len(some), groups=int(groups))


def _groups(images: pd.DataFrame) -> Iterator[GroupCount]:
    sizes = images[images["subfolder"] != ""].groupby(["subfolder", "label"], as_index=False).size()
    largest = sizes.sort_values("size", ascending=False, kind="stable").head(LISTED)
    for group, label, count in largest[["subfolder", "label", "size"]].itertuples(index=False):
        yield GroupCount(group=str(group), label=int(label), images=int(count))


def _sizes(images: pd.DataFrame) -> Iterator[Sizes]:
    for label in range(len(CLASSES)):
        some = images[images["label"] == label]
        if len(some):
            yield Sizes(
                label=label,
                width=_spread(some["width"]),
                height=_spread(some["height"]),
                file_bytes=_spread(some["file_bytes"]),
                bytes_per_pixel=_spread(some["bytes_per_pixel"]),
                formats={str(name): int(count) for name, count in some["format"].value_counts().items()},
            )


def _spread(values: "pd.Series[float]") -> Spread:
    return Spread(min=float(values.min()), median=float(values.median()), max=float(values.max()))


def _duplicates(images: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Pairs]:
    paths = images["path"].to_numpy()
    by = ["kind", "first_place", "second_place", "across_labels"]
    for (kind, first, second, across), some in pairs.groupby(by):
        shown = some.head(EXAMPLES)
        yield Pairs(
            kind=str(kind),
            first=str(first),
            second=str(second),
            across_labels=bool(across),
            pairs=len(some),
            examples=tuple(zip(paths[shown["first"]].tolist(), paths[shown["second"]].tolist(), strict=True)),
        )

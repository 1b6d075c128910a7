"""images, pairs of similar images, unreadable files -> `Audit`: what would make results on these images mislead.

`images` has one row for each file: path (str, below its data folder), label (0 real, 1 fake), subfolder (str), folder
(train, val, test or test-<name>), part (train, val, test, test-<name>, left out, or "" where folders are audited
without dividing them), and the columns of `fingerprints.Fingerprint` but for hashes and keypoints.
`pairs`: first, second (row positions in `images`), kind (exact, re-encoded, mirrored or crop).
`unreadable`: path, reason.
"""

import numpy as np
import pandas as pd

from rfray.audit.facts import Facts, gravest_first, used
from rfray.audit.metadata_baseline import metadata_baseline
from rfray.audit.rules import RULES
from rfray.data.catalog import load_folder
from rfray.data.decoding import square
from rfray.data.geometry import geometries
from rfray.data.near_duplicates import linked_groups
from rfray.spec.sweep import DataSettings, Sweep
from rfray.store.records import Audit, Count, GroupCount, Pairs, Sizes, Unreadable
from rfray.store.run_dir import RunDir

EXAMPLES = 5
"""Pairs of each kind that audit.json names: enough to open and look at."""
LISTED = 20
"""Unreadable files and subfolders that audit.json names: a screen of them. `unreadable.csv` has all."""
SAMPLE, SAMPLE_SIDE = 4000, 128
"""Images of the sample for the figures, and their side in pixels: 200 MB in memory."""


def audit_images(
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    unreadable: pd.DataFrame,
    reencoded: bool = False,
    seed: int = 0,
    data: DataSettings | None = None,
    chosen_on_val: bool = True,
) -> Audit:
    """Audits the images (columns: see the module's docstring), of which each class has some.

    `reencoded` is whether models see the images only after all have gone through one size and codec. `seed` divides the
    images for the metadata baseline, in which similar ones stay in one fold. `data`: how they are divided into parts,
    and `chosen_on_val`: whether models are chosen on the val images.
    """
    images = images.reset_index(drop=True)
    images = images.assign(
        part=images["part"].where(images["part"] != "", images["folder"]), group=images["subfolder"].replace("", None)
    )
    alike, kept = linked_groups(len(images), pairs[["first", "second"]].to_numpy()), used(images)
    baseline = metadata_baseline(kept, alike[kept.index], seed)
    # of each pair, the image whose part is first in the alphabet first
    rows = pairs[["first", "second"]].to_numpy().astype(int)
    rows = np.take_along_axis(rows, images["part"].to_numpy()[rows].argsort(axis=1, kind="stable"), axis=1)
    parts, labels, folders, paths = (images[name].to_numpy()[rows] for name in ("part", "label", "folder", "path"))
    pairs = pd.DataFrame({"first": rows[:, 0], "second": rows[:, 1], "kind": pairs["kind"].to_numpy()}).assign(
        first_part=parts[:, 0],
        second_part=parts[:, 1],
        across_labels=labels[:, 0] != labels[:, 1],
        paths=pd.Series([tuple(pair) for pair in paths.tolist()], dtype=object),
        named=list(map(" and ".join, np.where(folders[:, :1] != folders[:, 1:], folders + "/" + paths, paths))),
    )
    counts = images.groupby(["part", "label"]).agg(images=("path", "size"), groups=("group", "nunique")).reset_index()
    groups = images.groupby(["group", "label"]).size().reset_index(name="images")
    largest = groups.sort_values("images", ascending=False, kind="stable").head(LISTED)
    sizes = [
        some[["width", "height", "file_bytes", "bytes_per_pixel"]].agg(["min", "median", "max"]).to_dict()
        | {"label": label, "formats": some["format"].value_counts().to_dict()}
        for label, some in images.groupby("label")
    ]
    duplicates = [
        {"kind": kind, "first": first, "second": second, "across_labels": bool(across), "pairs": len(some)}
        | {"examples": tuple(some["paths"].head(EXAMPLES))}
        for (kind, first, second, across), some in pairs.groupby(["kind", "first_part", "second_part", "across_labels"])
    ]
    facts = Facts(images, pairs, len(unreadable), baseline, reencoded, data, chosen_on_val)
    findings = [finding for rule in RULES for finding in rule(facts)]
    named = unreadable[["path", "reason"]].head(LISTED)
    return Audit(
        images=len(images),
        counts=tuple(map(Count.model_validate, counts.to_dict("records"))),
        groups=tuple(map(GroupCount.model_validate, largest.to_dict("records"))),
        sizes=tuple(map(Sizes.model_validate, sizes)),
        unreadable_count=len(unreadable),
        unreadable=tuple(map(Unreadable.model_validate, named.to_dict("records"))),
        duplicates=tuple(map(Pairs.model_validate, duplicates)),
        baseline=baseline,
        findings=gravest_first(findings),
    )


def audited_pictures(run: RunDir, sweep: Sweep) -> tuple[np.ndarray, pd.DataFrame]:
    """Up to SAMPLE of a run's audited images: (k, S, S, 3) uint8, and their rows of images.parquet."""
    images = run.audited_images()
    chosen = images.sample(min(SAMPLE, len(images)), random_state=0).sort_index()
    pixels = np.empty((len(chosen), SAMPLE_SIDE, SAMPLE_SIDE, 3), np.uint8)
    for _, here in images.groupby("folder"):
        source = load_folder(here, sweep.data, geometries(sweep)[0])
        rows = here.index.get_indexer(chosen.index)  # -1 for those of the other folder
        for position in np.flatnonzero(rows >= 0):
            pixels[position] = square(source.picture(rows[position]), SAMPLE_SIDE)
    return pixels, chosen.reset_index(drop=True)

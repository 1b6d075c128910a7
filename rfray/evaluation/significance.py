"""Test predictions of the leaderboard's rows -> how sure their metrics are: intervals, paired tests, a verdict.

Rows are compared on the images that the ensemble, or where there is none the best single model, has predicted.
Predictions that were made before the test folder changed are on other images: they get intervals, but no test.

Where images belong together (`group_id` of the catalog: look-alikes, an identity, a subfolder that is kept whole),
whole groups are the evidence: in the intervals, in the tests and in the bootstrap.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from rfray.errors import RunError
from rfray.spec.parts import TEST
from rfray.stats.best import worse_than_best
from rfray.stats.clusters import groups_in, groups_of_images, share_intervals
from rfray.stats.intervals import bootstrap, percentile_intervals, resample
from rfray.stats.paired_tests import LEVEL, Placements, accuracy_p_values, holm, placements
from rfray.stats.predictions import Predictions, positions, read_predictions
from rfray.store.run_dir import RunDir

BOOTSTRAPPED, BOOTSTRAPPED_IMAGES = 100, 200_000
"""Models whose intervals are bootstrapped: the best by their val score. Every ensemble's are. Measured: all intervals
and tests of 100 rows of 10,000 images took 0.8 s on two cores, before `tied` looked at all rows at once (0.5 s of a
core). Of more images than the second number no row is (our choice): 1,000 resamples take a byte an image each."""
PAIRED = {"auc": "DeLong's paired test", "accuracy": "McNemar's exact test"}
"""What is tested -> the name of its test where all images stand alone."""
CLUSTERED = {
    "auc": "DeLong's paired test for groups (Obuchowski 1997)",
    "accuracy": "the exact sign-flip test of groups (Obuchowski 1998)",
}
"""The same where images belong together."""

SINGLE = ("model", "probe")
"""The kinds of rows that may be the best single model; a fold's val score is on other images."""
MEASURED = ("accuracy", "precision", "recall", "auc")
INTERVALS = [f"{measure}{way}_{end}" for way in ("", "_boot") for measure in MEASURED for end in ("low", "high")]
INTERVALS += ["fpr_low", "fpr_high"]
"""95 % intervals: Wilson's, of the AUC DeLong's on the logit scale; then those of the bootstrap. With groups
Wilson's of the effective number of images, and DeLong's as by Obuchowski (1997)."""
TESTS = [f"{measure}_p_{reference}" for reference in ("best", "ensemble") for measure in ("auc", "accuracy")]
"""p of the test of PAIRED, or CLUSTERED, against the best single model and against the ensemble, each corrected by
Holm's method for all rows."""
WORDS = ["tested_by", "tied"]
"""Columns of text: the names of the tests of AUC and accuracy, and whether a row is tied with the best."""


@dataclass(frozen=True)
class Evaluated:
    """One row of the leaderboard that has predicted test."""

    name: str
    kind: Literal["model", "probe", "fold", "ensemble"]
    val: float
    """Its val score; nan where it is undefined."""
    threshold: float
    """An image is called fake where p_fake >= this."""
    test: Predictions


@dataclass(frozen=True, eq=False)
class Panel:
    """k rows that have predicted the same n images."""

    names: list[str]
    """Of the rows."""
    best: str | None
    """Name of the best single model by val; the best by test would look better than it is."""
    ids: np.ndarray
    """(n,) of text."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    scores: np.ndarray
    """(k, n) float64: p_fake."""
    thresholds: np.ndarray
    """(k,) float64."""
    groups: np.ndarray | None = None
    """(n,) int: the number of each image's group, from 0; None where all images stand alone."""

    @property
    def n_groups(self) -> int:
        """Into how many groups the images fall: n where all stand alone."""
        return len(self.ids) if self.groups is None else int(self.groups.max()) + 1

    @property
    def right(self) -> np.ndarray:
        """(k, n) bool: whether an image is classified correctly."""
        return np.asarray((self.scores >= self.thresholds[:, None]) == (self.labels == 1))

    @cached_property
    def placements(self) -> Placements | None:
        """What the AUCs are means of; None where a class is missing."""
        if not 0 < self.labels.sum() < len(self.labels):
            return None
        return placements(self.labels, self.scores, groups=self.groups)

    @property
    def tests(self) -> dict[str, str]:
        """auc and accuracy -> the name of the paired test of it."""
        return PAIRED if self.groups is None else CLUSTERED

    @property
    def said(self) -> str:
        """What to say of the groups, after another sentence; "" where all images stand alone."""
        if self.groups is None:
            return ""
        inside = f"{len(self.ids):,} are in {self.n_groups:,} groups"
        return f" Images that belong together are one piece of evidence: {inside}."

    def resample(self) -> np.ndarray:
        """(b, n) uint8: how often each image is in each resample."""
        return resample(self.labels, self.groups)


def significance(rows: Sequence[Evaluated], ensemble: str | None, groups: "pd.Series[int] | None") -> pd.DataFrame:
    """`n_groups`, INTERVALS, TESTS and WORDS of each row, indexed by name; nan (of WORDS "") where one is undefined.

    `n_groups`: into how many groups its test images fall, that is how many there are where all stand alone.

    `tied`: no where `worse_than_best` proves the AUC of a row to be lower than another's (p < LEVEL, all rows looked at
    at once), else yes. The `rows` come best val score first; `ensemble` is the name of the main
    vote; `groups`: id of an image -> number of its group, where one is known.
    Raises RunError where rows disagree on a label.
    """
    left_out = {row.name for row in [row for row in rows if row.kind != "ensemble"][BOOTSTRAPPED:]}
    left_out |= {row.name for row in rows if len(row.test) > BOOTSTRAPPED_IMAGES}
    panels = on_same_images(rows, groups)
    main = [panel for panel in panels if ensemble in panel.names] or [panel for panel in panels if panel.best]
    tables = [
        pd.DataFrame(
            _intervals(panel, left_out) | (_tests(panel, ensemble) if panel in main[:1] else {}),
            index=panel.names,
        )
        for panel in panels
    ]
    numbers = ["n_groups", *INTERVALS, *TESTS]
    table = pd.concat(tables) if tables else pd.DataFrame()
    table = table.reindex(index=[row.name for row in rows], columns=[*numbers, *WORDS])
    return table.astype(dict.fromkeys(numbers, float)).fillna(dict.fromkeys(WORDS, ""))


def verdict(run: RunDir, frame: pd.DataFrame) -> str | None:
    """A sentence that says whether the ensemble beats the best single model on test, and how sure that is.

    `frame` is the run's leaderboard. Decided by the paired test of the AUC, corrected by Holm's method for all rows;
    the p of this one comparison stands beside it. None where there is no ensemble, no model to compare it with, only
    one class, or the predictions are gone.
    """
    ensemble = run.ensemble()
    if ensemble is None:
        return None
    models = frame[frame["kind"].isin(SINGLE) & frame["rank"].notna() & frame["n"].notna()].sort_values("rank")
    for name in models["name"]:
        files = [run.ensemble_predictions_file(ensemble.name, "test"), run.trial(name).predictions_file("test")]
        if not all(file.exists() for file in files):
            return None
        both = [Evaluated(file.name, "model", np.nan, ensemble.threshold, read_predictions(file)) for file in files]
        panels = on_same_images(both, groups_in(run, TEST))
        if len(panels) > 1:  # predictions of the model that were made before the test folder changed
            continue
        placed = panels[0].placements
        difference = placed.minus(1) if placed is not None else None
        if placed is None or difference is None or np.isnan(difference.p_values[0]):
            return None
        p = difference.p_values[0]
        corrected = frame.set_index("name")["auc_p_best"].get(ensemble.name, np.nan)
        found = (*placed.aucs, *difference.intervals[0], p, corrected)
        text = difference_text(found, panels[0].tests["auc"], "rows" if corrected > p else "")
        images, does = len(both[0].test), outcome(difference.values[0], p, corrected)
        return (
            f"On {images:,} test images the ensemble {does} the best single model, {name}: AUC {text}.{panels[0].said}"
        )
    return None


def outcome(difference: float, p: float, corrected: float) -> str:
    """What a row does to another by their difference, p, and p corrected for other tests (or nan); "" if p is nan."""
    if np.isnan(p):
        return ""
    return "is tied with" if np.fmax(p, corrected) >= LEVEL else "beats" if difference > 0 else "falls behind"


def difference_text(found: Sequence[float], test: str, others: str) -> str:
    """Two values, the interval of their difference, p by this test, and p corrected for all `others`, if not "".

    An interval of nan, which was not computed, is left out.
    """
    first, second, low, high, *p_values = found
    p, corrected = ("p < 0.0001" if each < 0.0001 else f"p = {each:.4f}" for each in p_values)
    of_all = f", {corrected} corrected for all {others}" if others else ""
    interval = "" if np.isnan(low) else f"95 % interval {low:.4f} to {high:.4f}, "
    return f"{first:.4f} against {second:.4f}, a difference of {first - second:.4f} ({interval}{p} by {test}{of_all})"


def on_same_images(rows: Sequence[Evaluated], groups: "pd.Series[int] | None" = None) -> list[Panel]:
    """One panel for all rows of the same images, none for rows without any. `groups` as for `significance`.

    Raises RunError where labels differ.
    """
    panels, left = [], [row for row in rows if len(row.test)]
    while left:
        first = left[0].test
        placed = [(row, positions(row.test.ids, first.ids)) for row in left]
        alike = [(row, order) for row, order in placed if order is not None]
        for row, order in alike:
            differing = row.test.labels[order] != first.labels
            if differing.any():
                raise RunError(
                    f"{left[0].name} and {row.name} disagree on the label of {first.ids[differing][0]}; delete the "
                    "predictions, and `rfray ensemble` makes them anew"
                )
        scores = np.array([row.test.p_fake[order] for row, order in alike])
        thresholds = np.array([row.threshold for row, _ in alike])
        best = next((row.name for row, _ in alike if row.kind in SINGLE and not np.isnan(row.val)), None)
        names, numbers = [row.name for row, _ in alike], groups_of_images(first.ids, groups)
        panels.append(Panel(names, best, first.ids, first.labels, scores, thresholds, numbers))
        left = [row for row, order in placed if order is None]
    return panels


def _intervals(panel: Panel, left_out: Set[str]) -> dict[str, np.ndarray]:
    """`n_groups` and column of INTERVALS -> (k,); nan in those of the bootstrap for the names in `left_out`."""
    is_fake, right = panel.labels == 1, panel.right
    called, everything = right == is_fake, np.ones_like(right)
    found = {
        "accuracy": share_intervals(right, everything, panel.groups),
        "precision": share_intervals(right & is_fake, called, panel.groups),
        "recall": share_intervals(right & is_fake, everything & is_fake, panel.groups),
        "fpr": share_intervals(~right & ~is_fake, everything & ~is_fake, panel.groups),
    }
    if panel.placements is not None:
        found["auc"] = panel.placements.intervals
    chosen = np.array([name not in left_out for name in panel.names])
    found |= {f"{measure}_boot": np.full((len(chosen), 2), np.nan) for measure in MEASURED}
    if chosen.any():
        values = bootstrap(panel.labels, panel.scores[chosen], panel.thresholds[chosen], panel.resample())
        for measure in MEASURED:
            found[f"{measure}_boot"][chosen] = percentile_intervals(values[measure])
    ends = {f"{name}_{end}": each[:, at] for name, each in found.items() for at, end in enumerate(("low", "high"))}
    return {"n_groups": np.full(len(chosen), panel.n_groups), **ends}


def _tests(panel: Panel, ensemble: str | None) -> dict[str, np.ndarray]:
    """Column of TESTS, and WORDS -> (k,) float64 or text."""
    columns = {"tested_by": np.full(len(panel.names), "; ".join(panel.tests.values()), dtype=object)}
    placed = panel.placements

    def corrected(p_values: np.ndarray, reference: int) -> np.ndarray:
        """By Holm's method for all rows but the one that they are compared with, which has none."""
        return holm(np.where(np.arange(len(p_values)) == reference, np.nan, p_values))

    for which, name in (("best", panel.best), ("ensemble", ensemble)):
        if name in panel.names:
            reference = panel.names.index(name)
            columns[f"accuracy_p_{which}"] = corrected(
                accuracy_p_values(panel.right, panel.right[reference], panel.groups), reference
            )
            if placed is not None:
                columns[f"auc_p_{which}"] = corrected(placed.minus(reference).p_values, reference)
    if placed is not None:
        worse = worse_than_best(placed)
        columns["tied"] = np.where(np.isnan(worse), "", np.where(worse < LEVEL, "no", "yes")).astype(object)
    return columns

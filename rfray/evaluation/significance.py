"""Test predictions of the leaderboard's rows -> how sure their metrics are: intervals, paired tests, a verdict.

Rows are compared on the images that the ensemble has predicted, or where there is none the best single model.
Predictions that were made before the test folder changed are on other images: they get intervals, but no test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from rfray.errors import RunError
from rfray.stats.bootstrap import bootstrap, percentile_intervals, resample
from rfray.stats.delong import Placements, placements
from rfray.stats.intervals import wilson
from rfray.stats.paired_tests import LEVEL, holm, mcnemar
from rfray.stats.predictions import Predictions, positions, read_predictions
from rfray.store.run_dir import RunDir

BOOTSTRAPPED = 100
"""Models whose intervals are bootstrapped: the best by their val score. Every ensemble's are. Measured: all intervals
and tests of 100 rows of 10,000 images take 0.8 s on two cores."""
DELONG = "DeLong's paired test"

SINGLE = ("model", "probe")
"""The kinds of rows that may be the best single model; a fold's val score is on other images."""
MEASURES = ("accuracy", "precision", "recall", "auc")
INTERVALS = [f"{measure}{way}_{end}" for way in ("", "_boot") for measure in MEASURES for end in ("low", "high")]
"""95 % intervals: Wilson's, of the AUC DeLong's on the logit scale; then those of the bootstrap."""
TESTS = [f"{measure}_p_{reference}" for reference in ("best", "ensemble") for measure in ("auc", "accuracy")]
"""p of DeLong's (AUC) and McNemar's (accuracy) test against the best single model and against the ensemble, each
corrected by Holm's method for all rows."""


@dataclass(frozen=True)
class Evaluated:
    """One row of the leaderboard that has predicted test."""

    name: str
    kind: Literal["model", "probe", "fold", "ensemble"]
    val: float | None
    """Its val score."""
    threshold: float
    """An image is called fake where p_fake >= this."""
    test: Predictions


@dataclass(frozen=True, eq=False)
class Panel:
    """k rows that have predicted the same n images."""

    rows: Sequence[Evaluated]
    ids: np.ndarray
    """(n,) of text."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    scores: np.ndarray
    """(k, n) float64: p_fake."""

    @property
    def names(self) -> list[str]:
        """Of the rows."""
        return [row.name for row in self.rows]

    @property
    def thresholds(self) -> np.ndarray:
        """(k,) float64."""
        return np.array([row.threshold for row in self.rows])

    @property
    def right(self) -> np.ndarray:
        """(k, n) bool: whether an image is classified correctly."""
        return np.asarray((self.scores >= self.thresholds[:, None]) == (self.labels == 1))

    @property
    def best(self) -> str | None:
        """Name of the best single model by val; the best by test would look better than it is."""
        return next((row.name for row in self.rows if row.kind in SINGLE and row.val is not None), None)

    @cached_property
    def placements(self) -> Placements | None:
        """What the AUCs are means of; None where a class is missing."""
        return placements(self.labels, self.scores) if 0 < self.labels.sum() < len(self.labels) else None


def significance(rows: Sequence[Evaluated], ensemble: str | None, groups: "pd.Series[int] | None") -> pd.DataFrame:
    """INTERVALS, TESTS and `tied` of each row, indexed by name; nan (of `tied` "") where one is undefined.

    `tied`: yes for the row with the highest AUC and those from which DeLong's test, corrected by Holm's method for all
    rows, does not tell it apart; else no.

    Args:
        rows: best val score first.
        ensemble: name of the ensemble's main vote.
        groups: id of an image -> number of its group; where two images share one, the bootstrap draws whole groups.

    Raises:
        RunError: where rows disagree on a label.
    """
    models = [row.name for row in rows if row.kind != "ensemble"]
    panels = on_same_images(rows)
    main = [panel for panel in panels if ensemble in panel.names] or [panel for panel in panels if panel.best]
    tables = [
        pd.DataFrame(
            _intervals(panel)
            | _bootstrap_intervals(panel, set(models[BOOTSTRAPPED:]), groups)
            | (_tests(panel, ensemble) if panel in main[:1] else {}),
            index=panel.names,
        )
        for panel in panels
    ]
    numbers = [*INTERVALS, *TESTS]
    table = pd.concat(tables) if tables else pd.DataFrame()
    table = table.reindex(index=[row.name for row in rows], columns=[*numbers, "tied"])
    return table.astype(dict.fromkeys(numbers, float)).fillna({"tied": ""})


def verdict(run: RunDir, frame: pd.DataFrame) -> str | None:
    """A sentence that says whether the ensemble beats the best single model on test, and how sure that is.

    `frame` is the run's leaderboard. Decided by DeLong's test, corrected by Holm's method for all rows; the p of this
    one comparison stands beside it. None where there is no ensemble, no model to compare it with, only one class, or
    the predictions are gone.
    """
    ensemble = run.ensemble()
    if ensemble is None or not (file := run.ensemble_predictions_file(ensemble.name, "test")).exists():
        return None
    vote = Evaluated(ensemble.name, "ensemble", None, ensemble.threshold, read_predictions(file))
    models = frame[frame["kind"].isin(SINGLE) & frame["rank"].notna() & frame["n"].notna()].sort_values("rank")
    for name in models["name"]:
        if not (file := run.trial(name).predictions_file("test")).exists():
            return None
        model = Evaluated(name, "model", None, ensemble.threshold, read_predictions(file))
        panels = on_same_images([vote, model])
        if len(panels) == 1:
            return _sentence(panels[0], frame.set_index("name")["auc_p_best"].get(ensemble.name, np.nan))
    return None


def outcome(difference: float, p: float, corrected: float) -> str:
    """What the first of two rows does, by its difference from the second and a test's p.

    `corrected` is the same p corrected for other tests; nan where there is none.
    """
    return "is tied with" if np.fmax(p, corrected) >= LEVEL else "beats" if difference > 0 else "falls behind"


def difference_text(values: Sequence[float], ends: Sequence[float], p: float, test: str, more: str = "") -> str:
    """Two values, their difference with its 95 % interval, and p by this test, as a part of a sentence."""
    first, second = values
    return (
        f"{first:.4f} against {second:.4f}, a difference of {first - second:.4f} (95 % interval {ends[0]:.4f} to "
        f"{ends[1]:.4f}, {p_text(p)} by {test}{more})"
    )


def p_text(p: float) -> str:
    """p = 0.0321, or that it is less than can be shown."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def on_same_images(rows: Sequence[Evaluated]) -> list[Panel]:
    """One panel for the rows that have predicted the same images; rows without any image are left out.

    Raises:
        RunError: where rows disagree on a label.
    """
    found: list[list[tuple[Evaluated, np.ndarray]]] = []
    for row in rows:
        for panel in found:
            first = panel[0][0]
            order = positions(row.test.ids, first.test.ids)
            if order is None:
                continue
            differing = row.test.labels[order] != first.test.labels
            if differing.any():
                raise RunError(
                    f"{first.name} and {row.name} disagree on the label of {first.test.ids[differing][0]}; delete the "
                    "predictions, and `rfray ensemble` makes them anew"
                )
            panel.append((row, row.test.p_fake[order]))
            break
        else:
            if len(row.test):
                found.append([(row, row.test.p_fake)])
    return [
        Panel([row for row, _ in panel], first.ids, first.labels, np.array([p_fake for _, p_fake in panel]))
        for panel in found
        for first in [panel[0][0].test]
    ]


def group_numbers(ids: np.ndarray, groups: "pd.Series[int] | None") -> np.ndarray | None:
    """(n,) int: the group of each image, its own where none is known; None where no two images share one."""
    if groups is None:
        return None
    known = pd.factorize(groups.reindex(ids))[0]
    numbers = np.where(known < 0, len(ids) + np.arange(len(ids)), known)
    return numbers if len(np.unique(numbers)) < len(ids) else None


def _sentence(panel: Panel, corrected: float) -> str | None:
    """The verdict on an ensemble and a model."""
    if panel.placements is None:
        return None
    found = panel.placements.minus(1)
    value, p = float(found.values[0]), float(found.p_values[0])
    if np.isnan(p):
        return None
    of_all = f", {p_text(corrected)} corrected for all rows" if corrected > p else ""
    text = difference_text(panel.placements.aucs.tolist(), found.interval(0), p, DELONG, of_all)
    return (
        f"On {len(panel.labels):,} test images the ensemble {outcome(value, p, corrected)} the best single model, "
        f"{panel.names[1]}: AUC {text}."
    )


def _intervals(panel: Panel) -> dict[str, np.ndarray]:
    """Column of INTERVALS -> (k,) float64; without those of the bootstrap."""
    is_fake, right = panel.labels == 1, panel.right
    true_positives, true_negatives = right[:, is_fake].sum(axis=1), right[:, ~is_fake].sum(axis=1)
    fakes, n = int(is_fake.sum()), len(is_fake)
    columns = (
        _columns("accuracy", wilson(right.sum(axis=1), n))
        | _columns("precision", wilson(true_positives, true_positives + (n - fakes) - true_negatives))
        | _columns("recall", wilson(true_positives, fakes))
    )
    return columns | (_columns("auc", panel.placements.intervals) if panel.placements is not None else {})


def _bootstrap_intervals(panel: Panel, left_out: set[str], groups: "pd.Series[int] | None") -> dict[str, np.ndarray]:
    """Column of INTERVALS -> (k,) float64; those of the bootstrap."""
    chosen = np.array([name not in left_out for name in panel.names])
    weights = resample(panel.labels, group_numbers(panel.ids, groups))
    values = bootstrap(panel.labels, panel.scores[chosen], panel.thresholds[chosen], weights)
    columns: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        ends = np.full((len(chosen), 2), np.nan)
        ends[chosen] = percentile_intervals(values[measure])
        columns |= _columns(f"{measure}_boot", ends)
    return columns


def _columns(name: str, ends: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_low": ends[:, 0], f"{name}_high": ends[:, 1]}


def _tests(panel: Panel, ensemble: str | None) -> dict[str, np.ndarray]:
    """Column of TESTS, and `tied` -> (k,) float64 or text."""
    columns: dict[str, np.ndarray] = {}
    for which, name in (("best", panel.best), ("ensemble", ensemble)):
        if name in panel.names:
            reference = panel.names.index(name)
            columns[f"accuracy_p_{which}"] = _corrected(mcnemar(panel.right, panel.right[reference]), reference)
            if panel.placements is not None:
                columns[f"auc_p_{which}"] = _corrected(panel.placements.minus(reference).p_values, reference)
    if panel.placements is not None:
        top = int(panel.placements.aucs.argmax())
        p_values = _corrected(panel.placements.minus(top).p_values, top)
        tied = np.where(np.isnan(p_values), "", np.where(p_values < LEVEL, "no", "yes")).astype(object)
        tied[top] = "yes"
        columns["tied"] = tied
    return columns


def _corrected(p_values: np.ndarray, reference: int) -> np.ndarray:
    """By Holm's method for all rows but the one that they are compared with, which has none."""
    return holm(np.where(np.arange(len(p_values)) == reference, np.nan, p_values))

"""What the leaderboard's rows say of the test images -> how sure that is: intervals, paired tests, a verdict.

Rows are compared on the images that the ensemble speaks of, or where there is none the best single model. Predictions
made before the test folder changed speak of others: they get their intervals, but are compared with nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from rfray.errors import RunError
from rfray.stats.bootstrap import bootstrap, percentile_intervals, resample
from rfray.stats.intervals import Interval, logit_interval, wilson
from rfray.stats.paired_tests import Placed, holm, mcnemar, place
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.ensemble_record import read_ensemble
from rfray.store.run_dir import RunDir

BOOTSTRAPPED = 100
"""Models whose intervals are bootstrapped: the best by their val score. Every ensemble's are."""
LEVEL = 0.05
"""Rows are told apart where p is less."""
DELONG = "DeLong's paired test"
ANEW = "delete the predictions, and `rfray ensemble` makes them anew"

SINGLE = ("model", "probe")
"""The kinds of rows that may be the best single model; a fold's is judged on other images than val."""
MEASURES = ("accuracy", "precision", "recall", "auc")
INTERVALS = [f"{measure}{way}_{end}" for way in ("", "_boot") for measure in MEASURES for end in ("low", "high")]
"""95 % intervals: Wilson's, of the AUC DeLong's on the logit scale; then those of the bootstrap."""
TESTS = [f"{measure}_p_{reference}" for reference in ("best", "ensemble") for measure in ("auc", "accuracy")]
"""p of DeLong's (AUC) and McNemar's (accuracy) test against the best single model and against the ensemble, each
corrected by Holm's method for all rows."""


@dataclass(frozen=True)
class Judged:
    """One row of the leaderboard that has predicted test."""

    name: str
    kind: Literal["model", "probe", "fold", "ensemble"]
    val: float | None
    """Its value of the val metric on val."""
    threshold: float
    """An image is called fake where p_fake >= this."""
    test: Predictions


@dataclass(frozen=True, eq=False)
class Panel:
    """k rows that speak of the same n images."""

    rows: Sequence[Judged]
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
        """(k, n) bool: whether an image is called what it is."""
        return np.asarray((self.scores >= self.thresholds[:, None]) == (self.labels == 1))

    @property
    def best(self) -> str | None:
        """Name of the best single model by val: by test it would be flattered."""
        models = (row.name for row in self.rows if row.kind in SINGLE and row.val is not None)
        return next(models, None)

    @cached_property
    def placed(self) -> Placed | None:
        """What the AUCs are made of; None where a class is missing."""
        return place(self.labels, self.scores) if 0 < self.labels.sum() < len(self.labels) else None


def certainty(rows: Sequence[Judged], ensemble: str | None, groups: "pd.Series[int] | None" = None) -> pd.DataFrame:
    """INTERVALS, TESTS and `tied` of each row, indexed by name; nan (of `tied` "") where there is nothing to say.

    `rows` come best val score first; `ensemble` names the one that is handed over. `groups`: id of an image ->
    number of what it belongs together with; where any two images share one, the bootstrap draws whole groups.
    `tied`: yes for the row with the highest AUC and those that DeLong's test, corrected by Holm's method for all rows,
    does not tell from it; else no.
    Raises RunError where rows disagree on a label or one names an image twice.
    """
    models = [row.name for row in rows if row.kind != "ensemble"]
    left_out = set(models[BOOTSTRAPPED:])
    panels = on_same_images(rows)
    main = _main(panels, ensemble)
    tables = []
    for panel in panels:
        columns = _intervals(panel) | _bootstrap_intervals(panel, left_out, groups)
        if panel is main:
            columns |= _tests(panel, ensemble)
        tables.append(pd.DataFrame(columns, index=panel.names))
    numbers = [*INTERVALS, *TESTS]
    table = pd.concat(tables) if tables else pd.DataFrame()
    table = table.reindex(index=[row.name for row in rows], columns=[*numbers, "tied"])
    return table.astype(dict.fromkeys(numbers, float)).fillna({"tied": ""})


def verdict(run: RunDir, frame: pd.DataFrame) -> str | None:
    """A sentence that says whether the ensemble beats the best single model on test, and how surely.

    `frame` is the run's leaderboard. Decided by DeLong's test, by Holm's method corrected for all rows;
    the p of this one comparison stands beside it. None where there is no ensemble, no model to compare it with,
    one class only, or no longer the predictions.
    """
    ensemble = read_ensemble(run)
    if ensemble is None or not (file := run.ensemble_predictions_file(ensemble.name, "test")).exists():
        return None
    vote = Judged(ensemble.name, "ensemble", None, ensemble.threshold, read_predictions(file))
    models = frame[frame["kind"].isin(SINGLE) & frame["rank"].notna() & frame["n"].notna()].sort_values("rank")
    for name in models["name"]:
        if not (file := run.trial(name).predictions_file("test")).exists():
            return None
        model = Judged(name, "model", None, ensemble.threshold, read_predictions(file))
        panels = on_same_images([vote, model])
        if len(panels) == 1:  # they speak of the same images
            return _sentence(panels[0], frame.set_index("name")["auc_p_best"].get(ensemble.name, np.nan))
    return None


def told_apart(difference: float, p: float, corrected: float) -> str:
    """beats, is tied with or falls behind: what the first of two does by its difference to the second and a test's p.

    `corrected` is the same p corrected for other tests; nan where there is none.
    """
    return "is tied with" if np.fmax(p, corrected) >= LEVEL else "beats" if difference > 0 else "falls behind"


def against(values: tuple[float, float], ends: tuple[float, float], p: float, test: str, more: str = "") -> str:
    """A value against another's, their difference with its 95 % interval, and p, as it stands in a sentence."""
    first, second = values
    return (
        f"{first:.4f} against {second:.4f}, a difference of {first - second:.4f} (95 % interval {ends[0]:.4f} to "
        f"{ends[1]:.4f}, {shown(p)} by {test}{more})"
    )


def _sentence(panel: Panel, corrected: float) -> str | None:
    """The verdict on an ensemble and a model."""
    if panel.placed is None:
        return None
    found = panel.placed.minus(1)
    value, p = float(found.values[0]), float(found.p_values[0])
    if np.isnan(p):
        return None
    aucs = float(panel.placed.aucs[0]), float(panel.placed.aucs[1])
    of_all = f", {shown(corrected)} corrected for all rows" if corrected > p else ""
    return (
        f"On {len(panel.labels):,} test images the ensemble {told_apart(value, p, corrected)} the best single model, "
        f"{panel.names[1]}: AUC {against(aucs, found.interval(0), p, DELONG, of_all)}."
    )


def shown(p: float) -> str:
    """p = 0.0321, or that it is less than can be shown."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def on_same_images(rows: Sequence[Judged]) -> list[Panel]:
    """The rows, those that speak of the same images together; rows without any image are left out."""
    found: list[list[tuple[Judged, np.ndarray]]] = []
    for row in rows:
        if not len(row.test):
            continue
        for panel in found:
            first = panel[0][0]
            order = _order(row.test.ids, first.test.ids)
            if order is not None:
                differing = row.test.labels[order] != first.test.labels
                if differing.any():
                    image = first.test.ids[differing][0]
                    raise RunError(f"{first.name} and {row.name} disagree on the label of {image}; {ANEW}")
                panel.append((row, row.test.p_fake[order]))
                break
        else:
            if len(twice := row.test.ids[pd.Index(row.test.ids).duplicated()]):
                raise RunError(f"{twice[0]} comes twice in the test predictions of {row.name}; {ANEW}")
            found.append([(row, row.test.p_fake)])
    return [
        Panel(
            [row for row, _ in panel],
            panel[0][0].test.ids,
            panel[0][0].test.labels,
            np.array([p_fake for _, p_fake in panel]),
        )
        for panel in found
    ]


def _order(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray | slice | None:
    """Where each of the `wanted` ids is among `ids`; None where they are not the same."""
    if ids is wanted or np.array_equal(ids, wanted):
        return slice(None)
    if len(ids) != len(wanted) or not (there := pd.Index(ids)).is_unique:
        return None
    order = there.get_indexer(pd.Index(wanted))
    return None if (order < 0).any() else order


def _main(panels: Sequence[Panel], ensemble: str | None) -> Panel | None:
    """The panel in which rows are compared."""
    of_ensemble = [panel for panel in panels if ensemble in panel.names]
    return next(iter(of_ensemble or [panel for panel in panels if panel.best is not None]), None)


def _intervals(panel: Panel) -> dict[str, np.ndarray]:
    """Column of INTERVALS -> (k,) float64; without those of the bootstrap."""
    is_fake = panel.labels == 1
    right = panel.right
    true_positives, called_real = right[:, is_fake].sum(axis=1), right[:, ~is_fake].sum(axis=1)
    fakes, n = int(is_fake.sum()), len(is_fake)
    calls = true_positives + (n - fakes) - called_real
    counts = {
        "accuracy": (right.sum(axis=1), np.full(len(right), n)),
        "precision": (true_positives, calls),
        "recall": (true_positives, np.full(len(right), fakes)),
    }
    columns: dict[str, np.ndarray] = {}
    for measure, (hits, wholes) in counts.items():
        pairs = zip(hits.tolist(), wholes.tolist(), strict=True)
        columns |= _columns(measure, [wilson(*pair) if pair[1] else None for pair in pairs])
    if (placed := panel.placed) is not None:
        aucs = zip(placed.aucs.tolist(), placed.variances.tolist(), strict=True)
        columns |= _columns("auc", [logit_interval(auc, variance, placed.pairs) for auc, variance in aucs])
    return columns


def _bootstrap_intervals(panel: Panel, left_out: set[str], groups: "pd.Series[int] | None") -> dict[str, np.ndarray]:
    """Column of INTERVALS -> (k,) float64; those of the bootstrap."""
    chosen = np.array([name not in left_out for name in panel.names])
    weights = resample(panel.labels, group_numbers(panel.ids, groups))
    values = bootstrap(panel.labels, panel.scores[chosen], panel.thresholds[chosen], weights)
    columns: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        ends = np.full((len(chosen), 2), np.nan)
        ends[chosen] = percentile_intervals(values[measure])
        columns |= {f"{measure}_boot_low": ends[:, 0], f"{measure}_boot_high": ends[:, 1]}
    return columns


def _tests(panel: Panel, ensemble: str | None) -> dict[str, np.ndarray]:
    """Column of TESTS, and `tied` -> (k,) float64 or text."""
    columns: dict[str, np.ndarray] = {}
    for which, name in (("best", panel.best), ("ensemble", ensemble)):
        if name in panel.names:
            reference = panel.names.index(name)
            columns[f"accuracy_p_{which}"] = _corrected(mcnemar(panel.right, panel.right[reference]), reference)
            if panel.placed is not None:
                columns[f"auc_p_{which}"] = _corrected(panel.placed.minus(reference).p_values, reference)
    if panel.placed is not None:
        top = int(panel.placed.aucs.argmax())
        p_values = _corrected(panel.placed.minus(top).p_values, top)
        tied = np.where(np.isnan(p_values), "", np.where(p_values < LEVEL, "no", "yes")).astype(object)
        tied[top] = "yes"
        columns["tied"] = tied
    return columns


def _corrected(p_values: np.ndarray, reference: int) -> np.ndarray:
    """By Holm's method for all rows but the one that they are compared with, which has none."""
    return holm(np.where(np.arange(len(p_values)) == reference, np.nan, p_values))


def group_numbers(ids: np.ndarray, groups: "pd.Series[int] | None") -> np.ndarray | None:
    """(n,) int: the group of each image, its own where none is known; None where no two images share one."""
    if groups is None:
        return None
    known = pd.factorize(groups.reindex(ids))[0]
    numbers = np.where(known < 0, len(ids) + np.arange(len(ids)), known)
    return numbers if len(np.unique(numbers)) < len(ids) else None


def _columns(measure: str, found: Sequence[Interval | None]) -> dict[str, np.ndarray]:
    return {
        f"{measure}_{end}": np.array([np.nan if interval is None else getattr(interval, end) for interval in found])
        for end in ("low", "high")
    }

"""the probes in probes/ + a sweep -> which backbones the search tries, in which order, and where it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from rfray.spec.sweep import Sweep
from rfray.spec.trial import PROBED, Trial
from rfray.stats.metrics import metric
from rfray.stats.paired_tests import clearly_worse
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.run_dir import RunDir, probe_id
from rfray.tuning.strategies import params_of

CLEARLY_WORSE = 1.25
"""A backbone is left out where 1 - AUC of its probe is proven to be more than so many times that of the best one."""


@dataclass(frozen=True)
class Probed:
    """A probe that has succeeded."""

    trial: Trial
    score: float
    """The val metric of `out_of_fold`, in [0, 1]."""
    out_of_fold: Predictions
    """Of the train images, each by a head that had not learned from it."""


def rank_backbones(run: RunDir, sweep: Sweep, console: Console) -> Sweep:
    """The sweep with its backbones in the order of their probes, best first, and without the clearly worse ones.

    Backbones that were not probed come last; they are left out where trials begin with probes. Where no backbone has
    the probe that trials begin with, trials begin with random heads. Prints what the probes have shown.
    """
    tell = partial(console.print, soft_wrap=True, markup=False)
    backbones, missing = sweep.trial.choices("backbone"), _not_probed(run, sweep)
    if missing and missing >= set(backbones):
        tell("Without their probes, trials begin with random heads")
        return sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"head": "random"})})
    best = _best_probes(run, sweep)
    if not best:
        return sweep
    for one in best:
        tell(
            f"Probe of {one.trial.backbone} at {one.trial.image_size} px: {sweep.search.metric} {one.score:.4f} "
            "on train images that its head had not learned from"
        )
    worse = _clearly_worse(best, sweep.search.probe_keep)
    if worse:
        listed = ", ".join(f"{name} (p = {p:.2g})" for name, p in worse.items())
        than = f"as clearly worse than {best[0].trial.backbone}"
        tell(f"Left out of the sweep, {than}: {listed}. search.probe_keep keeps more")
    if missing:
        tell(f"Left out of the sweep, as not probed: {', '.join(sorted(missing))}")
    ranked = dict.fromkeys([*(one.trial.backbone for one in best), *backbones])
    kept = [name for name in ranked if name not in worse.keys() | missing]
    if kept == backbones:
        return sweep
    return sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"backbone": kept})})


def points_to_evaluate(run: RunDir, sweep: Sweep) -> list[dict[str, Any]]:
    """Where a search begins: for each backbone, best first, the params of its best probe (`params_of`).

    A point has no value on the axes that probes say nothing about: the search is free there.
    """
    axes = {name: axis for name, axis in sweep.trial.axes().items() if name in (*PROBED, "head")}
    if not axes:
        return []
    head = "probe" if "probe" in sweep.trial.choices("head") else "random"
    trials = [one.trial.model_copy(update={"head": head}) for one in _best_probes(run, sweep)]
    return [point for trial in trials if (point := params_of(trial, axes)) is not None]


def _not_probed(run: RunDir, sweep: Sweep) -> set[str]:
    """Backbones whose trials would begin with a probe that is missing, as a budget had no time for it."""
    if "probe" not in sweep.trial.choices("head"):
        return set()
    return {one.backbone for one in sweep.probes() if not run.trial(probe_id(one)).result_file.exists()}


def _best_probes(run: RunDir, sweep: Sweep) -> list[Probed]:
    """The best probe of each backbone, best first; among equals the one that the sweep names first."""
    found = []
    for probe in sweep.probes():
        out = run.trial(probe_id(probe))
        out.mirror.fetch(out.out_of_fold_file)
        result = out.result()
        if result is not None and result.status == "ok":
            predictions = read_predictions(out.out_of_fold_file)
            found.append(Probed(probe, metric(sweep.search.metric, predictions) or 0.0, predictions))
    best: dict[str, Probed] = {}
    for one in sorted(found, key=lambda one: -one.score):
        best.setdefault(one.trial.backbone, one)
    return list(best.values())


def _clearly_worse(best: Sequence[Probed], keep: int) -> dict[str, float]:
    """Backbone -> corrected p value that its AUC is below that of the first one; without the first `keep`.

    Compared on the images that all probes have learned from, which are the first ones of each.
    """
    count = min(len(one.out_of_fold) for one in best)
    p_fake = np.stack([one.out_of_fold.p_fake[:count] for one in best])
    worse = clearly_worse(best[0].out_of_fold.labels[:count], p_fake, CLEARLY_WORSE)
    return {best[row].trial.backbone: p for row, p in worse.items() if row >= keep}

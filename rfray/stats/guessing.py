"""What a row came to on test -> whether it is better than guessing: the one rule, for all that shows a detector."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from rfray.spec.sweep import CLASSES
from rfray.stats.clusters import share_intervals
from rfray.stats.metrics import THRESHOLD, confusion, measured
from rfray.stats.predictions import Predictions
from rfray.store.bundle_record import Ensemble

MORE = (
    "What may help: more training (a larger search.budget, more trials or epochs), pretrained weights, more images; "
    "`rfray audit` says what is wrong with those that are there."
)
SWAPPED = "An AUC below 0.5 means that the classes may be swapped in one of the folders: look at data.classes."
OTHER_THRESHOLD = (
    "It ranks images better than chance does, so what may help is another threshold (`ensemble.threshold: max_f1` or "
    "`youden`), or `trial.class_balance: weights`."
)

Figures = Mapping[str, float | None]
"""Columns of the leaderboard: tn, fp, fn, tp, auc, auc_low, auc_high; None where undefined."""


def constant_answer(figures: Figures) -> tuple[str, float] | None:
    """The class that is best called always, and in which share of the images that is right; None for fewer than two."""
    real, fake = _counts(figures)
    return (CLASSES[int(fake > real)], max(real, fake) / (real + fake)) if real and fake else None


def constant_figures(test: Predictions, groups: np.ndarray | None = None) -> dict[str, float | None]:
    """Columns of the leaderboard: what calling every image of test the larger class comes to; {} for fewer than two.

    Intervals are those of `share_intervals`, with `groups` (n,) int; the AUC has none, as it is 0.5 whatever the images
    are.
    """
    fakes, n = int(test.labels.sum()), len(test)
    if not 0 < fakes < n:
        return {}
    constant = Predictions(test.ids, test.labels, np.full(n, float(2 * fakes > n)))
    at = confusion(constant)
    is_fake, called, everything = test.labels == 1, constant.p_fake == 1, np.ones(n, bool)
    shares = {
        "accuracy": (called == is_fake, everything),
        "precision": (called & is_fake, called),
        "recall": (called & is_fake, is_fake),
        "fpr": (called & ~is_fake, ~is_fake),
    }
    ends: dict[str, float] = {}
    for name, (hits, of) in shares.items():
        ends[f"{name}_low"], ends[f"{name}_high"] = share_intervals(hits[None], of[None], groups)[0].tolist()
    return {**measured(constant, THRESHOLD), **asdict(at), "n": n, "fpr": at.fp / (n - fakes), **ends}


def no_better(figures: Figures, images: str = "test images") -> str | None:
    """What the first line says of a detector whose `images` do not show that it is better than guessing, else None.

    That is where the 95 % interval of its AUC holds 0.5 or lies below, or where it is right no more often than who
    always names the larger class. Of images of one class nothing can be said.
    """
    constant, (real, fake) = constant_answer(figures), _counts(figures)
    if constant is None:
        return None
    right = (figures.get("tn") or 0) + (figures.get("tp") or 0)
    auc, low, high = (figures.get(column) for column in ("auc", "auc_low", "auc_high"))
    by_chance = low is not None and low <= 0.5
    if not by_chance and right > max(real, fake):
        return None
    interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    ranks = "AUC undefined" if auc is None else f"AUC {auc:.3f}{interval}"
    help_ = OTHER_THRESHOLD if not by_chance else SWAPPED if high is not None and high < 0.5 else MORE
    return (
        f"No better than guessing on {real + fake:,.0f} {images}: {ranks}, accuracy {right / (real + fake):.1%}; "
        f"always saying {constant[0]} is right in {constant[1]:.1%}. {help_}"
    )


def bundle_warning(ensemble: Ensemble) -> str | None:
    """The same of a bundle, by what it came to on the test images of its run."""
    return no_better(ensemble.bundle.figures) if ensemble.bundle is not None else None


def _counts(figures: Figures) -> tuple[float, float]:
    """Real and fake images."""
    tn, fp, fn, tp = (figures.get(column) or 0 for column in ("tn", "fp", "fn", "tp"))
    return tn + fp, fn + tp

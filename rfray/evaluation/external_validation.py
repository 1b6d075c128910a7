"""Predictions of a bundle on images from elsewhere -> its leaderboard there, what it had claimed, and sentences.

Nothing is chosen on these images: the rows stand as the bundle has them, each at a threshold from the bundle's val; but
for the one threshold that says how much of a loss is calibration, which is marked as chosen here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.labelled_sets import LabelledSet
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.leaderboard import (
    BASELINE,
    CONFUSION,
    COUNT,
    LOWER_IS_BETTER,
    NUMBER,
    TEXT,
    escaped,
    markdown_table,
)
from rfray.evaluation.significance import INTERVALS, TESTS, WORDS, Evaluated, difference_text, significance
from rfray.stats.clusters import groups_of_images
from rfray.stats.guessing import constant_answer, constant_figures, no_better
from rfray.stats.metrics import METRICS, confusion, measured, metric
from rfray.stats.operating_point import OperatingPoint, choose_threshold, point_on
from rfray.stats.paired_tests import LEVEL
from rfray.stats.predictions import Predictions
from rfray.stats.unpaired_tests import auc_difference, auc_variance, independent_images, share_difference
from rfray.stats.voting import joined
from rfray.store.bundle_record import Ensemble
from rfray.store.evaluation_dir import Comparison, EvaluationRecord, Threshold

OF_POINT = ("fpr", "fpr_low", "fpr_high", "unsure_share", "unsure_error", "ece", "brier")
"""What `point_on` measures on images alone."""
ROW_COLUMNS = {
    **dict.fromkeys(("name", "kind", "status", "members"), TEXT),
    **dict.fromkeys(("accuracy", "precision", "recall", "f1", "auc"), NUMBER),
    **dict.fromkeys((*CONFUSION, "n", "n_groups"), COUNT),
    **dict.fromkeys(("threshold", *METRICS, *OF_POINT, *INTERVALS, *TESTS), NUMBER),
    **dict.fromkeys(WORDS, TEXT),
}
"""Column of an evaluation's leaderboard.csv -> its dtype: those of a run's, without what only a run has."""
DELONG = "DeLong's variances of two sets of images"
PROPORTIONS = "the z test of two proportions"
COMPARED = ("auc", "accuracy", "recall", "fpr")
"""Figures that stand beside what is claimed."""
CLAIMED_OF_THESE = (
    "These are the very images that the bundle's claims are of, so what stands beside the claims is no new evidence."
)
Figures = Mapping[str, float | None]
"""Columns of the leaderboard -> value; None where undefined."""
OF_ONE_CLASS = {0: ("fpr", "fpr_low", "fpr_high"), 1: ("recall", "recall_low", "recall_high")}
"""Label -> the figures that images of that class alone can give, besides counts."""


def evaluation_rows(
    ensemble: Ensemble, predicted: Mapping[str, Predictions], groups: "pd.Series[int] | None" = None
) -> pd.DataFrame:
    """One row a vote, then one a model, the members of the main vote first, then a baseline: ROW_COLUMNS.

    `predicted` has the predictions of each by name, all on the same images; a vote that is not in it has a row that
    says why. Models are at the main vote's threshold. Paired tests are against the ensemble and its best member.
    `groups`: id of an image -> number of its group; images of one group are one piece of evidence.
    """
    thresholds = {vote.name: vote.threshold for vote in ensemble.votes}
    votes = {vote.name: vote for vote in ensemble.votes}
    rows, rated = list[dict[str, Any]](), list[Evaluated]()
    for place, name in enumerate([*votes, *(one for one in predicted if one not in votes)]):
        kind: Literal["ensemble", "model"] = "ensemble" if name in votes else "model"
        row: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "members": " ".join(votes[name].members) if name in votes else "",
        }
        if (test := predicted.get(name)) is None:
            rows.append({**row, "status": "not predicted: weights of its members are not there"})
            continue
        point = OperatingPoint(thresholds.get(name, ensemble.threshold), votes[name].unsure if name in votes else None)
        counts = asdict(confusion(test, point.threshold)) | {"n": len(test), "threshold": point.threshold}
        rows.append({**row, "status": "ok", **measured(test, point.threshold), **counts, **point_on(test, point)})
        rated.append(Evaluated(name, kind, -float(place), point.threshold, test))
    sure = significance(rated, ensemble.name, groups)
    labels = {int(label) for label in np.unique(rated[0].test.labels)}
    if len(labels) == 2:
        constant = constant_figures(rated[0].test, groups_of_images(rated[0].test.ids, groups))
        answer = constant_answer(constant)
        rows.append({"name": f"always-{answer[0] if answer else ''}", "kind": BASELINE, "status": "ok", **constant})
    frame = pd.DataFrame(rows, columns=list(ROW_COLUMNS)).astype(ROW_COLUMNS)
    intervals = sure.reindex(frame["name"]).set_axis(frame.index)
    frame[sure.columns] = intervals.where(intervals.notna(), frame[sure.columns])  # the baseline has its own
    if len(labels) == 1:
        told = ("name", "kind", "status", "members", *CONFUSION, "n", "n_groups", "threshold")
        kept = {*OF_ONE_CLASS[labels.pop()], *told}
        frame[[column for column in ROW_COLUMNS if column not in kept]] = np.nan
    frame = frame.astype(ROW_COLUMNS)
    return frame.fillna({column: "" for column, dtype in ROW_COLUMNS.items() if dtype == TEXT})


def votes_of(ensemble: Ensemble, images: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Predictions]:
    """Name of each vote and each model -> its predictions of `images` (id, label).

    `scores` has the p_fake of each model under its id. A vote is left out where a member is not among them.
    """
    votes = [vote for vote in ensemble.votes if {*vote.members} <= {*scores}]
    said = {vote.name: joined(vote, scores[vote.members].to_numpy(float).T) for vote in votes}
    said |= {str(model): scores[model].to_numpy(float) for model in scores}
    ids, labels = images["id"].to_numpy(object), images["label"].to_numpy(np.int8)
    return {name: Predictions(ids, labels, p_fake) for name, p_fake in said.items()}


def corruption_columns(
    ensemble: Ensemble, images: pd.DataFrame, scores: pd.DataFrame, models: Sequence[str], frame: pd.DataFrame
) -> pd.DataFrame:
    """TEST_COLUMNS of each row of the leaderboard `frame`; nan where it has none, as a baseline.

    `scores` has the p_fake of each model under each corruption, in `<model> <corruption>`; `images` as for `votes_of`.
    """
    found: dict[str, dict[str, float | None]] = {}
    for corruption in CORRUPTION_NAMES:
        columns = {f"{model} {corruption}": model for model in models}
        votes = votes_of(ensemble, images, scores[[*columns]].rename(columns=columns))
        found[f"auc_{corruption}"] = {name: metric("auc", one) for name, one in votes.items()}
    table = pd.DataFrame(found, dtype=float).reindex(frame["name"]).set_axis(frame.index)
    worst = table.assign(auc=frame["auc"]).min(axis=1).where(table.notna().all(axis=1))
    return table.assign(**{TEST_COLUMNS[-1]: worst})


def figures_of(frame: pd.DataFrame, name: str) -> dict[str, float | None]:
    """The numbers of the row of this name; None where undefined."""
    row = frame[frame["name"] == name].iloc[0]
    numbers = [column for column in map(str, frame) if ROW_COLUMNS.get(column, NUMBER) != TEXT]
    return {column: None if pd.isna(row[column]) else float(row[column]) for column in numbers}


def evaluation_record(
    given: LabelledSet,
    bundle: str,
    vote: Predictions,
    figures: Figures,
    claimed: Figures,
    left_out: Sequence[str] | None,
    unreadable: int,
    further: Sequence[str],
) -> EvaluationRecord:
    """The record of what a vote came to on a set, with all that is said of it; `further` sentences stand last.

    `bundle` is its digest, `left_out` the kinds of the images that it has learned from, None where it can't say.
    """
    comparisons, best = compare(figures, claimed), best_threshold(vote)
    exact, alike = (None if left_out is None else left_out.count(kind) for kind in ("exact", "alike"))
    said = sentences(given.name, figures, claimed, comparisons, best)
    return EvaluationRecord(
        name=given.name,
        where=given.where,
        bundle=bundle,
        n=len(vote),
        real=int((vote.labels == 0).sum()),
        fake=int((vote.labels == 1).sum()),
        unreadable=unreadable,
        exact=exact,
        alike=alike,
        figures=dict(figures),
        claimed=dict(claimed),
        comparisons=comparisons,
        best=best,
        sentences=[*said, f"{learned_sentence(exact, alike)}.", *further],
    )


def compare(figures: Figures, claimed: Figures) -> dict[str, Comparison]:
    """Each of COMPARED beside what is claimed, for images without one in common; where both are defined.

    The variance of an AUC, and how many independent images a share is of, are those of their intervals: they know which
    images belong together.
    """
    found: dict[str, Comparison] = {}
    for name in COMPARED:
        columns = (name, f"{name}_low", f"{name}_high")
        if any(one.get(column) is None for one in (figures, claimed) for column in columns):
            continue
        here, other = ([one[column] or 0.0 for column in columns] for one in (figures, claimed))
        worth, test = (auc_variance, auc_difference) if name == "auc" else (independent_images, share_difference)
        made = test(here[0], worth(*here), other[0], worth(*other))
        found[name] = Comparison(here=here[0], claimed=other[0], low=made.low, high=made.high, p=made.p)
    return found


def best_threshold(vote: Predictions) -> Threshold | None:
    """The threshold with the greatest balanced accuracy on these images, the highest among equals."""
    if len(np.unique(vote.labels)) < 2:
        return None
    value = choose_threshold(vote, "youden")
    found = measured(vote, value, ("balanced_accuracy", "accuracy"))
    return Threshold(value=value, balanced_accuracy=found["balanced_accuracy"] or 0, accuracy=found["accuracy"] or 0)


def sentences(
    name: str,
    figures: Figures,
    claimed: Figures,
    comparisons: Mapping[str, Comparison],
    best: Threshold | None,
) -> list[str]:
    """What the figures on this set say: better than guessing or not, beside the claim, how much is calibration."""
    n, images = figures["n"] or 0, f"{name} ({figures['n'] or 0:,.0f} images)"
    if not claimed:
        said = [f"On {images} the ensemble is evaluated alone: its bundle claims no figures to stand beside."]
    elif "auc" in comparisons:
        auc, accuracy = comparisons["auc"], comparisons.get("accuracy")
        said = [f"On {images} the ensemble {_outcome(auc, 'auc')}: AUC {_text(auc, DELONG)}."]
        said += [f"Its accuracy is {_text(accuracy, PROPORTIONS)}."] if accuracy is not None else []
    else:
        one = "recall" if figures.get("recall") is not None else "fpr"
        title, kind = ("recall", "fake") if one == "recall" else ("false-positive rate", "real")
        found = comparisons.get(one)
        value = f"{figures[one]:.4f}" if found is None else f"{_text(found, PROPORTIONS)}: it {_outcome(found, one)}"
        said = [f"On {images}, all of them {kind}, the ensemble has a {title} of {value}. Nothing else can be said."]
    if (pieces := figures.get("n_groups") or n) < n:
        said.append(f"Images that belong together are one piece of evidence: {n:,.0f} are in {pieces:,.0f} groups.")
    if (guess := no_better(figures, f"images of {name}")) is not None:
        said.insert(0, guess)
    if best is not None and n:
        said.append(calibration_sentence(figures, claimed, best))
    return said


def calibration_sentence(figures: Figures, claimed: Figures, best: Threshold) -> str:
    """How much of what was lost a better threshold would bring back."""
    here, at, other = figures["balanced_accuracy"] or 0, figures["threshold"] or 0, claimed.get("balanced_accuracy")
    chosen = f"at {best.value:.4g}, a threshold chosen on these very images (so it flatters), it would be"
    if (share := calibration_share(figures, claimed, best)) is None:
        loss = ""
    else:
        loss = f" So {share:.0%} of the loss is calibration, and {1 - share:.0%} is that images are ranked worse."
    beside = f" against {other:.4f} that is claimed" if other is not None else ""
    found = f"balanced accuracy is {here:.4f}{beside}"
    return f"At its threshold, {at:.4g}, {found}; {chosen} {best.balanced_accuracy:.4f}.{loss}"


def calibration_share(figures: Figures, claimed: Figures, best: Threshold | None) -> float | None:
    """The share, in [0, 1], of the lost balanced accuracy that the best threshold brings back; None for no loss."""
    here, other = figures.get("balanced_accuracy"), claimed.get("balanced_accuracy")
    if best is None or here is None or other is None or other <= here:
        return None
    return float(np.clip((best.balanced_accuracy - here) / (other - here), 0, 1))


def learned_sentence(exact: int | None, alike: int | None) -> str:
    """How many images were left out, as the detector has learned from them."""
    if exact is None or alike is None:
        return (
            "Whether the detector has learned from some of these images was not looked for: its bundle has no "
            "fingerprints of them. The `rfray ensemble` of a new run writes them"
        )
    if not exact + alike:
        return "The detector has learned from none of these images"
    return (
        f"Left out, as the detector has learned from them: {exact + alike:,} ({exact:,} of the same file, {alike:,} of "
        "a picture alike)"
    )


def markdown_report(record: EvaluationRecord, frame: pd.DataFrame) -> str:
    """The evaluation as Markdown: what it says, and the leaderboard's main columns."""
    shown = ["name", "kind", "status", "accuracy", "precision", "recall", "f1", "auc", "auc_low", "auc_high", "fpr"]
    paragraphs = [
        f"# {escaped(record.name)}",
        f"Of {escaped(record.where)}: {record.n:,} images, {record.real:,} real and {record.fake:,} fake. Nothing "
        "was chosen on them; the positive class is fake; members are at the threshold of the ensemble. An empty cell: "
        "undefined.",
        *(escaped(sentence) for sentence in record.sentences),
        markdown_table(frame[[*shown, *CONFUSION, "n", "threshold"]]),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _outcome(one: Comparison, name: str) -> str:
    if one.p >= LEVEL:
        return "is not told apart from what it claims"
    better = one.here < one.claimed if name in LOWER_IS_BETTER else one.here > one.claimed
    return "does better than it claims" if better else "does worse than it claims"


def _text(one: Comparison, test: str) -> str:
    return difference_text((one.here, one.claimed, one.low, one.high, one.p, one.p), test, "")

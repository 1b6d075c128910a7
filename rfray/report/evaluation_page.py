"""An evaluation's record, rows and predictions -> its plots and report.html: one file that opens anywhere."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rfray.evaluation.attributes import AttributeGroups
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.external_validation import calibration_share
from rfray.evaluation.groups import Groups
from rfray.evaluation.leaderboard import as_text
from rfray.evaluation.mistakes import read_mistakes
from rfray.report import pictures, words
from rfray.report.pictures import Drawing, line_styles, styled, write_drawings
from rfray.report.plots import (
    CORRUPTION,
    CURVES,
    PRECISION_RECALL,
    ROC,
    confusion_file,
    confusion_matrix,
    corruption_curves,
    curves,
    reliability_diagram,
    score_histogram,
)
from rfray.spec.sweep import CLASSES
from rfray.stats.intervals import curve_bands
from rfray.stats.predictions import Predictions
from rfray.store.bundle_record import Ensemble, versions
from rfray.store.evaluation_dir import EvaluationDir, EvaluationRecord
from rfray.store.files import write_whole

SHOWN = (
    "name",
    "kind",
    "auc",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "fpr",
    "tn",
    "fp",
    "fn",
    "tp",
    "n",
    "threshold",
)
"""Columns of the leaderboard on the page; leaderboard.csv has all."""


def write_evaluation_page(
    out: EvaluationDir,
    record: EvaluationRecord,
    frame: pd.DataFrame,
    ensemble: Ensemble,
    predicted: Mapping[str, Predictions],
    groups: Groups | None,
    attributes: AttributeGroups,
    together: np.ndarray | None,
) -> None:
    """Writes plots/*.png and report.html. `groups` are those of subfolders.

    `together` (n,) int: images with the same number are one piece of evidence; None: each stands alone.
    """
    drawn = _write_plots(out, record, frame, ensemble, predicted, together)
    html = words.TEMPLATES.get_template("report/evaluation.html.j2").render(
        record=record,
        ensemble=ensemble,
        board=board_rows(frame),
        claims=claim_rows(record),
        share=calibration_share(record.figures, record.claimed, record.best),
        curves=[path for path in drawn if path.name in CURVES],
        confusions=[path for path in drawn if path.name.startswith(confusion_file("").removesuffix(".png"))],
        corruption=[path for path in drawn if path.name == CORRUPTION],
        robustness=words.corruption_sentence(frame, ensemble.name),
        mistakes=read_mistakes(out),
        gallery=out,
        image="image",
        classes=CLASSES,
        groups=groups,
        attributes=attributes,
        versions=versions(),
        words=words,
        pictures=pictures,
    )
    write_whole(out.report_html, html)


@styled
def _write_plots(
    out: EvaluationDir,
    record: EvaluationRecord,
    frame: pd.DataFrame,
    ensemble: Ensemble,
    predicted: Mapping[str, Predictions],
    together: np.ndarray | None,
) -> list[Path]:
    """The files written: curves where there are both classes, scores, reliability, a matrix of each row."""
    vote, images = predicted[ensemble.name], record.name
    styles = line_styles(ensemble.name, [name for name in predicted if name != ensemble.name])
    drawings: dict[str, Drawing] = {}
    if len(np.unique(vote.labels)) == len(CLASSES):
        roc, precision_recall = curve_bands(vote, together) or (None, None)
        shown = (
            curves(ROC, predicted, styles, roc, images),
            curves(PRECISION_RECALL, predicted, styles, precision_recall, images),
            score_histogram(ensemble, vote, images),
            reliability_diagram(ensemble.name, vote, images, together),
        )
        drawings |= zip(CURVES, shown, strict=True)
    else:
        drawings[CURVES[2]] = score_histogram(ensemble, vote, images)
    thresholds = frame.set_index("name")["threshold"]
    for name, predictions in predicted.items():
        bold = name == ensemble.name
        drawings[confusion_file(name)] = confusion_matrix(name, predictions, float(thresholds[name]), bold=bold)
    if TEST_COLUMNS[0] in frame and len(np.unique(vote.labels)) == len(CLASSES):
        drawings[CORRUPTION] = corruption_curves(frame.set_index("name"), styles, images)
    earlier = [file.name for file in out.plots_folder.glob("*.png")]
    return write_drawings(out.plots_folder, drawings, earlier)


def board_rows(frame: pd.DataFrame) -> words.Table:
    """The leaderboard as people read it, intervals beside the values."""
    text = as_text(frame)
    for column in ("auc", "accuracy", "precision", "recall", "fpr"):
        ends = text[f"{column}_low"] + " to " + text[f"{column}_high"]
        known = (frame[column].notna() & frame[f"{column}_low"].notna()).to_numpy()
        text[column] = np.where(known, text[column] + " (" + ends + ")", text[column])
    failed = (text["status"] != "ok").to_numpy()
    text["kind"] = np.where(failed, text["status"], text["kind"])
    return [*SHOWN], text[[*SHOWN]].to_numpy().tolist()


def claim_rows(record: EvaluationRecord) -> words.Table:
    """Each figure here, the same as claimed, and their difference with interval and p."""
    columns = ["figure", "here", "claimed", "difference (95 % interval)", "p"]
    rows = [
        [
            words.METRIC_WORDS[name],
            f"{one.here:.4f}",
            f"{one.claimed:.4f}",
            f"{one.here - one.claimed:.4f} ({one.low:.4f} to {one.high:.4f})",
            "< 0.0001" if one.p < 0.0001 else f"{one.p:.4f}",
        ]
        for name, one in record.comparisons.items()
    ]
    return columns, rows

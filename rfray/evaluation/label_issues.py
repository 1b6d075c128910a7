"""A run's out-of-fold predictions -> label-issues.csv: the training images whose labels are least believed.

The judge is the best probe: it predicts every train image that it was learned from out of fold, and those of val, from
which it has not learned; but not where val is of sources that are held out. Nothing is ever deleted by it: a person
looks through the list, and gives what is wrong to `data.leave_out`.
"""

from dataclasses import dataclass

import pandas as pd

from rfray.data.listing import counted
from rfray.stats.confident_learning import doubt_labels
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.csv_files import csv_text
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir

COLUMNS = {
    **dict.fromkeys(("path", "folder", "part"), "string"),
    "label": "Int8",
    **dict.fromkeys(("p_fake", "self_confidence", "margin"), "float64"),
}
"""Column of label-issues.csv -> its pandas dtype. path and folder name the image, part is train or val, label 0 real
and 1 fake; self_confidence is the probability of that label, margin how much likelier the other one is."""
WEAK = 0.95
"""AUC of a judge below which its doubts are said to be weak: with 5 % of the labels flipped, judges of 0.89 and 0.66
expected 11 and 37 % to be wrong (benchmarks/README.md)."""


@dataclass(frozen=True)
class LabelIssues:
    """The labels of the training images, as the best probe sees them."""

    judge: str
    """Id of the probe."""
    backbone: str
    auc: float
    """Of the judge, on the images that it judges, by their labels as they are."""
    images: int
    """How many it judges."""
    training_images: int
    """How many there are in train and val."""
    expected: tuple[float, float]
    """How many of the labels real, and of the labels fake, are expected to be wrong (confident learning)."""
    table: pd.DataFrame
    """COLUMNS, one row a label that looks wrong, the least believed first."""

    @property
    def sentence(self) -> str:
        """How many labels are expected to be wrong, and how far that is to be believed."""
        real, fake = (round(one) for one in self.expected)
        those = (
            f"all {self.images:,} training images"
            if self.images == self.training_images
            else f"{self.images:,} of {counted(self.training_images, 'training image')}"
        )
        judged = (
            f"the probe of {self.backbone} on {those}, none of which its head had learned from (AUC {self.auc:.3f})"
        )
        if self.table.empty:
            return f"No label looks wrong to {judged}."
        weak = "; so weak a judge doubts many labels that are right" if self.auc < WEAK else ""
        about = f"{'Up to' if weak else 'About'} {counted(real + fake, 'label')} may be wrong"
        return (
            f"{about} ({real:,} of images labelled real, {fake:,} labelled fake), by confident learning and "
            f"{judged}{weak}. The {len(self.table):,} least believed are in label-issues.csv: look at them, and leave "
            "out what is wrong with `data.leave_out`."
        )


def find_label_issues(run: RunDir) -> LabelIssues | None:
    """The labels that look wrong; None where no probe has judged both classes. Raises RunError for a damaged file."""
    found = _best_probe(run)
    if found is None:
        return None
    result, judged, auc = found
    doubts = doubt_labels(judged["label"].to_numpy(), judged["p_fake"].to_numpy())
    table = judged.assign(self_confidence=doubts.self_confidence, margin=doubts.margin)
    real, fake = doubts.expected_wrong.tolist()
    return LabelIssues(
        judge=result.id,
        backbone=result.trial.backbone,
        auc=auc,
        images=len(judged),
        training_images=run.training_images(),
        expected=(real, fake),
        table=table.iloc[doubts.doubted].reset_index(drop=True)[list(COLUMNS)].astype(COLUMNS),
    )


def write_label_issues(run: RunDir) -> LabelIssues | None:
    """Writes label-issues.csv, or deletes it where no probe has judged the images. Raises as `find_label_issues`."""
    issues = find_label_issues(run)
    if issues is None:
        if run.label_issues_csv.exists():
            run.vouch({run.label_issues_csv: None})
            run.mirror.remove([run.label_issues_csv])
    else:
        run.write_vouched(run.label_issues_csv, csv_text(issues.table).encode())
    return issues


def _best_probe(run: RunDir) -> tuple[TrialResult, pd.DataFrame, float] | None:
    """The probe with the highest AUC on the images that it judges, these, and that AUC.

    Their columns: path, folder, part, label, p_fake.
    """
    best: tuple[TrialResult, pd.DataFrame, float] | None = None
    folders = run.catalog()[["path", "folder", "part"]] if run.catalog_file.exists() else None
    for out in run.probes():
        result = out.result()
        if result is None or result.status != "ok" or folders is None:
            continue
        files = {"train": out.out_of_fold_file, "val": out.predictions_file("val")}
        if run.sweep().data.held_out:  # val is of sources that are strange to it, which is no doubt of their labels
            del files["val"]
        tables = []
        for part, file in files.items():
            said = read_predictions(file)
            tables.append(pd.DataFrame({"path": said.ids, "part": part, "label": said.labels, "p_fake": said.p_fake}))
        judged = pd.concat(tables, ignore_index=True).merge(folders, on=["path", "part"])
        auc = metric("auc", Predictions(*(judged[name].to_numpy() for name in ("path", "label", "p_fake"))))
        if auc is not None and (best is None or auc > best[2]):
            best = result, judged, auc
    return best

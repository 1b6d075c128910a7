"""evaluations/<name>/: the files of one evaluation of a bundle on images from elsewhere, and its record."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rfray.errors import RunError
from rfray.spec.schema_base import Strict
from rfray.store.files import below
from rfray.store.records import Digest, FromZero, Name, find_record

EVALUATIONS, SUMMARY = "evaluations", "evaluations.csv"
"""The folder of them, in a run or in the working folder, and the table in it that has a row each."""
MEAN, WORST = "mean", "worst"
"""Names of the rows at the bottom of SUMMARY."""
Figure = Annotated[float, Field(ge=0)] | None
"""A metric, a count or an end of an interval; None: undefined."""


class Comparison(Strict):
    """A figure on these images beside what the bundle claims, which it has from the test images of its run."""

    here: float
    claimed: float
    low: float
    high: float
    """Of the 95 % interval of here - claimed."""
    p: float
    """Two-sided: of the AUC by DeLong's variances, of the others by the z test of two proportions."""


class Threshold(Strict):
    """The threshold that would have served best: chosen on these very images, so that it flatters."""

    value: Annotated[float, Field(ge=0)]
    """The highest with the greatest balanced accuracy."""
    balanced_accuracy: float
    accuracy: float


class EvaluationRecord(Strict):
    """evaluation.json: what one evaluation came to; written last."""

    schema_version: Literal[1] = 1
    name: Name
    where: str
    """The folder, the table or the address that was evaluated."""
    bundle: Digest
    """Of its ensemble.json."""
    n: FromZero
    real: FromZero
    fake: FromZero
    """Images that count."""
    unreadable: FromZero
    """Files that could not be read or predicted."""
    exact: FromZero | None
    alike: FromZero | None
    """Left out, as the detector has learned from the same file or a picture alike; None: the bundle can't say."""
    figures: dict[str, Figure]
    """Columns of the leaderboard -> value, of the main vote."""
    claimed: dict[str, Figure]
    """The same of the bundle's test images."""
    comparisons: dict[str, Comparison]
    """auc, accuracy, recall, fpr -> the figure beside what is claimed, where both are defined."""
    best: Threshold | None
    """None where a class is missing."""
    sentences: list[str]
    """The same in words."""


class ShardsPlan(Strict):
    """plan.json: what the shards of predictions are of."""

    bundle: Digest
    """Of its ensemble.json."""
    where: str
    """The folder, the table or the address that is evaluated."""
    images: Digest
    """Of the list of its images: their names, labels, sizes and times."""
    further: list[Name]
    """Ids of models that are not in the bundle, but predict, too."""
    files: Digest
    """Of the table of files, which says what is in which shard."""


class EvaluationDir:
    """evaluations/<name>: its files."""

    def __init__(self, folder: Path, name: str) -> None:
        """`folder` is that of all evaluations."""
        self.path = below(folder, name)
        self.name = name
        self.record_file = self.path / "evaluation.json"
        self.leaderboard_csv = self.path / "leaderboard.csv"
        self.groups_csv = self.path / "groups.csv"
        self.report_md = self.path / "report.md"
        self.report_html = self.path / "report.html"
        self.unreadable_csv = self.path / "unreadable.csv"
        self.left_out_csv = self.path / "left-out.csv"
        self.mistakes_file = self.path / "mistakes.json"
        self.plots_folder = self.path / "plots"
        self.mistakes_folder = self.plots_folder / "mistakes"
        self.shards_folder = self.path / ".shards"
        self.corrupted_folder = self.path / ".corrupted"
        """What was predicted of pictures as they are, and under corruption; kept for the next time."""

    def results(self) -> list[Path]:
        """What an evaluation came to, the record first, without the gallery of mistakes, which is its own record."""
        tables = (self.leaderboard_csv, self.groups_csv, self.left_out_csv, self.unreadable_csv)
        found = (*self.predictions_files(), *tables, self.report_md, self.report_html, *self.plots_folder.glob("*.png"))
        return [self.record_file, *found]

    def check_free(self, where: str) -> None:
        """Raises RunError where this is the evaluation of another folder, or one that was begun; or is damaged."""
        plan = self.shards_folder / "plan.json"
        records = (
            find_record(self.record_file, EvaluationRecord, remedy="delete its folder, and evaluate again"),
            find_record(plan, ShardsPlan, remedy=f"delete {self.shards_folder}, and all is predicted again"),
        )
        for known in records:
            if known is not None and known.where != where:
                named = f"name this one: {self.name}-2={where}"
                raise RunError(f"{self.path} is an evaluation of {known.where}; {named}")

    def predictions_file(self, name: str) -> Path:
        """<name>-predictions.parquet of a vote or a member: id, label, p_fake."""
        return self.path / f"{name}-predictions.parquet"

    def predictions_files(self) -> list[Path]:
        """Those that are there."""
        return sorted(self.path.glob("*-predictions.parquet"))

    def mistake_picture(self, number: int, *, evidence: bool = False) -> Path:
        """plots/mistakes/<number>.jpg: a wrongly classified image; <number>-evidence.jpg: where that was seen in it."""
        return self.mistakes_folder / f"{number:02d}{'-evidence' if evidence else ''}.jpg"

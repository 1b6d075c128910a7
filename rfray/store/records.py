"""a JSON file of a run <-> its typed record; each carries its own digest, by which damage is noticed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from rfray.errors import RunError, first_line
from rfray.spec.schema_base import Strict, allowed, rule
from rfray.spec.trial import Trial
from rfray.store.files import read_json, write_whole
from rfray.store.storage import Mirror

Record = TypeVar("Record", bound=BaseModel)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LONGEST_NAME = 200
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
"""Of a trial, a vote or a file: one part of a path, which can't lead out of its folder."""
Digest = Annotated[str, rule("a SHA-256, 64 hex digits", re.compile("[0-9a-f]{64}").fullmatch)]
"""SHA-256 of a file's bytes."""
FromZero = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that a float can be, too."""
FromOne = Annotated[int, Field(ge=1, le=2**53)]
Score = Annotated[float, Field(ge=0, le=1 + 1e-9)]
"""Of a metric; a sum of its parts may be rounded to a little more than 1."""
Label = Annotated[int, Field(ge=0, le=1)]
"""0 real, 1 fake."""
Fold = tuple[FromOne, Annotated[int, Field(ge=2)]]
"""Its number, from 1, and how many there are (`data.folds`, or the sources that `search.judge: unseen` leaves out)."""

Grade = Literal["note", "warning", "error"]
"""note: worth knowing; warning: the results may mislead; error: they will, and `rfray tune` stops."""


class TrialStart(Strict):
    """trial.json: what the trial was asked to be."""

    id: Name
    number: FromZero
    """Position in the order in which the search proposed the trials, from 0."""
    results_known: FromZero
    """How many trials had ended when it was proposed: with `TrialResult.position`, the search can be retraced."""
    epochs_known: FromZero = 0
    """How many epochs, of all trials, had been judged by then; the search learns from them where trials pause."""
    trial: Trial
    repeats: Name | None = None
    """Id of the finalist that is trained again."""
    fold: Fold | None = None
    """The fold of the training images that this one is judged on, or the sources that it leaves out; None: val."""
    keep_epoch: FromOne | None = None
    """The epoch after which it ends, and whose weights it keeps: of a fold the finalist's best one on val, so that
    nothing is chosen on the images that it is judged by. None: it keeps its best one."""
    micro_batch: FromOne | None = None
    """Images that fit into memory at once, where that was fewer than `trial.batch_size`; gradients are accumulated."""


class TrialResult(Strict):
    """result.json: how the trial ended. Written last, by the driver; a trial without it is not finished."""

    id: Name
    position: FromZero
    """Position in the order in which the trials ended, from 0."""
    kind: Literal["model", "probe", "fold"] = "model"
    """model: trained; probe: a frozen backbone under a head that was learned; fold: trained on all folds but one."""
    status: Literal["ok", "failed"]
    reason: str | None = None
    """First line of the error of a failed trial."""
    trial: Trial
    """Its setting; of a probe, see `Sweep.probe`."""
    metric: str
    """Name of the val metric."""
    score: Score | None = None
    """Best value of the val metric, in [0, 1]."""
    best_epoch: FromOne | None = None
    """Epoch (from 1) that the weights and the val predictions come from."""
    epochs: FromZero
    """Epochs that were trained."""
    seconds: float
    """Time spent in those epochs."""
    wait_share: float | None = None
    """Share of the training time in which the model waited for images, in [0, 1]; None where no epoch was trained."""
    node: str
    """Host that the trial ran on last."""
    files: dict[Name, Digest]
    """The trial's other files, by which damage is noticed."""
    repeats: Name | None = None
    """Id of the finalist that was trained again; None for a trial of the search."""
    fold: Fold | None = None
    """The fold that it was judged on, or the sources that it left out; None: val."""
    taken_from: str | None = None
    """Folder of the trial of an earlier run (`search.warm_start`) that this one was taken over from, not trained."""


class LeftOutPair(Strict):
    """A source of fakes and one of photographs, told apart by a head that has learned from neither."""

    fake: str
    """Source of the fakes; "" for a share of all fakes, where no two sources of them are known."""
    real: str
    """Source of the photographs; "" for a share of all."""
    auc: Score
    low: Score
    high: Score
    """Its 95 % interval (DeLong; Obuchowski where images belong together)."""
    fakes: FromOne
    reals: FromOne
    """Images it was measured on."""


class LeftOut(Strict):
    """left-out.json of a probe: how good a head on its features is on sources that it has not learned from."""

    reason: str = ""
    """Why there are no pairs; "" where there are."""
    seen: Score | None = None
    """AUC of such a head on other images of the sources that it has learned from; None without pairs."""
    seen_low: Score | None = None
    """Lower end of its 95 % interval; None without pairs."""
    pairs: tuple[LeftOutPair, ...] = ()
    few: dict[str, FromOne] = Field(default={})
    """Sources that had too few images to be left out -> how many."""
    more: FromZero = 0
    """Further sources, with fewer images than those that were left out."""

    @property
    def mean(self) -> float | None:
        """Mean AUC over the pairs."""
        return sum(pair.auc for pair in self.pairs) / len(self.pairs) if self.pairs else None

    @property
    def worst(self) -> LeftOutPair | None:
        """The pair with the lowest AUC."""
        return min(self.pairs, key=lambda pair: pair.auc, default=None)


class Digests(Strict):
    """digests.json: what files were when rfray wrote them, of which no other record says so: the top of the chain.

    Nothing in a run says what this file itself has to be, but for the digest in it, which anybody can make.
    """

    files: dict[str, list[Digest]]
    """Path below the run -> SHA-256; two where a command was ended between this record and the file."""


class EarlierTrial(Strict):
    """A trial of an earlier run, and what it is to a sweep that starts warm."""

    run: str
    """Path or address of the earlier run."""
    id: Name
    """What the trial is called there."""
    trial: Trial
    score: Score
    """Best value of that run's val metric, in [0, 1]."""
    use: Literal["taken over", "score", "setting"]
    """taken over: it is one of this run's own; score: the search knows its score; setting: the search tries its values
    on the axes first, as its score is one of other images or another metric."""


class WarmStart(Strict):
    """warm_start.json: what a sweep has from earlier runs; the search can be retraced without them."""

    trials: list[EarlierTrial] = Field(default=[])
    """Those taken over in the order of their numbers here, from 0."""
    lines: list[str] = Field(default=[])
    """What was used, for people: one on each earlier run."""

    @property
    def taken_over(self) -> list[EarlierTrial]:
        """The trials with the first numbers of this run."""
        return [one for one in self.trials if one.use == "taken over"]


class Measured(Strict):
    """What it takes to train one backbone at one image size, as measured on one kind of GPU, or on CPUs."""

    setting: str
    """Digest of the trial that was trained for it."""
    backbone: str
    image_size: FromOne
    device: str
    """Name of the GPU, or cpu."""
    device_memory: FromZero
    """Bytes that one such GPU has; 0 on CPUs."""
    memory: FromZero
    """Bytes of it that the training took at the most, all that its process takes there included; 0 on CPUs."""
    host_memory: FromOne
    """Bytes of the node's memory that its process took at the most."""
    micro_batch: FromOne
    """Images that were computed at once: a batch, or fewer where so many did not fit."""
    images_per_second: float = Field(gt=0)
    """Of training, without augmentation."""


class Measurements(Strict):
    """measured.json: what `resources: auto` goes by, so that a later start need not measure again."""

    measured: list[Measured]


class Spent(Strict):
    """budget.json: what the starts of a sweep with a `search.budget` have used so far."""

    clock: float = Field(default=0, ge=0)
    """Seconds of the command."""
    gpus: float = Field(default=0, ge=0)
    """Seconds of trials x the GPUs that they had."""


class Finding(Strict):
    """One thing that was found."""

    grade: Grade
    code: str
    """Short name of the rule, for scripts."""
    sentence: str
    """What was found, with its numbers, for people who have never seen the code."""
    what_to_do: str
    """The remedy: the setting of the sweep where there is one."""


class Count(Strict):
    """How many images of one class there are in one part."""

    part: str
    """train, val, test, test-<name> or left out; train or test… where folders were audited without dividing them."""
    label: Label
    """0 real, 1 fake."""
    images: FromZero
    groups: FromZero
    """Different subfolders; 0 where there are none."""


class GroupCount(Strict):
    """How many images of one class there are in one subfolder."""

    group: str
    label: Label
    images: FromZero


class Spread(Strict):
    """Least, middle and greatest value."""

    min: float
    median: float
    max: float


class Sizes(Strict):
    """How large the files of one class are."""

    label: Label
    width: Spread
    """Pixels."""
    height: Spread
    """Pixels."""
    file_bytes: Spread
    bytes_per_pixel: Spread
    formats: dict[str, FromZero]
    """File format -> images, most frequent first."""


class Pairs(Strict):
    """How many pairs of similar images of one kind there are within a part, or between two."""

    kind: str
    """exact (same file), re-encoded (same picture, other file), mirrored or crop (one is a piece of the other)."""
    first: str
    second: str
    """Parts of the two images, in alphabetical order."""
    across_labels: bool
    """Whether one is called real and the other fake."""
    pairs: FromZero
    examples: tuple[tuple[str, str], ...]
    """Paths of the first few pairs, below the data folder, the image in `first` first."""


class Unreadable(Strict):
    """A file that could not be read."""

    path: str
    reason: str


class FeatureAuc(Strict):
    """How well one property of the files alone predicts the label."""

    feature: str
    auc: float
    low: float
    high: float
    remedy: str
    """What takes the property away from a model."""


class MetadataBaseline(Strict):
    """How well the files' properties predict the label without looking at a single pixel."""

    auc: float
    """Cross-validated; 0.5 is chance."""
    low: float
    high: float
    """Its 95 % interval."""
    n: FromZero
    """Images it was measured on."""
    folds: FromZero
    features: tuple[FeatureAuc, ...]
    """Each property alone, measured the same way, best first."""
    sentence: str


class Audit(Strict):
    """audit.json."""

    version: Literal[1] = 1
    images: FromZero
    counts: tuple[Count, ...]
    groups: tuple[GroupCount, ...]
    """The largest subfolders."""
    sizes: tuple[Sizes, ...]
    """Of each class that has images, real first."""
    unreadable_count: FromZero
    unreadable: tuple[Unreadable, ...]
    """The first few."""
    duplicates: tuple[Pairs, ...]
    baseline: MetadataBaseline | None
    """None where a class has too few images for a cross-validation."""
    findings: tuple[Finding, ...]
    """Gravest first."""

    def graded(self, grade: Grade) -> list[Finding]:
        """The findings of one grade."""
        return [finding for finding in self.findings if finding.grade == grade]

    @property
    def stamp(self) -> str:
        """What every leaderboard of these images must say; "" where there is no error."""
        return " ".join(finding.sentence for finding in self.graded("error"))


class Start(NamedTuple):
    """One line of starts.csv: a process began with a trial."""

    session: str
    """Changes with every start of the sweep."""
    epochs: str
    """How many epochs were done before."""
    host: str
    process: str
    token: str
    """Whoever wrote the last one may write into the trial's folder."""


def record_bytes(record: BaseModel) -> bytes:
    """A record as JSON together with its digest."""
    fields = record.model_dump(mode="json")
    return json.dumps({**fields, "sha256": _digest(fields)}, indent=1).encode()


def write_record(path: Path, record: BaseModel, mirror: Mirror | None = None) -> None:
    """Writes a record, and sends it to the address that `mirror` stands for."""
    write_whole(path, record_bytes(record))
    if mirror is not None:
        mirror.send(path)


def read_record(path: Path, model: type[Record], remedy: str = "") -> Record:
    """Reads what `write_record` wrote. Raises RunError (with the remedy) where it is missing or damaged."""
    try:
        fields = read_json(path)
        if not isinstance(fields, dict) or fields.pop("sha256", None) != _digest(fields):
            raise ValueError("its content does not match its digest")
        return model.model_validate_json(json.dumps(fields))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except ValueError as error:
        reason = _refused(error) if isinstance(error, ValidationError) else first_line(error)
        raise RunError(f"{path} is damaged: {reason}{f'; {remedy}' if remedy else ''}") from None


def _refused(error: ValidationError) -> str:
    """The first key that a record may not have as it is, what is given there, and what is allowed."""
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))}: given {ascii(detail['input'])[:80]}; allowed: {allowed(detail)}"


def find_record(path: Path, model: type[Record], mirror: Mirror | None = None, remedy: str = "") -> Record | None:
    """The same, fetched from the address that `mirror` stands for; None where there is no such file."""
    if mirror is not None:
        mirror.fetch(path)
    return read_record(path, model, remedy) if path.exists() else None


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

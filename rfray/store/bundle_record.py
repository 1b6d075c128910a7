"""ensemble.json -> `Ensemble`: how trials vote, and what makes the folder around it, the bundle, stand alone."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rfray.spec.schema_base import EACH_ONCE, Problems, Strict, refusing
from rfray.spec.sweep import Reencode
from rfray.spec.trial import Trial
from rfray.store.files import below, file_digest
from rfray.store.records import Digest, Name

ENSEMBLE_FILE = "ensemble.json"
"""Of a bundle, which is the folder ensemble/ of a run or a copy of it."""
MEMBER_FILES = ("config.json", "model.safetensors")
"""Of each member of a bundle, in members/<number>, from 1: timm's own format."""
HEAD_FILE = "head.safetensors"
"""Beside them where the member has a probe's head: that head, while theirs is the backbone."""


LEARNED_FILE = "learned-images.safetensors"
"""The fingerprints of the images that a bundle has learned from; bundles of earlier versions have none."""
ABOVE_ALL = math.nextafter(1, 2)
"""The highest threshold: no probability is that high."""
SUM_ERROR = 1e-6
"""What a sum of rounded shares may differ from 1 by; that of exact ones differs by less than 1e-12."""
Temperature = Annotated[float, Field(gt=0)]


class Member(Strict):
    """One model of the bundle. How it normalises its pixels is in its config.json, as timm has it."""

    id: Name
    """Of the trial that trained it."""
    weights: Digest
    """Of that trial's file of weights."""
    trial: Trial
    """How its model is built, trained and predicts (`tta`: none or flip); of `pretrained`, whether, not which file."""


class Bundle(Strict):
    """What ensemble/ has beside the vote. Its members are those of the vote, in the same order."""

    members: list[Member]
    reencode: Reencode | None
    """What every picture is brought through before a member's own geometry."""
    files: dict[str, Digest]
    """members/<number>/config.json, model.safetensors and maybe head.safetensors, numbers from 1, and LEARNED_FILE
    where there is one -> SHA-256."""
    figures: dict[str, Annotated[float, Field(ge=0)] | None]
    """Metrics, counts and 95 % intervals of the vote on test: the columns of its row on the leaderboard."""
    test_digest: str
    """Of test: every image's path, label and content."""
    audit_stamp: str
    """What has to stand beside every figure, as the audit found errors in the images; else ""."""
    versions: dict[str, str]
    """Package -> version that it was made with."""


class Vote(Strict):
    """How members' probabilities become one, and from where on that one is called fake."""

    name: Name
    """Of its row on the leaderboard and its files: ensemble for the soft vote, ensemble-<method> for others."""
    members: Annotated[list[Name], EACH_ONCE] = Field(min_length=1)
    """Ids of the trials that vote, best first."""
    weights: list[Annotated[float, Field(gt=0, le=1)]]
    """Share of each member in the vote, in the same order; they sum to 1."""
    temperatures: list[Temperature]
    """What each member's logit is divided by before it votes; 1 leaves it as it is."""
    temperature: Temperature = 1.0
    """What the logit of the vote is divided by."""
    threshold: Annotated[float, Field(ge=0, le=ABOVE_ALL)]
    """An image is called fake where p_fake >= this; above 1: none is."""
    unsure: tuple[float, float] | None = None
    """No verdict where low <= p_fake < high, around the threshold. None: no error rate was asked for, or reached."""
    val_score: float | None
    """The vote's own value of the val metric on val, in [0, 1]; None where it is undefined."""

    @refusing
    def _agree(self) -> Problems:
        for key in ("weights", "temperatures"):
            if len(given := getattr(self, key)) != len(self.members):
                yield (key,), given, f"{len(self.members)} numbers, as there are so many members"
        if abs(math.fsum(self.weights) - 1) > SUM_ERROR:
            yield ("weights",), self.weights, "numbers that sum to 1"
        if self.unsure and not 0 <= self.unsure[0] <= self.threshold <= self.unsure[1] <= ABOVE_ALL:
            yield ("unsure",), self.unsure, "[low, high] with 0 <= low <= threshold <= high"


class Ensemble(Vote):
    """ensemble.json: everything that turns the members' weights into one detector."""

    schema_version: Literal[3] = 3
    classes: list[str] = Field(min_length=2, max_length=2)
    """Class names; the position is the label."""
    metric: str
    """Name of the val metric, by which the members were chosen."""
    choose_by: Literal["score", "worst"] = "score"
    """By its value on val, or by the worst of its values there under corruption."""
    others: list[Vote]
    """What this vote is compared with: the other ways to vote."""
    bundle: Bundle | None = None
    """What stands beside it in the folder, and how good it is; None until all of that is there."""

    @property
    def chosen_by(self) -> str:
        """The same in words."""
        return self.metric if self.choose_by == "score" else f"the worst {self.metric} under corruption"

    @property
    def votes(self) -> list[Vote]:
        """The vote itself, then the others."""
        return [self, *self.others]


def vote_name(method: str) -> str:
    """What the vote by this method is called on the leaderboard and in its files' names."""
    return "ensemble" if method == "soft" else f"ensemble-{method}"


def member_files(members: Sequence[Member]) -> list[str]:
    """The files that a bundle of these members has."""
    return [
        f"members/{number}/{name}"
        for number, member in enumerate(members, start=1)
        for name in (*MEMBER_FILES, *([HEAD_FILE] if member.trial.head == "probe" else []))
    ]


def file_problems(folder: Path, files: Mapping[str, str], members: Sequence[Member]) -> list[str]:
    """Every way in which a bundle's files are not those that `files` lists; none where all are what they were."""
    wanted = [*member_files(members), *({LEARNED_FILE} & {*files})]
    others = sorted({*files} - {*wanted})
    problems = [f"{ENSEMBLE_FILE} names a file that is none of a bundle's: {name!r}" for name in others]
    for name in wanted:
        file = below(folder, name)
        if name not in files:
            problems.append(f"{ENSEMBLE_FILE} has no digest of {name}")
        elif not file.is_file() or file.resolve() != folder.resolve() / name:
            problems.append(f"{name} is missing, or no plain file of this folder")
        elif file_digest(file) != files[name]:
            problems.append(f"{name} is damaged: its content does not match its digest")
    return problems


def versions() -> dict[str, str]:
    """Python's, and those of the installed packages that a result depends on most."""
    packages = ("rfray", "torch", "timm", "ray", "albumentations", "scikit-learn")
    return {"Python": platform.python_version(), **{name: version(name) for name in packages}}

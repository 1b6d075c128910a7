"""Trials that vote, members/ -> `Bundle`: what makes ensemble.json, and the folder around it, stand alone."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rfray.spec.schema_base import Strict
from rfray.spec.sweep import Reencode
from rfray.spec.trial import Trial
from rfray.store.files import file_digest
from rfray.store.run_dir import ENSEMBLE_FILE, HEAD_FILE, MEMBER_FILES

VERSIONS_OF = ("rfray", "torch", "timm", "ray", "albumentations", "scikit-learn")
"""Packages whose versions a result depends on most."""


class Member(Strict):
    """One model of the bundle. How it normalises its pixels is in its config.json, as timm has it."""

    id: str
    """Of the trial that trained it."""
    weights: str
    """SHA-256 of that trial's file of weights."""
    trial: Trial
    """How its model is built, was trained and predicts (`tta` is none or flip); `pretrained` says whether, but not from
    which file."""


class Bundle(Strict):
    """What ensemble/ has beside the vote. Its members are those of the vote, in the same order."""

    members: list[Member]
    reencode: Reencode | None
    """What every picture is brought through before a member's own geometry."""
    files: dict[str, str]
    """members/<number>/config.json, model.safetensors and maybe head.safetensors, numbers from 1 -> SHA-256."""
    figures: dict[str, float | None]
    """Metrics, counts and 95 % intervals of the vote on test: the columns of its row on the leaderboard."""
    test_digest: str
    """Of test: every image's path, label and content."""
    audit_stamp: str
    """What has to stand beside every figure, as the audit found errors in the images; else ""."""
    versions: dict[str, str]
    """Package -> version that it was made with."""


def member_file(number: int, name: str) -> str:
    """How a bundle calls a file of its `number`-th member, from 1."""
    return f"members/{number}/{name}"


def member_files(members: Sequence[Member]) -> list[str]:
    """The files that a bundle of these members has."""
    return [
        member_file(number, name)
        for number, member in enumerate(members, start=1)
        for name in (*MEMBER_FILES, *([HEAD_FILE] if member.trial.head == "probe" else []))
    ]


def digests(folder: Path, members: Sequence[Member]) -> dict[str, str]:
    """`Bundle.files` of a folder with these members."""
    return {name: file_digest(folder / name) for name in member_files(members)}


def file_problems(folder: Path, files: Mapping[str, str], members: Sequence[Member]) -> list[str]:
    """Every way in which a bundle's files are not those that `files` lists; none where all are what they were."""
    wanted = member_files(members)
    problems = [
        f"{ENSEMBLE_FILE} names a file that is none of a bundle's: {name!r}" for name in files if name not in wanted
    ]
    for name in wanted:
        file = folder / name
        if name not in files:
            problems.append(f"{ENSEMBLE_FILE} has no digest of {name}")
        elif not file.is_file() or file.is_symlink():
            problems.append(f"{name} is missing, or no plain file")
        elif file_digest(file) != files[name]:
            problems.append(f"{name} is damaged: its content does not match its digest")
    return problems


def versions() -> dict[str, str]:
    """Python's and those of VERSIONS_OF, as they are installed."""
    return {"Python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}}

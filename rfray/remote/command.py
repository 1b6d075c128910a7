"""what was typed here -> `RemoteCommand`: the same command for a job on a cluster, and the files that it needs."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfray.progress.events import rfray_version
from rfray.spec.sweep_file import SweepFile
from rfray.store.files import file_digest

WEIGHTS = "weights"
"""Where weights that come with a job are put, below the folder that jobs work in."""


@dataclass(frozen=True)
class RemoteCommand:
    """A command of rfray that runs as a job."""

    verb: str
    run: str
    """The run folder, as it is called on the cluster."""
    words: tuple[str, ...] = ()
    """Arguments and options."""
    sweep: Path | None = None
    """The sweep file, first of the arguments."""
    weights: dict[str, Path] = field(default_factory=dict)
    """Name in the weights folder of the cluster -> file here."""
    once: tuple[str, ...] = ()
    """Options that change what this start does, but not the result."""

    @property
    def digest(self) -> str:
        """The same for the same command with the same sweep file."""
        text = self.sweep.read_text(encoding="utf-8") if self.sweep else ""
        return hashlib.sha256(json.dumps([self.verb, self.run, self.words, text]).encode()).hexdigest()[:16]

    @property
    def entrypoint(self) -> str:
        """The shell command. Ray's own variable is left out: trials need none of the files that came with the job."""
        sweep = ' "$PWD"/' + shlex.quote(self.sweep.name) if self.sweep else ""
        words = shlex.join([*self.words, *self.once])
        return f"exec env -u RAY_JOB_CONFIG_JSON_ENV_VAR rfray job {rfray_version()} {self.verb}{sweep} {words}"


def tune_command(
    file: SweepFile, sweep: Path, run: str, overrides: Sequence[str], once: dict[str, bool]
) -> RemoteCommand:
    """`rfray tune` of a sweep file: paths in it are those of the cluster, but weights that are here go along.

    `once`: options of `RemoteCommand.once` -> whether they were given.
    """
    weights: dict[str, Path] = {}
    words = [word for override in overrides for word in ("--set", override)]
    pretrained = _with_remote_names(file.raw["trial"].get("pretrained"), weights)
    if weights:
        words += ["--set", f"trial.pretrained={json.dumps(pretrained)}"]
    return RemoteCommand(
        "tune",
        run,
        (*words, "--run", run, "--address", "auto"),
        sweep,
        weights,
        tuple(option for option, given in once.items() if given),
    )


def ensemble_command(run: str | None, options: Mapping[str, Any]) -> RemoteCommand:
    """`rfray ensemble` of a run folder (the newest there if not named), with those options that have a value."""
    words = [run] if run else []
    for option, value in options.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [option] if one is True else [option, str(one)]
    return RemoteCommand("ensemble", run or "the newest", (*words, "--address", "auto"))


def _with_remote_names(source: Any, weights: dict[str, Path]) -> Any:
    """The value of `pretrained` with every file that is here by its name on the cluster; adds these to `weights`."""
    if isinstance(source, list):
        return [_with_remote_names(one, weights) for one in source]
    if isinstance(source, dict):
        return {backbone: _with_remote_names(one, weights) for backbone, one in source.items()}
    if not isinstance(source, str) or not (file := Path(source).expanduser()).is_file():
        return source
    name = f"{file_digest(file)[:16]}-{file.name}"
    weights[name] = file
    return f"{WEIGHTS}/{name}"

"""what was typed here -> `RemoteCommand`: the same for a job on a cluster, the files that it needs, its start there."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from rfray.errors import ClusterError
from rfray.progress.events import INSIDE, JobBegan, print_event, rfray_version
from rfray.spec.sweep_file import SweepFile
from rfray.store.files import clear_left_over, file_digest, replacing

WEIGHTS_FOLDER = "weights"
"""The folder of weights that come with a job: among its files, and below the folder that jobs work in."""
REQUEST_LIMIT = 100 * 2**20
"""Most bytes of files that come with a job: Ray's job server refuses larger requests (Ray 2.54 to 2.60)."""


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
        words = shlex.join([*self.words, "--address", "auto", *self.once])
        return f"exec env -u RAY_JOB_CONFIG_JSON_ENV_VAR rfray job {rfray_version()} {self.verb}{sweep} {words}"

    def collect_files(self, folder: Path, say: Callable[[str], None]) -> None:
        """Copies what the job needs to `folder`. Raises ClusterError where the job server would refuse that."""
        files = {self.sweep.name: self.sweep} if self.sweep else {}
        files |= {f"{WEIGHTS_FOLDER}/{name}": file for name, file in self.weights.items()}
        sizes = [file.stat().st_size for file in files.values()]
        listed = ", ".join(f"{file.name} ({decimal(size)})" for file, size in zip(files.values(), sizes, strict=True))
        if sum(sizes) > REQUEST_LIMIT - 2**20:  # Ray's archive of them is a little larger
            raise ClusterError(
                f"{listed}: more than the {decimal(REQUEST_LIMIT)} that Ray's job server takes. Copy the weights to a "
                "folder that all nodes of the cluster see, and set `pretrained` to their path there"
            )
        say(f"To the cluster: {listed}; nothing else")
        (folder / WEIGHTS_FOLDER).mkdir()
        for name, file in files.items():
            shutil.copyfile(file, folder / name)


def tune_command(
    file: SweepFile, sweep: Path, run: str, overrides: Sequence[str], once: Mapping[str, bool]
) -> RemoteCommand:
    """`rfray tune` of a sweep file: paths in it are those of the cluster, but weights that are here go along.

    `once`: options of `RemoteCommand.once` -> whether they were given.
    """
    weights: dict[str, Path] = {}

    def renamed(source: Any) -> Any:
        """The value of `pretrained` with every file that is here by its name on the cluster."""
        if isinstance(source, list):
            return [renamed(one) for one in source]
        if isinstance(source, dict):
            return {backbone: renamed(one) for backbone, one in source.items()}
        if not isinstance(source, str) or not (here := Path(source).expanduser()).is_file():
            return source
        name = f"{file_digest(here)[:16]}-{here.name}"
        weights[name] = here
        return f"{WEIGHTS_FOLDER}/{name}"

    pretrained = renamed(file.raw["trial"].get("pretrained"))
    settings = [*overrides, *([f"trial.pretrained={json.dumps(pretrained)}"] if weights else [])]
    words = tuple(_words({"--set": settings, "--run": run}))
    return RemoteCommand("tune", run, words, sweep, weights, tuple(_words(once)))


def ensemble_command(run: str | None, options: Mapping[str, Any]) -> RemoteCommand:
    """`rfray ensemble` of a run folder (the newest there if not named), with those options that have a value."""
    return RemoteCommand("ensemble", run or "the newest", (*([run] if run else []), *_words(options)))


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """What to type for the options that have a value: of `--yes/--no` the one that it says."""
    for option, value in options.items():
        yes, _, no = option.partition("/")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool):
                yield from filter(None, [yes if one else no])
            elif one is not None:
                yield from (yes, str(one))


def check_versions(what: str, here: str, there: str, package: str) -> None:
    """Raises ClusterError where they differ."""
    if here != there:
        raise ClusterError(
            f"{what} is {here} here and {there} on the cluster: they must be the same. "
            f"Here: pip install '{package}=={there}'; or install {here} there (constraints.txt) and start Ray again"
        )


def begin_job(client: str) -> None:
    """Makes this process, on the cluster, a job's command for an rfray of version `client` elsewhere.

    The working folder becomes the one that RFRAY_HOME names (as Ray was started with it), else the home folder; weights
    that came with the job are copied there, for all nodes. Raises ClusterError where the versions differ or that folder
    is not there.
    """
    package = Path.cwd()
    check_versions("rfray", client, rfray_version(), "rfray")  # before the first event, which another one may not know
    print_event(JobBegan(package=str(package)))
    home = Path(os.environ.get("RFRAY_HOME") or "~").expanduser()
    if not home.is_dir():
        raise ClusterError(f"RFRAY_HOME is {home} on the cluster, and there is no such folder")
    os.chdir(home)
    os.environ[INSIDE] = "1"
    for file in (package / WEIGHTS_FOLDER).glob("*"):
        target = Path(WEIGHTS_FOLDER, file.name)  # its name begins with its digest
        if not target.exists() or not file.name.startswith(file_digest(target)[:16]):
            clear_left_over(target)
            with replacing(target, file.stat().st_size) as temporary:
                shutil.copyfile(file, temporary)

"""a command and its files -> a Ray job on a cluster elsewhere, over HTTP alone: submit, follow, stop it.

The cluster has rfray installed. What travels is the sweep file, and weights that are here: nothing of the data, the
checkout or the runs. What the job prints comes back as it is, with the events of the sweep in lines of their own.
"""

import asyncio
import hashlib
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from rfray.errors import ClusterError, Interrupted, RfrayError, RunError
from rfray.progress.events import Event, JobBegan, event_in, rfray_version
from rfray.progress.live import View
from rfray.spec.sweep_file import SweepFile
from rfray.store.files import file_digest

PIECE = 32 * 2**20
"""Bytes of weights that travel in one request; Ray's job server takes 100 MiB at the most."""
PATIENCE = 60
"""Seconds without an answer after which a job is followed no longer."""
STOPPING = 30
"""Seconds that a job has to stop by itself."""

WEIGHTS = "weights"
"""Where weights go that come with a job, below the folder that jobs work in."""

OnInterrupt = Literal["ask", "detach", "stop"]
"""What Ctrl-C does to a job."""


@dataclass(frozen=True)
class Order:
    """What a job is to do."""

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
    """Options that ask for something more this time, but for no other result."""
    lasting: bool = True
    """Whether the same command is the same job: one that runs is followed, one that has ended is not run again."""

    @property
    def digest(self) -> str:
        """The same for the same command with the same sweep file."""
        text = self.sweep.read_text(encoding="utf-8") if self.sweep else ""
        return hashlib.sha256(json.dumps([self.verb, self.run, self.words, text]).encode()).hexdigest()[:16]

    @property
    def entrypoint(self) -> str:
        """The shell command. Ray's own variable is left out: trials need none of the files that came with the job."""
        sweep = ['"$PWD"/' + shlex.quote(self.sweep.name)] if self.sweep else []
        words = shlex.join([*self.words, *self.once])
        command = ["rfray", "job", rfray_version(), self.verb, *sweep, words]
        return " ".join(["exec env -u RAY_JOB_CONFIG_JSON_ENV_VAR", *command])


def is_elsewhere(address: str | None) -> bool:
    """Whether an address is that of a job server, to which a command travels."""
    return address is not None and address.startswith(("http://", "https://"))


def tune_order(file: SweepFile, sweep: Path, run: str, overrides: Sequence[str], once: dict[str, bool]) -> Order:
    """`rfray tune` of a sweep file: paths in it are those of the cluster, but weights that are here go along.

    `once`: options of `Order.once` -> whether they were given.
    """
    weights: dict[str, Path] = {}
    words = [word for override in overrides for word in ("--set", override)]
    pretrained = _with_names_there(file.raw["trial"].get("pretrained"), weights)
    if weights:
        words += ["--set", f"trial.pretrained={json.dumps(pretrained)}"]
    return Order(
        "tune",
        run,
        (*words, "--run", run, "--address", "auto"),
        sweep,
        weights,
        tuple(option for option, given in once.items() if given),
        lasting=not once["--dry-run"],
    )


def ensemble_order(run: str | None, options: Mapping[str, Any]) -> Order:
    """`rfray ensemble` of a run folder (the newest there if not named), with those options that have a value."""
    words = [run] if run else []
    for option, value in options.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [option] if one is True else [option, str(one)]
    return Order("ensemble", run or "the newest", (*words, "--address", "auto"))


def _with_names_there(source: Any, weights: dict[str, Path]) -> Any:
    """The value of `pretrained` with every file that is here by its name on the cluster; adds these to `weights`."""
    if isinstance(source, list):
        return [_with_names_there(one, weights) for one in source]
    if isinstance(source, dict):
        return {backbone: _with_names_there(one, weights) for backbone, one in source.items()}
    if not isinstance(source, str) or not (file := Path(source).expanduser()).is_file():
        return source
    name = f"{file_digest(file)[:16]}-{file.name}"
    weights[name] = file
    return f"{WEIGHTS}/{name}"


def run_there(address: str, order: Order, on_interrupt: OnInterrupt, console: Console) -> int:
    """Has the job server at `address` do it and shows what happens; the exit code of the command there.

    A job that does the same already is followed, one that has done it is not started again. Raises ClusterError where
    the cluster can't be used, RunError where another job has the run folder, Interrupted after Ctrl-C.
    """
    client = reach(address)
    view = View(console, "Ctrl-C detaches or stops")
    output = Output(view.show, view.say, with_files=order.sweep is not None)
    with _answering(address):
        found = _find(client, order, console) if order.lasting else None
        if found and found.status.is_terminal():
            return 0
        if found:
            job = found.submission_id
            console.print(f"Job {job} at {address} runs already; looking on", highlight=False)
        else:
            job = submit(client, order, console)
            console.print(f"Job {job} at {address}", highlight=False)
        try:
            ended = _follow(client, job, output)
        except KeyboardInterrupt:
            view.close()
            if _choice(on_interrupt, console) == "detach":
                raise Interrupted(f"detached; job {job} goes on. Look on again") from None
            console.print("Stopping …")
            stop(client, job)
            raise Interrupted(f"stopped job {job}; go on") from None
        finally:
            view.close()
    return _exit_code(ended)


def reach(address: str) -> Any:
    """Ray's client of the job server at `address` (http://host:port).

    Raises ClusterError where nothing answers, or something else than Ray, where the token is missing or wrong, and
    where Ray has another version there.
    """
    for name in ("requests", "aiohttp"):
        if find_spec(name) is None:
            raise ClusterError(f"--address {address}: {name} is missing; pip install 'rfray[cluster]'")
    if _asks_for_token(address):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which looks at it once
    for overruling in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(overruling, None)

    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in (
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard.modules.job.sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(address)
        theirs = client._do_request("GET", "/api/version").json()["ray_version"]
    except AuthenticationError as error:
        raise ClusterError(_about_token(address, str(error))) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(f"the Ray at {address} does not answer: {error}") from None
    check_versions("Ray", ray.__version__, theirs, "ray[default]")
    return client


def check_versions(what: str, here: str, there: str, package: str) -> None:
    """Raises ClusterError where they differ."""
    if here != there:
        raise ClusterError(
            f"{what} is {here} here and {there} on the cluster: they must be the same. "
            f"Here: pip install '{package}=={there}'; or install {here} there (constraints.txt) and start Ray again"
        )


def submit(client: Any, order: Order, console: Console) -> str:
    """Sends the files and starts the job; its id. Raises ClusterError where the server does not take it."""
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING)}}
    metadata = {"rfray": order.verb}
    if order.lasting:
        metadata |= {"run": order.run, "digest": order.digest}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if order.sweep:
                sizes = {file.name: file.stat().st_size for file in (order.sweep, *order.weights.values())}
                said = ", ".join(f"{name} ({_size(size)})" for name, size in sizes.items())
                console.print(f"To the cluster: {said}; nothing else", soft_wrap=True, markup=False)
                Path(folder, order.sweep.name).write_bytes(order.sweep.read_bytes())
                environment["working_dir"] = folder
            if order.weights:  # Ray fails over an empty list
                environment["py_modules"] = list(_send(client, order.weights))
            return str(
                client.submit_job(
                    entrypoint=order.entrypoint,
                    runtime_env=environment,
                    metadata=metadata,
                    submission_id=f"rfray-{order.verb}-{uuid.uuid4().hex[:8]}",
                )
            )
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"the job server does not take the job: {_last_line(str(error))}") from None


def stop(client: Any, job: str) -> None:
    """Stops a job and waits for its end."""
    client.stop_job(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.3)


class Output:
    """What a job prints -> events and text."""

    def __init__(
        self, on_event: Callable[[Event], None], on_text: Callable[[str], None], with_files: bool = False
    ) -> None:
        """`with_files`: whether paths of files that came with the job are shown as they are called here."""
        self._on_event = on_event
        self._on_text = on_text
        self._with_files = with_files
        self._began: JobBegan | None = None
        self._before: list[str] = []
        self._unfinished = ""
        self._taken = 0
        self._skip = 0

    def from_start(self) -> None:
        """What comes next begins with the first character again."""
        self._skip = self._taken

    def take(self, text: str) -> None:
        """A piece of the output. Raises ClusterError where rfray has another version there."""
        new = text[self._skip :]
        self._skip -= len(text) - len(new)
        self._taken += len(new)
        *lines, self._unfinished = (self._unfinished + new).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """The output has ended."""
        if self._unfinished:
            self._line(self._unfinished)
        if self._began is None:  # then what Ray, or the shell, has to say explains it
            for line in self._before:
                self._on_text(line)

    def _line(self, line: str) -> None:
        if self._began is None and '"kind":"job began"' in line:
            there = json.loads(line[line.index("{") :])["rfray"]
            check_versions("rfray", rfray_version(), there, "rfray")
        event = event_in(line)
        if isinstance(event, JobBegan):
            self._began = event
        elif event is not None:
            self._on_event(event)
        elif self._began is None:
            self._before.append(line)
        else:
            self._on_text(line.replace(f"{self._began.package}/", "") if self._with_files else line)


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Makes a ClusterError of what Ray's client raises where the server has gone."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"the cluster at {address} does not answer any more: {_last_line(str(error))}") from None


def _asks_for_token(address: str) -> bool:
    """Asks without one. Raises ClusterError in seconds where that is not Ray."""
    import requests

    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", timeout=10)
    except (requests.RequestException, ValueError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({type(error).__name__}). Is the tunnel open? "
            "`ray dashboard cluster.yaml` makes one to http://127.0.0.1:8265"
        ) from None
    if answer.status_code == 401 and "authentication token" in answer.text:
        return True
    if '"ray_version"' not in answer.text:
        raise ClusterError(f"what answers at {address} is not Ray's dashboard (HTTP {answer.status_code})")
    return False


def _about_token(address: str, said: str) -> str:
    if "Invalid authentication token" in said:
        return (
            f"the cluster at {address} refuses this token: ~/.ray/auth_token (or RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN) "
            "must hold what the file of that name holds on the head"
        )
    return (
        f"the cluster at {address} asks for its token, and there is none here: copy the head's ~/.ray/auth_token to "
        "the same place (mode 600), or name a file with RAY_AUTH_TOKEN_PATH; RAY_AUTH_MODE must be token or not set"
    )


def _find(client: Any, order: Order, console: Console) -> Any:
    """The job that is doing this, or has done it; None where one must be started.

    Raises RunError where another one has the run folder.
    """
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get("run") == order.run and job.submission_id]
    jobs.sort(key=lambda job: job.start_time or 0)
    for job in jobs:
        if job.status.is_terminal():
            continue
        if job.metadata.get("digest") != order.digest or "--fresh" in order.once:
            raise RunError(
                f"{order.run} is in use on the cluster: job {job.submission_id} (rfray {job.metadata.get('rfray')}) "
                "runs with other settings or files. Wait for it, stop it (the command that started it looks on; then "
                "Ctrl-C), or choose another folder with --run"
            )
        return job
    before = [job for job in jobs if job.metadata.get("rfray") == order.verb]
    if not before or before[-1].metadata.get("digest") != order.digest or "--fresh" in order.once:
        return None
    ended = before[-1]
    if ended.status == "SUCCEEDED" and order.verb == "tune":
        said = _said(client, ended.submission_id, lines=1)
        console.print(f"Job {ended.submission_id} has done this: {said}; --fresh starts anew", soft_wrap=True)
        return ended
    if ended.status == "FAILED":
        console.print(
            f"The job before, {ended.submission_id}, has failed (exit code {ended.driver_exit_code}):\n"
            f"{_said(client, ended.submission_id)}\nStarting it again",
            soft_wrap=True,
            markup=False,
        )
    return None


def _said(client: Any, job: str, lines: int = 10) -> str:
    """The last lines that a job has printed as text."""
    texts: list[str] = []
    output = Output(lambda event: None, texts.append, with_files=True)
    output.take(client.get_job_logs(job))
    output.close()
    return "\n".join(texts[-lines:])


def _follow(client: Any, job: str, output: Output) -> Any:
    """Hands on what the job prints until it has ended; its details. Raises ClusterError after long silence."""
    import aiohttp

    heard = time.monotonic()

    async def read() -> None:
        output.from_start()
        async for text in client.tail_job_logs(job):
            nonlocal heard
            heard = time.monotonic()
            output.take(text)

    while True:
        try:
            asyncio.run(read())
            details = client.get_job_info(job)
            heard = time.monotonic()
            if details.status.is_terminal():
                output.close()
                return details
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if time.monotonic() - heard > PATIENCE:
                raise ClusterError(
                    f"the cluster does not answer any more ({_last_line(str(error))}); job {job} may still run. "
                    "The same command looks on again"
                ) from None
        time.sleep(1)


def _choice(on_interrupt: OnInterrupt, console: Console) -> str:
    if on_interrupt != "ask":
        return on_interrupt
    if not (console.is_terminal and sys.stdin.isatty()):
        return "detach"
    try:
        answer = console.input("\nDetach (the job goes on), or stop it? \\[D/s] ")
    except (KeyboardInterrupt, EOFError):
        return "detach"
    return "stop" if answer.strip().lower().startswith("s") else "detach"


def _exit_code(ended: Any) -> int:
    if ended.status == "SUCCEEDED":
        return 0
    if ended.status == "STOPPED":
        raise Interrupted(f"job {ended.submission_id} was stopped; go on")
    code = ended.driver_exit_code
    if code == 127:
        raise ClusterError(
            "the cluster's Ray does not find the command rfray: start Ray where rfray is installed and on the PATH"
        )
    if code is None or not 0 < code < 128:
        raise RfrayError(f"job {ended.submission_id} died (exit code {code}): {_last_line(ended.message or '')}")
    return int(code)


def _send(client: Any, weights: dict[str, Path]) -> Iterator[str]:
    """Uploads weights in pieces, those that the cluster still has left out; Ray's addresses of them."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, file in weights.items():
            bar = progress.add_task(f"Sending {file.name}", total=file.stat().st_size)
            with file.open("rb") as opened, tempfile.TemporaryDirectory() as folder:
                for number, piece in enumerate(iter(lambda: opened.read(PIECE), b"")):
                    place = Path(folder, f"{number:04d}", "rfray-weights")
                    place.mkdir(parents=True)
                    (place / f"{name}.{number:04d}").write_bytes(piece)
                    # Ray would do that by itself, without a word for as long as it takes
                    yield client._upload_package_if_needed(str(place), include_gitignore=False, include_parent_dir=True)
                    (place / f"{name}.{number:04d}").unlink()
                    progress.advance(bar, len(piece))


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

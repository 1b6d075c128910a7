"""`RemoteCommand` -> a Ray job on a cluster elsewhere, over HTTP alone: submit, follow, stop it.

The cluster has rfray installed. What travels is the sweep file, and weights that are here: nothing of the data, the
checkout or the runs. What the job prints comes back as it is, with the events of the sweep in lines of their own.
"""

import asyncio
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from rfray.errors import ClusterError, Interrupted, RfrayError, RunError, check_no_secret
from rfray.progress.events import Event, JobBegan, event_in
from rfray.progress.live import View
from rfray.remote.command import RemoteCommand, check_versions
from rfray.store.storage import is_address

SILENCE_LIMIT = 60
"""Seconds without an answer after which a job is followed no longer."""
STOP_TIME = 30
"""Seconds that a job has to stop by itself."""

OnInterrupt = Literal["ask", "detach", "stop"]
"""What Ctrl-C does to a job."""


def run_remotely(address: str, command: RemoteCommand, on_interrupt: OnInterrupt, console: Console) -> int:
    """Runs the command as a job of the server at `address` and shows its output; the exit code of the command there.

    A job that does the same already is followed, one that has done it is not started again. Raises ClusterError where
    the cluster can't be used, RunError where another job has the run folder, Interrupted after Ctrl-C.
    """
    client = reach(address)
    view = View(console, "Ctrl-C detaches or stops")
    try:
        job = None if "--dry-run" in command.once else _find(client, command, view.say)
        if job is None or not job.status.is_terminal():
            name = job.submission_id if job else _submit(client, command, view.say)
            view.say(f"Job {name} at {address}{' runs already; following it' if job else ''}")
            output = Output(view.show, view.say, with_files=command.sweep is not None)
            try:
                job = _follow(client, name, output)
            except KeyboardInterrupt:
                view.close()
                if not _stops(on_interrupt, console):
                    raise Interrupted(f"detached; job {name} goes on. Follow it again") from None
                view.say("Stopping …")
                client.stop_job(name)
                while not client.get_job_status(name).is_terminal():
                    time.sleep(0.3)
                raise Interrupted(f"stopped job {name}; go on") from None
            finally:
                view.close()
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"the job server at {address} fails, or refuses: {_last_line(str(error))}") from None
    code = _exit_code(job)
    if code == 0 and "--dry-run" not in command.once:
        if command.verb == "tune":
            view.say(f"Next: rfray ensemble {command.run} --address {address}")
        elif is_address(command.run):
            view.say(f"Next: rfray fetch {command.run}")
    return code


def reach(address: str) -> Any:
    """Ray's client of the job server at `address` (http://host:port).

    Where the server asks for a token, RAY_AUTH_MODE is set, so that the client sends it. Raises ClusterError in seconds
    where nothing answers, or something else than Ray, where the token is missing or wrong, and where Ray has another
    version there.
    """
    check_no_secret(address)
    for name in ("requests", "aiohttp"):
        if find_spec(name) is None:
            raise ClusterError(f"--address {address}: {name} is missing; pip install 'rfray[cluster]'")

    import requests

    # Ray documents these three places of the token, in this order
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    with suppress(OSError, UnicodeDecodeError):  # then there is none here
        token = token or file.read_text(encoding="utf-8").strip()
    found = "refuses the token that is found here" if token else "asks for its token, and there is none here"
    wrong_token = ClusterError(
        f"the cluster at {address} {found}: ~/.ray/auth_token (mode 600; or RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN) must "
        "hold the same as that file on the head, and RAY_AUTH_MODE must be token or not set"
    )
    url = f"{address.rstrip('/')}/api/version"
    try:
        answer = requests.get(url, timeout=10)
        if answer.status_code == 401 and "authentication token" in answer.text:
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported
            answer = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
            if answer.status_code in (401, 403):
                raise wrong_token
    except (requests.RequestException, ValueError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({type(error).__name__}). Is the tunnel open? "
            "`ray dashboard cluster.yaml` makes one to http://127.0.0.1:8265"
        ) from None
    if '"ray_version"' not in answer.text:
        raise ClusterError(f"what answers at {address} is not Ray's dashboard (HTTP {answer.status_code})")
    for overruling in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(overruling, None)

    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    check_versions("Ray", ray.__version__, answer.json()["ray_version"], "ray[default]")
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # Ray would print a line on every request
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise wrong_token from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the Ray at {address} does not answer: {error}") from None


def _find(client: Any, command: RemoteCommand, say: Callable[[str], None]) -> Any:
    """The job that is doing this, or has done it; None where one must be started.

    Raises RunError where another one has the run folder.
    """
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get("run") == command.run and job.submission_id]
    same = "" if "--fresh" in command.once else command.digest
    last = None
    for job in sorted(jobs, key=lambda job: job.start_time or 0):
        is_same = job.metadata.get("digest") == same
        if not job.status.is_terminal():
            if is_same:
                return job
            raise RunError(
                f"{command.run} is in use on the cluster: job {job.submission_id} (rfray {job.metadata.get('rfray')}) "
                "runs with other settings or files. Wait for it, stop it (Ctrl-C in the command that started it), or "
                "choose another folder with --run"
            )
        if job.metadata.get("rfray") == command.verb:
            last = job if is_same else None
    if last and last.status == "SUCCEEDED" and command.verb == "tune":
        say(f"Job {last.submission_id} has done this; --fresh starts anew")
        return last
    if last and last.status == "FAILED":
        reason = f"exit code {last.driver_exit_code}; its output: `ray job logs {last.submission_id} --address …`"
        say(f"The job before, {last.submission_id}, has failed ({reason}). Starting it again")
    return None


def _submit(client: Any, command: RemoteCommand, say: Callable[[str], None]) -> str:
    """Sends the files and starts the job; its id."""
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_TIME)}}
    metadata = {"rfray": command.verb}
    if "--dry-run" not in command.once:
        metadata |= {"run": command.run, "digest": command.digest}
    with tempfile.TemporaryDirectory() as folder:
        if command.sweep:
            command.collect_files(Path(folder), say)
            environment["working_dir"] = folder
        name = f"rfray-{command.verb}-{uuid.uuid4().hex[:8]}"
        client.submit_job(entrypoint=command.entrypoint, runtime_env=environment, metadata=metadata, submission_id=name)
    return name


@dataclass
class Output:
    """What a job prints -> events and text."""

    on_event: Callable[[Event], None]
    on_text: Callable[[str], None]
    with_files: bool = False
    """Whether paths of files that came with the job are shown as they are called here."""
    length: int = 0
    """Characters that were taken so far."""
    _began: JobBegan | None = None
    _before: list[str] = field(default_factory=list)
    _unfinished: str = ""

    def take(self, text: str) -> None:
        """The next piece of the output."""
        self.length += len(text)
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            try:
                event = event_in(line)
            except ValueError:  # a text that begins as an event does
                event = None
            if isinstance(event, JobBegan):
                self._began = event
            elif event is not None:
                self.on_event(event)
            elif self._began is None:
                self._before.append(line)
            else:
                self.on_text(line.replace(f"{self._began.package}/", "") if self.with_files else line)

    def close(self) -> None:
        """The output has ended."""
        if self._unfinished:
            self.take("\n")
        if self._began is None:  # then the text of Ray, or of the shell, explains it
            for line in self._before:
                self.on_text(line)


def _follow(client: Any, job: str, output: Output) -> Any:
    """Passes what the job prints to `output` until it has ended; its details.

    Raises ClusterError after SILENCE_LIMIT without an answer.
    """
    import aiohttp

    last_answer = time.monotonic()

    async def read() -> None:
        nonlocal last_answer
        skip = output.length  # after a lost connection the text comes from its start again
        async for text in client.tail_job_logs(job):
            last_answer = time.monotonic()
            output.take(text[skip:])
            skip = max(0, skip - len(text))

    while True:
        try:
            asyncio.run(read())
            details = client.get_job_info(job)
            last_answer = time.monotonic()
            if details.status.is_terminal():
                output.close()
                return details
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if time.monotonic() - last_answer > SILENCE_LIMIT:
                raise ClusterError(
                    f"the cluster does not answer any more ({_last_line(str(error))}); job {job} may still run. "
                    "The same command follows it again"
                ) from None
        time.sleep(1)


def _stops(on_interrupt: OnInterrupt, console: Console) -> bool:
    """Whether Ctrl-C stops the job, or only detaches from it; asks where there is a terminal to answer at."""
    if on_interrupt == "ask" and console.is_terminal and sys.stdin and sys.stdin.isatty():
        with suppress(KeyboardInterrupt, EOFError):
            return console.input("\nDetach (the job goes on), or stop it? \\[D/s] ").strip().lower().startswith("s")
    return on_interrupt == "stop"


def _exit_code(ended: Any) -> int:
    if ended.status == "STOPPED":
        raise Interrupted(f"job {ended.submission_id} was stopped; go on")
    code = ended.driver_exit_code
    if code == 127:
        raise ClusterError("the cluster's Ray does not find the command rfray: start Ray where rfray is on the PATH")
    if code is None or not 0 <= code < 128:
        raise RfrayError(f"job {ended.submission_id} died (exit code {code}): {_last_line(ended.message or '')}")
    return int(code)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

"""`RemoteCommand` -> a Ray job on a cluster elsewhere, over HTTP alone: submit, follow, stop it.

The cluster has rfray installed. What travels is the sweep file, and weights that are here: nothing of the data, the
checkout or the runs. What the job prints comes back as it is, with the events of the sweep in lines of their own.
"""

import asyncio
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.filesize import decimal

from rfray.errors import ClusterError, Interrupted, RfrayError, RunError
from rfray.progress.events import Event, JobBegan, event_in
from rfray.progress.live import View
from rfray.remote.client import reach
from rfray.remote.command import RemoteCommand

REQUEST_LIMIT = 100 * 2**20
"""Most bytes of files that come with a job: Ray's job server refuses larger requests (Ray 2.54 to 2.60)."""
SILENCE_LIMIT = 60
"""Seconds without an answer after which a job is followed no longer."""
STOP_TIME = 30
"""Seconds that a job has to stop by itself."""

PACKAGED_WEIGHTS = "rfray-weights"
"""The folder of the weights among the files that come with a job."""

OnInterrupt = Literal["ask", "detach", "stop"]
"""What Ctrl-C does to a job."""


def run_remotely(address: str, command: RemoteCommand, on_interrupt: OnInterrupt, console: Console) -> int:
    """Runs the command as a job of the server at `address` and shows its output; the exit code of the command there.

    A job that does the same already is followed, one that has done it is not started again. Raises ClusterError where
    the cluster can't be used, RunError where another job has the run folder, Interrupted after Ctrl-C.
    """
    client = reach(address)
    view = View(console, "Ctrl-C detaches or stops")
    output = Output(view.show, view.say, with_files=command.sweep is not None)
    with _answering(address):
        found = None if "--dry-run" in command.once else _find(client, command, console)
        if found and found.status.is_terminal():
            return 0
        job = found.submission_id if found else _submit(client, command, console)
        console.print(f"Job {job} at {address}{' runs already; following it' if found else ''}", highlight=False)
        try:
            ended = _follow(client, job, output)
        except KeyboardInterrupt:
            view.close()
            if _choice(on_interrupt, console) == "detach":
                raise Interrupted(f"detached; job {job} goes on. Follow it again") from None
            console.print("Stopping …")
            client.stop_job(job)
            while not client.get_job_status(job).is_terminal():
                time.sleep(0.3)
            raise Interrupted(f"stopped job {job}; go on") from None
        finally:
            view.close()
    return _exit_code(ended)


def _submit(client: Any, command: RemoteCommand, console: Console) -> str:
    """Sends the files and starts the job; its id."""
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_TIME)}}
    metadata = {"rfray": command.verb}
    if "--dry-run" not in command.once:
        metadata |= {"run": command.run, "digest": command.digest}
    with tempfile.TemporaryDirectory() as folder:
        if command.sweep:
            _collect_files(command.sweep, command.weights, Path(folder), console)
            environment["working_dir"] = folder
        return str(
            client.submit_job(
                entrypoint=command.entrypoint,
                runtime_env=environment,
                metadata=metadata,
                submission_id=f"rfray-{command.verb}-{uuid.uuid4().hex[:8]}",
            )
        )


def _collect_files(sweep: Path, weights: dict[str, Path], folder: Path, console: Console) -> None:
    """Copies what the job needs to `folder`. Raises ClusterError where the job server would refuse it as too large."""
    sizes = {file.name: file.stat().st_size for file in (sweep, *weights.values())}
    listed = ", ".join(f"{name} ({decimal(size)})" for name, size in sizes.items())
    if sum(sizes.values()) > REQUEST_LIMIT - 2**20:  # Ray's archive of them is a little larger
        raise ClusterError(
            f"{listed}: more than the {decimal(REQUEST_LIMIT)} that Ray's job server takes. Copy the weights to a "
            "folder that all nodes of the cluster see, and set `pretrained` to their path there"
        )
    console.print(f"To the cluster: {listed}; nothing else", soft_wrap=True, markup=False)
    shutil.copyfile(sweep, folder / sweep.name)
    (folder / PACKAGED_WEIGHTS).mkdir()
    for name, file in weights.items():
        shutil.copyfile(file, folder / PACKAGED_WEIGHTS / name)


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
        self.length = 0
        """Characters that were taken so far."""

    def take(self, text: str) -> None:
        """The next piece of the output."""
        self.length += len(text)
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """The output has ended."""
        if self._unfinished:
            self._line(self._unfinished)
        if self._began is None:  # then the text of Ray, or of the shell, explains it
            for line in self._before:
                self._on_text(line)

    def _line(self, line: str) -> None:
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
    """Makes a ClusterError of what Ray's client raises where the server refuses or has gone."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        problem = _last_line(str(error))
        raise ClusterError(f"the job server at {address} does not answer, or refuses: {problem}") from None


def _find(client: Any, command: RemoteCommand, console: Console) -> Any:
    """The job that is doing this, or has done it; None where one must be started.

    Raises RunError where another one has the run folder.
    """
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get("run") == command.run and job.submission_id]
    jobs.sort(key=lambda job: job.start_time or 0)
    for job in jobs:
        if job.status.is_terminal():
            continue
        if job.metadata.get("digest") != command.digest or "--fresh" in command.once:
            raise RunError(
                f"{command.run} is in use on the cluster: job {job.submission_id} (rfray {job.metadata.get('rfray')}) "
                "runs with other settings or files. Wait for it, stop it (Ctrl-C in the command that started it), or "
                "choose another folder with --run"
            )
        return job
    before = [job for job in jobs if job.metadata.get("rfray") == command.verb]
    if not before or before[-1].metadata.get("digest") != command.digest or "--fresh" in command.once:
        return None
    ended = before[-1]
    if ended.status == "SUCCEEDED" and command.verb == "tune":
        console.print(f"Job {ended.submission_id} has done this; --fresh starts anew", soft_wrap=True)
        return ended
    if ended.status == "FAILED":
        console.print(
            f"The job before, {ended.submission_id}, has failed (exit code {ended.driver_exit_code}; its output: "
            f"`ray job logs {ended.submission_id} --address …`). Starting it again",
            soft_wrap=True,
            markup=False,
        )
    return None


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


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

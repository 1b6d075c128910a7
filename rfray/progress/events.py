"""What happens in a command -> frozen records <-> lines of text, by which a job's output tells of them."""

import os
import time
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from rfray.spec.schema_base import Strict

MARK = "rfray-event "
"""What a line begins with that is an event; every other line is text."""
INSIDE = "RFRAY_INSIDE_JOB"
"""Environment variable of a command that runs as a job: it prints events instead of drawing a table."""


class Happening(Strict):
    """What all events have."""

    at: float = Field(default_factory=time.time)
    """Seconds since 1970."""


class JobBegan(Happening):
    """A job on a cluster is about to run its command."""

    kind: Literal["job began"] = "job began"
    package: str
    """Folder of the files that came with the job."""


class SweepBegan(Happening):
    """The first trials are about to start."""

    kind: Literal["sweep began"] = "sweep began"
    name: str
    metric: str
    """What is maximised on val."""
    planned: int | None
    """Trials in all; None where a budget decides."""
    until: float | None = None
    """When a budget by the clock ends, in seconds since 1970; None where there is none."""
    earlier: list[float | None]
    """Scores of the trials that had ended before; None where one failed."""


class TrialBegan(Happening):
    """A trial begins, or begins again."""

    kind: Literal["trial began"] = "trial began"
    id: str
    setting: str
    """Its place on the axes."""
    epochs: int
    """Most that it will train."""


class EpochDone(Happening):
    """One epoch of a trial."""

    kind: Literal["epoch done"] = "epoch done"
    id: str
    epoch: int
    score: float
    best: float | None
    images_per_second: float


class TrialPaused(Happening):
    """A trial gives its slot to another, and may go on later."""

    kind: Literal["trial paused"] = "trial paused"
    id: str


class TrialEnded(Happening):
    """A trial's result is on disk."""

    kind: Literal["trial ended"] = "trial ended"
    id: str
    reason: str | None
    """Why it failed; None where it did not."""
    score: float | None
    best_epoch: int | None
    epochs: int
    """Epochs that were trained."""
    by_budget: bool = False
    """Whether there was no time for another one."""


class Warned(Happening):
    """Something that the user should know."""

    kind: Literal["warned"] = "warned"
    text: str


Event = JobBegan | SweepBegan | TrialBegan | EpochDone | TrialPaused | TrialEnded | Warned
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def rfray_version() -> str:
    """Of this installation."""
    return version("rfray")


def inside_job() -> bool:
    """Whether this command runs as a job of one elsewhere."""
    return INSIDE in os.environ


def print_event(event: Event) -> None:
    """One line on the standard output."""
    print(MARK + event.model_dump_json(), flush=True)


def event_in(line: str) -> Event | None:
    """The event that a line carries, None where it is text. Raises ValidationError for one that is not known here."""
    return _EVENTS.validate_json(line.removeprefix(MARK)) if line.startswith(MARK) else None

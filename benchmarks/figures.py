"""two sides, measured in turn -> a `Figure`: every measurement of both and their ratio."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Side = Callable[[], float]
"""Does one side's work once and gives the seconds that count."""


@dataclass(frozen=True)
class Figure:
    """One row of the table: how long rfray takes for something, and how long what it is compared with."""

    what: str
    reference: str
    """What rfray is compared with."""
    rfray_seconds: list[float]
    """Every measurement, in order; inf where rfray did not get there."""
    reference_seconds: list[float]
    """Those of the other side, each taken right after rfray's."""
    least_ratio: float | None = None
    """The goal, where there is one."""
    most_seconds: float | None = None
    """The goal for rfray's median where it is a time."""
    note: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)
    """What else was found in each round, for the JSON file alone."""

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference rfray is: the median over the rounds; below 1 it is slower."""
        pairs = zip(self.rfray_seconds, self.reference_seconds, strict=True)
        return median(reference / rfray for rfray, reference in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.most_seconds is not None:
            return median(self.rfray_seconds) < self.most_seconds
        return None if self.least_ratio is None else self.ratio >= self.least_ratio


def alternate(rfray: Side, reference: Side, rounds: int) -> tuple[list[float], list[float]]:
    """The seconds of both sides, measured A B A B A B, so that what else the machine does meets both."""
    measured: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for seconds, side in zip(measured, (rfray, reference), strict=True):
            seconds.append(side())
        print(f"  {measured[0][-1]:9.3f} s rfray {measured[1][-1]:9.3f} s reference", flush=True)
    return measured


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

"""A clock that goes on to the next deadline as soon as nothing else is to be done: minutes pass in no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

REAL = 0.01
"""Seconds in which what was sent on this machine arrives."""


class _Impatient(selectors.DefaultSelector):
    """Tells of deadlines at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Events; without one, `timeout` has passed."""
        if timeout is None:
            return super().select()
        events = super().select(min(timeout, REAL))
        if not events:
            self.passed += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Impatient()
        super().__init__(self._clock)

    def time(self) -> float:
        """The clock's seconds."""
        return self._clock.passed


def run_in_no_time(work: Coroutine[Any, Any, None]) -> None:
    """Runs it with such a clock."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(work)

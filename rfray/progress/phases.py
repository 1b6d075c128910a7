"""What goes on until the first trial: lines of a log at most two seconds apart, or a spinner or bar on a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.text import Text

from rfray.errors import printable

PAUSE = 1.5
"""Seconds between two lines of a log about one thing: no two pass without a line, a little late as threads may be."""
Item = TypeVar("Item")


def literal(text: str, style: str = "") -> Text:
    """Text on one line without markup, in which a name can't steer the terminal."""
    return Text(printable(text), style)


def say(console: Console, *lines: str, style: str = "") -> None:
    """Prints lines; what would steer the terminal is escaped (see `printable`), and the terminal wraps them."""
    for line in lines:
        console.print(literal(line, style), soft_wrap=True)


def warn(console: Console, warning: str | None) -> None:
    """Prints what has to be seen first, if there is anything: that a detector is no better than guessing."""
    if warning:
        say(console, warning, style="bold red")


@contextmanager
def doing(console: Console, text: str) -> Iterator[None]:
    """Says what goes on while a block runs, which may take seconds: beside a spinner, or in lines of a log."""
    if console.is_terminal:
        with console.status(literal(text)):
            yield
        return
    say(console, text)
    with repeating(console, lambda seconds: f"{text}: {seconds:.0f} s"):
        yield


def counting(items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
    """The items, of which there will be `total`; how many there were stands on a bar, or in lines of a log (stderr)."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from track(items, escape(printable(text)), total, console=console, transient=True)
        return
    count = 0
    with repeating(console, lambda _: f"{text}: {count:,} of {total:,}"):
        for item in items:
            yield item
            count += 1


@contextmanager
def repeating(console: Console, line: Callable[[float], str]) -> Iterator[None]:
    """Prints the line (made of the seconds so far) again and again while the block runs."""
    ended, began = Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(PAUSE):
            say(console, line(time.monotonic() - began))

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()

"""The arguments of a command -> what it does, step by step, and what it prints."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from rfray.errors import printable


def say(console: Console, *lines: str) -> None:
    """Prints lines; what would steer the terminal is escaped (see `printable`), and the terminal wraps them."""
    for line in lines:
        console.print(printable(line), soft_wrap=True, markup=False)


@contextmanager
def doing(console: Console, text: str) -> Iterator[None]:
    """Says what goes on while a block runs, which may take seconds: beside a spinner, or in a line of a log."""
    if not console.is_terminal:
        say(console, text)
        yield
        return
    with console.status(text):
        yield

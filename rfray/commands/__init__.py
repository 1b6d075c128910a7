"""The arguments of a command -> what it does, step by step, and what it prints."""

from rich.console import Console

from rfray.errors import printable


def say(console: Console, text: str) -> None:
    """Prints a text; what would steer the terminal is escaped (see `printable`), and the terminal wraps its lines."""
    console.print(printable(text, keep="\n"), soft_wrap=True, markup=False)

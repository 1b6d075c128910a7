"""The arguments of a command -> what it does, step by step, and what it prints."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints a text as it is; the terminal wraps its lines."""
    console.print(text, soft_wrap=True, markup=False)

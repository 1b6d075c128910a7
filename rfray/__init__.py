"""rfray: one YAML file becomes a sweep, an ensemble that tells real from fake images, and a leaderboard.

A sweep file or its fields go in; a run, its leaderboard and its detector come out. Nothing heavy is loaded before a
name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rfray import errors

if TYPE_CHECKING:
    from rfray.api import Detector, Leaderboard, Run, load, open, tune  # noqa: A004  as in `rfray.open`
    from rfray.spec.sweep import Sweep

__version__: str

_HOMES = {
    **dict.fromkeys(("Detector", "Leaderboard", "Run", "load", "open", "tune"), "rfray.api"),
    "Sweep": "rfray.spec.sweep",
}
"""Public name -> the module that has it."""

__all__ = ["Detector", "Leaderboard", "Run", "Sweep", "__version__", "errors", "load", "open", "tune"]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is used for the first time (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("rfray")
    raise AttributeError(f"module 'rfray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

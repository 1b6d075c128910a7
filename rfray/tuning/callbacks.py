"""Ray Tune's events -> an error that ends the sweep cleanly, and nothing that Ray prints itself."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from rfray.errors import RfrayError
from rfray.store.files import no_room

RAY_NEEDS = 200_000_000
"""Bytes that stay free where Ray keeps its logs and spilled objects. Tried with small disks: below it, Ray hangs
without a word."""


class Silence(TrialProgressCallback):
    """Takes the place of Ray's own callback, which prints "completed" of a trial that failed, whatever `verbose` is."""

    def on_trial_complete(self, *arguments: object, **options: object) -> None:
        """Prints nothing."""


class SweepCallback(Callback):
    """A callback that may end the sweep by raising an error of rfray.

    Ray may put it into its snapshot: rfray never reads that, so there is nothing to keep of it.
    """

    reason: RfrayError | None = None
    """Why the sweep was ended; Ray makes text of an error that a callback raises."""

    @contextmanager
    def ending_the_sweep(self) -> Iterator[None]:
        """Remembers an error of rfray that is raised in the block."""
        try:
            yield
        except RfrayError as error:
            self.reason = error
            raise

    def __reduce__(self) -> tuple[Callable[[], Callback], tuple[()]]:
        """Pickles as a callback that does nothing (terminals and open files can't be pickled)."""
        return Callback, ()


class DiskMonitor(SweepCallback):
    """Ends the sweep while there is still room to end it cleanly."""

    def __init__(self, ray_folder: Path) -> None:
        self._ray_folder = ray_folder

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Checks once an epoch of any trial. Raises DiskFullError."""
        if shutil.disk_usage(self._ray_folder).free < RAY_NEEDS:
            with self.ending_the_sweep():
                raise no_room(self._ray_folder, RAY_NEEDS)

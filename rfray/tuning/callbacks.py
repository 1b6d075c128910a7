"""what the driver's followers of Ray Tune's events have in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from rfray.errors import RfrayError


class Silence(TrialProgressCallback):
    """Takes the place of Ray's own printing, which says "completed" even of a trial that failed."""

    def log_result(self, *arguments: object, **options: object) -> None:
        """Prints nothing."""

    def on_trial_complete(self, *arguments: object, **options: object) -> None:
        """Prints nothing."""


class Follower(Callback):
    """A callback that may stop the sweep by raising an error of ours.

    Ray may put it into its snapshot: rfray never reads that, so there is nothing to keep of it.
    """

    reason: RfrayError | None = None
    """Why the sweep was stopped; Ray makes text of an error that a callback raises."""

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Remembers an error of ours that is raised in the block."""
        try:
            yield
        except RfrayError as error:
            self.reason = error
            raise

    def __reduce__(self) -> tuple[Callable[[], Callback], tuple[()]]:
        """Pickles as a callback that does nothing (terminals and open files can't be pickled)."""
        return Callback, ()

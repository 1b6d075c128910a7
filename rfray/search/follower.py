"""what the driver's followers of Ray Tune's events have in common."""

from collections.abc import Callable

from ray.tune import Callback


class Follower(Callback):
    """A callback that Ray may put into its snapshot: rfray never reads that, so there is nothing to keep of it."""

    def __reduce__(self) -> tuple[Callable[[], Callback], tuple[()]]:
        """Pickles as a callback that does nothing (terminals and open files can't be pickled)."""
        return Callback, ()

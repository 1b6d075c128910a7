"""torch.distributed -> `Group`: the processes that train one trial, each with a share of every batch.

A trial that one process trains has a group of one, for which every method costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from rfray.errors import GroupStoppedError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """The processes that train one trial, as one of them sees them. All must call each method, in the same order."""

    rank: int = 0
    """From 0. The first process writes the trial's files and reports its epochs."""
    size: int = 1

    def gather(self, part: np.ndarray) -> np.ndarray:
        """The processes' arrays, (v, n) each with its own n, joined along the second axis in the order of the ranks."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return np.concatenate(parts, axis=1)

    def broadcast(self, value: Value) -> Value:
        """The first process's value: numbers, texts, tensors on the CPU, and containers of these."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_first(self, act: Callable[[], None]) -> None:
        """Calls `act` in the first process; the others wait.

        Raises what `act` raises there, and GroupStoppedError in the others.
        """
        if self.size == 1:
            act()  # nothing of it stays in memory if it raises
            return
        error: BaseException | None = None
        if self.rank == 0:
            try:
                act()
            except BaseException as raised:  # the others must hear of it before it is raised
                error = raised
        if self.broadcast(error is not None):
            raise error or GroupStoppedError("the first process of the group has stopped")


ALONE = Group()


def this_group() -> Group:
    """The group of torch.distributed that this process is in, or a group of one."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process of the group has died or did not answer in time."""
    text = str(error).lower()
    lost = "gloo" in text or "pair closure" in text  # gloo does not name itself when a time limit has passed
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and lost)

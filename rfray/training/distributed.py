"""torch.distributed -> `Group`: the processes that train one trial, each with a share of every batch.

A trial that one process trains has a group of one, for which every method costs nothing.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rfray.errors import GroupStoppedError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """The processes that train one trial, as one of them sees them. All must call each method, in the same order."""

    rank: int = 0
    """From 0. The first process writes the trial's files and reports its epochs."""
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as DDP: all processes start with the first one's weights, and a backward pass averages gradients.

        A parameter without a gradient is allowed.
        """
        if self.size == 1:
            return model
        devices = [next(model.parameters()).device] if torch.cuda.is_available() else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)

    def gradient_sync(self, wrapped: nn.Module, now: bool) -> AbstractContextManager[object]:
        """A block in which a backward pass averages the gradients over the group (`now`), or only accumulates them."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not now else nullcontext()

    def sync_batch_norm(self, model: nn.Module) -> nn.Module:
        """The model with batch normalisation over the whole group's batch.

        torch has that for GPUs only: on CPUs every process normalises over its own share.
        """
        if self.size == 1 or not torch.cuda.is_available():
            return model
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    @torch.no_grad()
    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place. It is on the model's device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_buffers(self, buffers: Iterable[torch.Tensor]) -> None:
        """Replaces running statistics by their mean over the processes, in place."""
        if self.size > 1:
            for buffer in buffers:
                if buffer.is_floating_point():
                    self.sum(buffer).div_(self.size)

    def gather(self, part: np.ndarray) -> np.ndarray:
        """The processes' arrays, (v, n) each with its own n, joined along the second axis in the order of the ranks."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return np.concatenate(parts, axis=1)

    def broadcast(self, value: Value) -> Value:
        """The first process's value: numbers, texts, tensors on the CPU, and containers of these."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_first(self, act: Callable[[], None]) -> None:
        """Calls `act` in the first process; the others wait.

        Raises what `act` raises there, and GroupStoppedError in the others.
        """
        if self.size == 1:
            act()
            return
        error: BaseException | None = None
        if self.is_first:
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

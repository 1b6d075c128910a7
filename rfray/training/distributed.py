"""torch.distributed -> `Group`: the processes that train one trial together, each with a share of every batch.

A trial in one process is a group of one, for which all of this costs nothing.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

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
    """Which of the processes this one is. Every method must be called by all of them, in the same order."""

    rank: int = 0
    """From 0. The first writes the trial's files and talks to whoever started it."""
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model, to be trained through: it averages the gradients over the group after a backward pass.

        Also makes every process begin with the first one's weights. A parameter without a gradient is allowed.
        """
        if self.size == 1:
            return model
        devices = [next(model.parameters()).device] if torch.cuda.is_available() else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)

    def averaging(self, trained: nn.Module, now: bool) -> AbstractContextManager[object]:
        """A block in which a backward pass through what `wrapped` gave averages the gradients, or only adds them up."""
        return trained.no_sync() if isinstance(trained, DistributedDataParallel) and not now else nullcontext()

    def with_batch_norm(self, model: nn.Module) -> nn.Module:
        """The model, normalising over the batches of the whole group.

        torch can do that on GPUs alone: on CPUs every process normalises over its own share of a batch.
        """
        if self.size == 1 or not torch.cuda.is_available():
            return model
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    @torch.no_grad()
    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place; it is on the device that the model is on."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def even_out(self, buffers: Iterable[torch.Tensor]) -> None:
        """Makes running statistics the same everywhere: the mean over the processes, in place."""
        if self.size > 1:
            for buffer in buffers:
                if buffer.is_floating_point():
                    self.sum(buffer).div_(self.size)

    def gather(self, part: np.ndarray, bounds: np.ndarray, device: torch.device) -> np.ndarray:
        """(n,) float64 of which each process has a part: bounds[rank] to bounds[rank + 1]; `bounds` ends with n."""
        if self.size == 1:
            return part
        whole = torch.zeros(int(bounds[-1]), dtype=torch.float64)
        whole[bounds[self.rank] : bounds[self.rank + 1]] = torch.from_numpy(part)
        return np.asarray(self.sum(whole.to(device)).cpu().numpy())

    def of_first(self, value: Value) -> Value:
        """What the first process has; it must be the same kind of thing for all: numbers, texts, tensors on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def first(self, act: Callable[[], None]) -> None:
        """The first process acts while the others wait.

        Raises what `act` raises there, and GroupStoppedError in the others then.
        """
        if self.size == 1:
            act()
            return
        error: BaseException | None = None
        if self.is_first:
            try:
                act()
            except BaseException as raised:  # told to the others first
                error = raised
        if self.of_first(error is not None):
            raise error or GroupStoppedError("the first process of the group has stopped")


ALONE = Group()


def this_group() -> Group:
    """The group that this process is in: that of torch.distributed, or none but itself."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the group can't be reached any more, or has not come in time."""
    text = str(error).lower()
    lost = "gloo" in text or "pair closure" in text  # of a time that is up gloo does not say that it is gloo's
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and lost)

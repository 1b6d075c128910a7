"""out of memory -> smaller bites: which errors mean it, and what is given back between trials."""

import ctypes
import gc
import sys

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or this machine, had no memory left."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def give_back() -> None:
    """Returns what no object holds any more to the GPU and to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed blocks for itself, and a reused worker would grow from trial to trial
        ctypes.CDLL(None).malloc_trim(0)

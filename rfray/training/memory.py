"""out of memory -> smaller bites: which errors mean it; what is kept between batches and given back between trials."""

import ctypes
import gc
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of glibc's mallopt (malloc.h)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or this machine, had no memory left."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def use_threads(threads: int) -> None:
    """Has torch compute with so many threads of this process, which keeps the memory that models free."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """From here on this process keeps what it frees for itself, until `give_back`.

    Every batch needs the same large blocks again. glibc would return each to the system, which clears all of its pages
    whenever they come back: on a CPU, half the time of a batch of 64 at 224 px.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # there is none in musl
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Returns what no object holds any more to the GPU and to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # else a reused worker would grow from trial to trial
        ctypes.CDLL(None).malloc_trim(0)

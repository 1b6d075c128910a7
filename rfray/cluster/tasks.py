"""tasks that run on Ray -> their results in the order in which they end, and the reasons of those that fail."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rfray.errors import first_line

Key = TypeVar("Key")


def finished(pending: dict[Any, Key], until: float | None = None) -> Iterator[tuple[Key, Any]]:
    """The key of each task (reference -> key) with its result, or with the RayError where it failed.

    Whoever iterates may add tasks. Those that have not ended by `until` (seconds since 1970) are cancelled.
    """
    while pending:
        ready, others = ray.wait(list(pending), timeout=None if until is None else max(0.0, until - time.time()))
        if not ready:
            for task in others:
                ray.cancel(task, force=True)
            return
        key = pending.pop(ready[0])
        try:
            result: Any = ray.get(ready[0])
        except RayError as error:
            result = error
        yield key, result


def on_node(node_id: str, function: Callable[..., Any], **options: Any) -> Any:
    """The function as a Ray task that runs on that node, or fails; it gets no cores unless the options say so."""
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(**{"num_cpus": 0, "scheduling_strategy": where, **options})(function)


def reason_of(error: RayError) -> str:
    """Why a task failed, in one line: what it raised itself, or what Ray says of it."""
    return first_line(getattr(error, "cause", None) or error)

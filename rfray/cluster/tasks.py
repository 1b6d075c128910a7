"""tasks that run on Ray -> their results, in the order they end, or why they failed."""

from ray.exceptions import RayError


def reason_of(error: RayError) -> str:
    """Why a task failed, in one line: what it raised itself, or what Ray says of it."""
    cause = getattr(error, "cause", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]

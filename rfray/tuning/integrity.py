"""A run folder -> the same without damaged files: what they held is written again, or the trial is trained again."""

from collections.abc import Iterator

from rfray.errors import RunError
from rfray.store.run_dir import RunDir, TrialDir
from rfray.training.checkpoint import read_state, write_history


def repair(run: RunDir) -> list[str]:
    """Checks the files of every trial against their digests; what was found, one line each.

    A finished trial that has lost something is trained again. One that was running has its history written anew from
    its state, or continues without what is lost.
    """
    return [line for out in run.models() for line in (_reopened(out) if out.result_file.exists() else _repaired(out))]


def _reopened(out: TrialDir) -> Iterator[str]:
    try:
        result = out.result()
        damaged = [] if result is None else out.damaged_files(result)
    except RunError as error:
        yield f"{error}; the trial is run again"
        damaged = [out.result_file]
    else:
        for file in damaged:
            yield f"{file} is damaged: its content does not match its digest; the trial is run again"
    if damaged:
        out.mirror.remove([out.result_file, out.history_file, *damaged])


def _repaired(out: TrialDir) -> Iterator[str]:
    damaged: list[str] = []
    state = read_state(out, damaged.append)
    yield from damaged
    if state is None:  # it starts over, also where it was killed after its first row of history, before its first state
        out.history_file.unlink(missing_ok=True)
        return
    epochs = len(state["history"])
    try:
        whole = len(out.history()) >= epochs
        problem = f"{out.history_file} is damaged: it does not hold all of {epochs} epochs"
    except RunError as error:
        whole, problem = False, str(error)
    if not whole:
        yield f"{problem}; it was written anew"
        write_history(out, state["history"])

"""A trial's folder <-> what it resumes from: its state, its history, and the best epoch's weights and predictions.

An epoch's files are written in this order: history.csv, state-<epoch>-<digest>.pt, then the best epoch's files.
After a kill between any two of them, the next start makes the others agree with the state.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pandas as pd
import torch

from rfray.models.inference import save_weights
from rfray.stats.predictions import write_predictions
from rfray.store.files import file_digest, write_whole
from rfray.store.run_dir import TrialDir
from rfray.training.learner import Epoch, Learner
from rfray.training.step import Validated


def write_epoch(out: TrialDir, learner: Learner, last: Epoch, val_metric: str, best: Validated | None) -> None:
    """Writes the files of the epoch `last`; `best` is None where an earlier one is better.

    Raises DiskFullError, and what the hook `before_writing` raises.
    """
    learner.hooks.before_writing()
    row = asdict(last)
    row[f"val_{val_metric}"] = row.pop("score")
    del row["best_score"], row["best_epoch"]
    learner.history.append(row)
    write_history(out, learner.history)
    write_state(out, last.epoch, learner.state_dict())
    if best is not None:
        _write_best(out, learner, last, best)


def complete_files(out: TrialDir, learner: Learner, best: Validated | None) -> None:
    """Writes again what a kill may have left out of the last epoch's files; `best` is None where it is not the best."""
    if learner.last is None:
        out.history_file.unlink(missing_ok=True)
        return
    write_history(out, learner.history)
    if best is not None:
        _write_best(out, learner, learner.last, best)


def _write_best(out: TrialDir, learner: Learner, last: Epoch, best: Validated) -> None:
    origin = {"epoch": str(last.epoch), "score": repr(last.score), "trial": learner.trial.model_dump_json()}
    # what `auto` came to, for a training again that must not choose
    origin |= {"tta": "flip" if best.flip else "none", "swa": "epochs" if best.averaged else "none"}
    save_weights(out.weights_file, best.model, origin)
    weights, val = file_digest(out.weights_file), out.predictions_file("val")
    write_predictions(val, best.predictions, {**origin, "weights": weights})
    learner.best_files = {out.weights_file.name: weights, val.name: file_digest(val)}


def write_state(out: TrialDir, epoch: int, state: dict[str, Any]) -> None:
    """Writes the state after `epoch`, then removes earlier ones. Raises DiskFullError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    written = out.state_file(epoch, hashlib.sha256(content).hexdigest())
    write_whole(written, content)
    for earlier in out.state_files():
        if earlier != written:
            earlier.unlink(missing_ok=True)


def write_history(out: TrialDir, rows: list[dict[str, float | None]]) -> None:
    """Writes history.csv, one row an epoch. Raises DiskFullError."""
    write_whole(out.history_file, pd.DataFrame(rows).to_csv(index=False))


def read_state(out: TrialDir, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state, its tensors on the CPU, or None.

    A file whose content does not match the digest in its name is removed, with a warning.
    """
    for path in out.state_files():
        if path == out.state_file(int(path.stem.split("-")[1]), file_digest(path)):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        warn(f"{path} is damaged: its content does not match its name; the trial starts over")
        path.unlink()
    return None


def read_resumable_state(out: TrialDir, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The state to resume from; None where there is none, or where the files of an earlier best epoch are damaged."""
    state = read_state(out, warn)
    if state is None or state["last"]["best_epoch"] == state["last"]["epoch"]:
        return state  # the files of the last epoch can be made again
    for name, digest in state["best_files"].items():
        file = out.path / name
        if not file.exists() or file_digest(file) != digest:
            warn(f"{file} is damaged: its content does not match its digest; the trial starts over")
            return None
    return state

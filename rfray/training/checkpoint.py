"""state-<epoch>-<digest>.pt <-> what a trial goes on from: tensors and numbers, read without running anything.

history.csv is written from what the state holds of it.
"""

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from rfray.store.files import file_digest, replace_text, write_whole
from rfray.store.run_dir import TrialDir

if TYPE_CHECKING:
    import torch

# torch is imported inside the functions: who looks for damage needs it only where there is a state


def write_state(out: TrialDir, epoch: int, state: dict[str, Any]) -> None:
    """Writes the state after `epoch`, then removes earlier ones. Raises DiskFullError where there is no room."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    written = out.state_file(epoch, hashlib.sha256(data).hexdigest())
    write_whole(written, data)
    for earlier in out.state_files():
        if earlier != written:
            earlier.unlink(missing_ok=True)


def read_state(out: TrialDir, device: "torch.device | str", warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state whose content matches the digest in its name, or None. `warn` is told of a damaged one."""
    for path in out.state_files():
        epoch = int(path.stem.split("-")[1])
        if path == out.state_file(epoch, file_digest(path)):
            import torch

            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            return state
        warn(f"{path} is damaged: its content does not match its name; the trial starts over")
        path.unlink()
    return None


def write_history(out: TrialDir, rows: list[dict[str, float | None]]) -> None:
    """Writes history.csv, one row an epoch. Raises DiskFullError where there is no room."""
    replace_text(out.history_file, pd.DataFrame(rows).to_csv(index=False))

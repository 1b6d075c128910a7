"""state-<epoch>-<digest>.pt <-> what a trial goes on from: tensors and numbers, read without running anything."""

import hashlib
import io
import logging
from typing import Any

import torch

from rfray.files import file_digest, write_whole
from rfray.run import TrialDir

logger = logging.getLogger(__name__)


def write_state(out: TrialDir, epoch: int, state: dict[str, Any]) -> None:
    """Writes the state after `epoch`, then removes earlier ones. Raises DiskFullError where there is no room."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    written = out.state_file(epoch, hashlib.sha256(data).hexdigest())
    write_whole(written, data)
    for earlier in out.state_files():
        if earlier != written:
            earlier.unlink(missing_ok=True)


def read_state(out: TrialDir, device: torch.device) -> dict[str, Any] | None:
    """The newest state whose content matches the digest in its name, or None. Damaged ones are named and removed."""
    for path in out.state_files():
        epoch = int(path.stem.split("-")[1])
        if path == out.state_file(epoch, file_digest(path)):
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            return state
        logger.warning("%s is damaged (its content does not match its name) and is not used", path)
        path.unlink()
    return None

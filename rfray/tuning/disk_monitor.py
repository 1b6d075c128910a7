"""free space -> an error before a disk is full: Ray's temporary folder, watched while trials run."""

import shutil
from pathlib import Path
from typing import Any

from rfray.store.files import no_room
from rfray.tuning.callbacks import Follower

RAY_NEEDS = 200_000_000
"""Bytes that stay free where Ray keeps its logs and spilled objects; below it, Ray hangs without a word."""


class DiskWatch(Follower):
    """Stops the sweep while there is still room to stop it cleanly."""

    def __init__(self, ray_folder: Path) -> None:
        self._ray_folder = ray_folder

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Looks once an epoch of any trial. Raises DiskFullError."""
        if shutil.disk_usage(self._ray_folder).free < RAY_NEEDS:
            with self.stopping():
                raise no_room(self._ray_folder, RAY_NEEDS)

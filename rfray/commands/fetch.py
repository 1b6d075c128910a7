"""The address of a run -> its folder here: the steps of `rfray fetch`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rfray.errors import InputError
from rfray.remote.fetch import fetch_run
from rfray.store.ownership import lock_run
from rfray.store.run_dir import RunDir
from rfray.store.storage import is_address

if TYPE_CHECKING:
    from rich.console import Console


def fetch(run: str, to: Path | None, weights: bool, console: "Console") -> None:
    """Brings a run folder from its address to `to`, by default runs/<name>; again, only what is new or damaged.

    `weights`: whether the weights of the kept trials come, too. Raises InputError where `run` is no address.
    """
    folder = RunDir(to or Path("runs", Path(run).name))
    if not is_address(run):
        raise InputError(
            f"{run}: not an address (s3://bucket/runs/x). A run on a cluster's disk: "
            f"`ray rsync-down cluster.yaml RFRAY_HOME/{run}/ {folder.shown(folder.path)}/` copies it. A sweep that is "
            "started with --run s3://… writes to the bucket, from where `rfray fetch` brings it"
        )
    with lock_run(folder):
        fetch_run(run, folder, weights)
    console.print(f"Fetched into {folder.shown(folder.path)}", soft_wrap=True)

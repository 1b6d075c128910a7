"""The address of a run -> its files in a folder here; those that are here already are not fetched again."""

from pathlib import Path

from rich.console import Console

from rfray.errors import InputError, RunError
from rfray.progress.phases import say
from rfray.spec.sweep_file import differences
from rfray.store.ownership import lock_run
from rfray.store.run_dir import WEIGHTS_FILE, RunDir
from rfray.store.storage import STATES, Mirror, is_address


def fetch(address: str, to: Path | None, weights: bool, console: Console) -> None:
    """Brings a run from its address (s3://bucket/runs/x) to `to`, by default runs/<name>: what is missing or differs.

    `weights`: whether the weights of the kept trials come, too. Raises InputError where that is no address, RunError
    where there is no run folder, `to` holds another sweep, or a trial's files do not match the digests in its
    result.json; StorageError where the store refuses or does not answer.
    """
    run = RunDir(to or Path("runs", Path(address).name))
    if not is_address(address):
        raise InputError(
            f"{address}: not an address (s3://bucket/runs/x). A run on a cluster's disk: "
            f"`ray rsync-down cluster.yaml RFRAY_HOME/{address}/ {run.shown(run.path)}/` copies it. A sweep that is "
            "started with --run s3://… writes to the bucket, from where `rfray fetch` brings it"
        )
    with lock_run(run):
        remote = RunDir(address)
        remote.mirror.pull(remote.sweep_file.name, removing=remote.sweep_file.name)
        sweep = remote.sweep()
        if run.sweep_file.exists() and (changed := differences(run.sweep(), sweep)):
            raise RunError(
                f"{run.path} holds another sweep than the one that is to be fetched:",
                *(f"  {line}" for line in changed),
                "Fetch into another folder with --to",
            )
        left_out = [".*", "*/.*", f"*{STATES}", *([] if weights else [f"*{WEIGHTS_FILE}"])]
        Mirror(run.path, remote.mirror.storage).pull(without=left_out)
        run.check_trials(all_there=False)
    say(console, f"Fetched into {run.shown(run.path)}")

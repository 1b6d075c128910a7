"""the address of a run -> the same files in a run folder here; those that are here already are not fetched again."""

from rfray.errors import RunError
from rfray.spec.sweep_file import differences
from rfray.store.run_dir import WEIGHTS_FILE, RunDir
from rfray.store.storage import STATES, Mirror


def fetch_run(address: str, run: RunDir, weights: bool) -> None:
    """Brings a run at an address (s3://bucket/runs/x) here: what is missing, or differs in size or time.

    `weights`: best.safetensors of the trials, too. Raises RunError where there is no run folder, `run` holds another
    sweep, or a trial's files do not match the digests in its result.json; StorageError where the store refuses or does
    not answer.
    """
    remote = RunDir(address)
    remote.mirror.pull(remote.sweep_file.name, removing=remote.sweep_file.name)
    sweep = remote.sweep()
    if run.sweep_file.exists() and (changed := differences(run.sweep(), sweep)):
        raise RunError(
            f"{run.path} holds another sweep than the one that is to be fetched:\n  "
            + "\n  ".join(changed)
            + "\nFetch into another folder with --to"
        )
    left_out = [".*", "*/.*", f"*{STATES}", *([] if weights else [f"*{WEIGHTS_FILE}"])]
    Mirror(run.path, remote.mirror.storage).pull(without=left_out)
    run.check_trials()

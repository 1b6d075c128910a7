"""a bundle's folder, a run with one, or an address -> what the bundle says of itself; its files are held to that."""

from pathlib import Path

from rfray.errors import RunError
from rfray.store.bundle_record import Bundle, check_files
from rfray.store.ensemble_record import Ensemble
from rfray.store.run_dir import ENSEMBLE_FILE, RunDir, read_record


def read_bundle(where: Path | str) -> tuple[Path, Ensemble, Bundle]:
    """The folder of a bundle whose files are what they were, and what it says of itself.

    Raises RunError where there is none, or a file is missing, damaged or more than data.
    """
    folder = find_bundle(where)
    ensemble = read_record(folder / ENSEMBLE_FILE, Ensemble)
    bundle = ensemble.bundle
    if bundle is None or [member.id for member in bundle.members] != ensemble.members:
        raise RunError(
            f"{folder / ENSEMBLE_FILE} does not say what its members are; `rfray ensemble RUN` writes it anew"
        )
    check_files(folder, bundle.files, bundle.members)
    return folder, ensemble, bundle


def find_bundle(where: Path | str) -> Path:
    """The folder with ensemble.json: `where` itself or its ensemble/, brought here from an address."""
    run = RunDir(where)
    run.mirror.pull(ENSEMBLE_FILE, f"ensemble/{ENSEMBLE_FILE}", "members/*", "ensemble/members/*")
    for folder in (run.path, run.bundle_folder):
        if (folder / ENSEMBLE_FILE).is_file():
            return folder
    made = "; `rfray ensemble` makes it" if run.sweep_file.exists() else ", and no run folder"
    raise RunError(f"{run.where}: no bundle (a folder with {ENSEMBLE_FILE}){made}")

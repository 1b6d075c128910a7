"""a job on a cluster -> the folder that its command works in, with the weights that came along; files for elsewhere."""

import os
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from rfray.errors import ClusterError
from rfray.progress.events import (
    INSIDE,
    FilesOffered,
    JobBegan,
    OfferedFile,
    print_event,
    rfray_version,
)
from rfray.remote.jobs import WEIGHTS, check_versions
from rfray.spec.sweep import Resources
from rfray.store.files import file_digest, replacing
from rfray.store.run_dir import RunDir, TrialDir


def begin_job(client: str) -> None:
    """Makes this process a job's command, for an rfray of version `client` elsewhere.

    The working folder becomes the one that RFRAY_HOME names (as Ray was started with it), else the home folder.
    Raises ClusterError where the versions differ or that folder is not there.
    """
    print_event(JobBegan(rfray=rfray_version(), package=os.getcwd()))
    check_versions("rfray", client, rfray_version(), "rfray")
    home = Path(os.environ.get("RFRAY_HOME") or "~").expanduser()
    if not home.is_dir():
        raise ClusterError(f"RFRAY_HOME is {home} on the cluster, and there is no such folder")
    os.chdir(home)
    os.environ[INSIDE] = "1"
    _unpack_weights()


def offer(path: str) -> None:
    """Tells of the files of a run folder, and has Ray's log server give them out.

    They are those of the contract: no states to go on from, nothing half-written. Raises RunError where it is no run
    folder.
    """
    from rfray.cluster.connect import connected

    run = RunDir(path)
    run.sweep()
    with connected("auto", Resources()) as session:
        link = Path("rfray", run.name + "-" + file_digest(run.sweep_file)[:8])
        served = session / "logs" / link
        served.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            served.unlink()
        served.symlink_to(run.path)
    files = [
        OfferedFile(path=str(file.relative_to(run.path)), size=file.stat().st_size, sha256=file_digest(file))
        for file in sorted(run.path.rglob("*"))
        if file.is_file() and _is_for_keeps(file, run)
    ]
    print_event(FilesOffered(folder=str(run.path), link=str(link), files=files))


def _is_for_keeps(file: Path, run: RunDir) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(run.path).parts)
    return not hidden and file not in TrialDir(file.parent).state_files()


def _unpack_weights() -> None:
    """Joins the pieces that Ray has put on the path of modules, unless the file is there already."""
    folders = [Path(entry, "rfray-weights") for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    pieces = sorted((piece for folder in folders for piece in folder.glob("*.[0-9]*")), key=lambda piece: piece.name)
    for name, group in groupby(pieces, key=lambda piece: piece.name.rpartition(".")[0]):
        file, digest = Path(WEIGHTS, name), name.partition("-")[0]
        if file.exists() and file_digest(file).startswith(digest):
            continue
        with replacing(file) as temporary:
            with temporary.open("wb") as whole:
                for piece in group:
                    whole.write(piece.read_bytes())
            if not file_digest(temporary).startswith(digest):
                raise ClusterError(f"the weights {name} did not arrive whole; start the command again")

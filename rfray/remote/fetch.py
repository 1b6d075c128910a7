"""a run folder elsewhere -> the same files in one here: those that are missing or differ, checked by their digests."""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Event as Flag
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rfray.errors import ClusterError, RfrayError, RunError
from rfray.progress.events import FilesOffered, OfferedFile
from rfray.remote.jobs import Order, Output, reach, submit
from rfray.spec.sweep_file import differences, read_resolved_sweep
from rfray.store.files import file_digest, replacing
from rfray.store.run_dir import WEIGHTS_FILE, RunDir
from rfray.store.storage import STATES, Mirror, Storage

AT_ONCE = 8
"""Files that travel at the same time."""
ROUNDS = 3
"""So often the files are listed anew where some have changed on their way, as a sweep that runs changes them."""


class Source(Protocol):
    """A run folder elsewhere."""

    def files(self) -> Sequence[OfferedFile]:
        """All its files as they are now. Raises RunError where it is no run folder."""

    def read(self, file: OfferedFile) -> Iterator[bytes]:
        """The bytes of one, in pieces."""


class ClusterRun:
    """A run folder on a cluster: listed by a job, read through the server that gives out Ray's logs."""

    def __init__(self, address: str, path: str, console: Console) -> None:
        """Raises ClusterError as `reach`."""
        self._client = reach(address)
        self._path = path
        self._console = console
        self._node = self._link = ""

    def files(self) -> Sequence[OfferedFile]:
        """All its files as they are now. Raises RunError where it is no run folder."""
        offers: list[FilesOffered] = []
        said: list[str] = []
        output = Output(lambda event: offers.append(event) if isinstance(event, FilesOffered) else None, said.append)
        with self._console.status(f"Listing {self._path}"):
            job = submit(self._client, Order("offer", self._path, (self._path,), lasting=False), self._console)
            while not (ended := self._client.get_job_info(job)).status.is_terminal():
                time.sleep(0.3)
        output.take(self._client.get_job_logs(job))
        output.close()
        if not offers:
            text = "\n".join(said).removeprefix("rfray: ") or ended.message
            raise (RunError if ended.driver_exit_code == RunError.exit_code else RfrayError)(text)
        self._node, self._link = ended.driver_node_id, offers[0].link
        return offers[0].files

    def read(self, file: OfferedFile) -> Iterator[bytes]:
        """The bytes of one, in pieces."""
        import requests

        # the `timeout` there is of the whole file
        where = {"node_id": self._node, "filename": f"{self._link}/{file.path}", "lines": -1, "timeout": 24 * 3600}
        try:
            answer = self._client._do_request("GET", "/api/v0/logs/file", params=where, stream=True, timeout=60)
            answer.raise_for_status()
            yield from answer.iter_content(2**20)
        except requests.RequestException as error:
            raise ClusterError(
                f"the cluster does not answer any more ({type(error).__name__}); the same command goes on"
            ) from None


def fetch(source: Source, run: RunDir, weights: bool) -> tuple[int, int]:
    """Brings a run folder here: how many files came, and their bytes. `weights`: best.safetensors of the trials, too.

    A file moves into its place when it is whole. Raises RunError where `run` holds another sweep, ClusterError where
    the connection fails, RfrayError where files keep changing, DiskFullError.
    """
    came: list[OfferedFile] = []
    changed: list[OfferedFile] = []
    for _ in range(ROUNDS):
        listed = [file for file in source.files() if weights or not _is_weights(file)]
        for file in listed:
            if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
                raise RunError(f"the cluster offers {file.path}, which is not below the run folder")
        if run.sweep_file.exists():
            sweep = next(file for file in listed if file.path == run.sweep_file.name)
            _check_same_sweep(b"".join(source.read(sweep)), run)
        missing = [file for file in listed if not _is_here(file, run)]
        changed = _bring_all(source, missing, run)
        came += [file for file in missing if file not in changed]
        if not changed:
            return len(came), sum(file.size for file in came)
    raise RfrayError(
        f"{len(changed)} files changed on their way, e.g. {changed[0].path}: does the sweep still run? "
        "The same command goes on"
    )


def fetch_from_store(address: str, run: RunDir, weights: bool) -> None:
    """Brings a run at an address (s3://bucket/runs/x) here: what is missing, or differs in size or time.

    Raises RunError where it is no run folder, `run` holds another sweep, or what came of a trial does not match the
    digests in its result.json; StorageError where the store refuses or does not answer.
    """
    storage = Storage(address)
    if storage.entry(run.sweep_file.name) is None:
        raise RunError(f"{address}: not a run folder (no {run.sweep_file.name})")
    _check_same_sweep(storage.read(run.sweep_file.name), run)
    hidden = (".*", "*/.*")
    Mirror(run.path, storage).pull(without=(*hidden, f"*{STATES}", *([] if weights else [f"*{WEIGHTS_FILE}"])))
    run.check_trials()


def _is_weights(file: OfferedFile) -> bool:
    return PurePosixPath(file.path).name == WEIGHTS_FILE


def _is_here(file: OfferedFile, run: RunDir) -> bool:
    here = run.path / file.path
    return here.exists() and here.stat().st_size == file.size and file_digest(here) == file.sha256


def _check_same_sweep(there: bytes, run: RunDir) -> None:
    """Raises RunError where the folder here has another sweep than `there` (its sweep.yaml) says."""
    if not run.sweep_file.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, run.sweep_file.name).write_bytes(there)
        changed = differences(run.sweep(), read_resolved_sweep(Path(folder, run.sweep_file.name)))
    if changed:
        raise RunError(
            f"{run.path} holds another sweep than the one that is to be fetched:\n  "
            + "\n  ".join(changed)
            + "\nFetch into another folder with --to"
        )


class _ChangedError(Exception):
    """What came is not what was listed."""


def _bring_all(source: Source, files: Sequence[OfferedFile], run: RunDir) -> list[OfferedFile]:
    """Brings the files, those that say that a trial has ended last; the ones that are other ones by now."""
    columns = (TextColumn("Fetching"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    changed: list[OfferedFile] = []
    stopped = Flag()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=sum(file.size for file in files))

        def bring(file: OfferedFile) -> None:
            digest = hashlib.sha256()
            try:
                with replacing(run.path / file.path, file.size) as temporary:
                    with temporary.open("wb") as written:
                        for piece in source.read(file):
                            if stopped.is_set():
                                raise _ChangedError
                            written.write(piece)
                            digest.update(piece)
                            progress.advance(bar, len(piece))
                    if digest.hexdigest() != file.sha256:
                        raise _ChangedError
            except _ChangedError:
                changed.append(file)

        for last in (False, True):
            wave = [file for file in files if (PurePosixPath(file.path).name == "result.json") == last]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                tasks = [pool.submit(bring, file) for file in wave]
                try:
                    for task in tasks:
                        task.result()
                except BaseException:
                    stopped.set()
                    pool.shutdown(cancel_futures=True)
                    raise
    return changed

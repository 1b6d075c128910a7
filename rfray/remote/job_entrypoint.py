"""a job on a cluster -> the folder that its command works in, with the weights that came along."""

import os
import shutil
from pathlib import Path

from rfray.errors import ClusterError
from rfray.progress.events import INSIDE, JobBegan, print_event, rfray_version
from rfray.remote.client import check_versions
from rfray.remote.command import WEIGHTS
from rfray.remote.jobs import PACKAGED_WEIGHTS
from rfray.store.files import file_digest, replacing


def begin_job(client: str) -> None:
    """Makes this process a job's command, for an rfray of version `client` elsewhere.

    The working folder becomes the one that RFRAY_HOME names (as Ray was started with it), else the home folder; weights
    that came with the job are copied there, for all nodes. Raises ClusterError where the versions differ or that folder
    is not there.
    """
    package = Path.cwd()
    check_versions("rfray", client, rfray_version(), "rfray")  # before the first event, which another one may not know
    print_event(JobBegan(package=str(package)))
    home = Path(os.environ.get("RFRAY_HOME") or "~").expanduser()
    if not home.is_dir():
        raise ClusterError(f"RFRAY_HOME is {home} on the cluster, and there is no such folder")
    os.chdir(home)
    os.environ[INSIDE] = "1"
    for file in (package / PACKAGED_WEIGHTS).glob("*"):
        target = Path(WEIGHTS, file.name)  # its name begins with its digest
        if not target.exists() or not file.name.startswith(file_digest(target)[:16]):
            with replacing(target, file.stat().st_size) as temporary:
                shutil.copyfile(file, temporary)

"""clusters/on-premises.yaml for real: hosts of our own, `ray up`, a sweep that loses one of them, and the way down.

The tests are steps of one story, in the order of this file.
"""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from rfray.store.run_dir import RunDir
from tests.hosts import HOME, ROOT, SHARED, Host, Hosts, hosts, missing
from tests.pictures import write_folder
from tests.whole_run import check_run

WHY_NOT = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
PATIENCE = 600
"""Seconds after which what must happen has not: machines that test many things at once are slow."""
ADDRESSES = ["192.168.1.20", "192.168.1.21", "192.168.1.22"]
"""Not those of the file: they are what anybody has to change."""
FILE = f"{HOME}/cluster.yaml"
INSTALL = [
    f"ln -sfn {sys.prefix} ~/rfray-env",
    "grep -q PYTHONPATH ~/.bashrc || echo 'export PYTHONPATH=$HOME/rfray' >> ~/.bashrc",
]
"""Instead of what installs from the network: this environment, and in it the rfray that has travelled."""
TRIALS = 4
SWEEP = f"""
name: hosts
data: {{train: pictures/train, test: pictures/test, val: 0.25}}
trial:
  backbone: test_resnet
  pretrained: false
  augmentation: light
  image_size: 32
  lr: {{log: [1e-4, 1e-2]}}
  epochs: 40
  batch_size: 20
search: {{trials: {TRIALS}, algorithm: random, scheduler: none}}
resources: {{cpu: {len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1}, gpu: 0}}
ensemble: {{top_k: 2}}
"""
"""One trial at a time on each host, and enough epochs for one of them to be in the middle."""
WATCH = """
import logging, select, sys, time, ray
ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    print(time.time(), *(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]), flush=True)
"""


@dataclass
class Cluster:
    """What `ray up` has made of the hosts."""

    there: Hosts
    took: float
    """Seconds of ray up."""
    seen: Path
    """A line a tenth of a second: the time, and the addresses of the nodes that Ray counts as alive."""
    watch: subprocess.Popen[bytes]
    """Writes those lines, on the head."""
    cut: list[Host] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        return RunDir(self.there.shared / "runs" / "hosts")

    def stop_watching(self) -> None:
        assert self.watch.stdin is not None
        self.watch.stdin.close()
        self.watch.wait(PATIENCE)

    def nodes(self) -> tuple[float, set[str]]:
        """When Ray was last asked for its nodes, and what it said."""
        lines = [line.split() for line in self.seen.read_text().splitlines() if line[:1].isdigit()]
        return (float(lines[-1][0]), set(lines[-1][1:])) if lines else (0.0, set())


def laptop(there: Hosts, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command on the laptop, in the checkout."""
    words = there.laptop.words(*command, at=str(ROOT), PYTHONPATH=str(ROOT), **environment)
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)


def on_head(there: Hosts, command: str) -> list[str]:
    """The words that run a shell command on the head from the laptop, as the README has it."""
    return there.laptop.words("ray", "exec", FILE, f"cd {SHARED} && {command}", at=str(ROOT))


def until(true: Callable[[], bool], what: str, said: Callable[[], str]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE, f"{what} has not happened:\n{said()}"
        time.sleep(0.1)


def written_for(addresses: list[str]) -> dict[str, Any]:
    """The file that is shipped, with these addresses, and without the two commands that install from the network."""
    config = YAML(typ="safe").load(ROOT / "clusters" / "on-premises.yaml")
    config["provider"] |= {"head_ip": addresses[0], "worker_ips": addresses[1:]}
    commands = config["setup_commands"]
    from_network = [command for command in commands if "-m venv" in command or "pip install" in command]
    assert len(from_network) == 2
    config["setup_commands"] = [*INSTALL, *(command for command in commands if command not in from_network)]
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hosts")
    with hosts(folder, ADDRESSES) as there:
        write_folder(there.shared / "pictures" / "train", per_class=60, seed=0)
        write_folder(there.shared / "pictures" / "test", per_class=16, seed=1)
        for place in (there.shared, folder / "laptop" / "home"):
            (place / "sweep.yaml").write_text(SWEEP)
        with (folder / "laptop" / "home" / "cluster.yaml").open("w") as file:
            YAML(typ="safe").dump(written_for(ADDRESSES), file)
        assert laptop(there, "ray", "get-auth-token", "--generate").returncode == 0
        began = time.monotonic()
        up = laptop(there, "ray", "up", "--yes", FILE)
        took = time.monotonic() - began
        assert up.returncode == 0, up.stdout + up.stderr
        seen = folder / "nodes.txt"
        with seen.open("w") as file:
            words = there.hosts[0].words("python", "-c", WATCH, RAY_AUTH_MODE="token")
            watch = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)
        made = Cluster(there, took, seen, watch)
        yield made
        made.stop_watching()


def test_all_hosts_join(cluster: Cluster) -> None:
    began = time.monotonic()
    until(lambda: cluster.nodes()[1] == set(ADDRESSES), "all nodes join", cluster.seen.read_text)
    print(f"ray up took {cluster.took:.1f} s; all nodes were there {time.monotonic() - began:.1f} s later")


def test_the_token_is_nobody_elses(cluster: Cluster) -> None:
    token = (cluster.there.laptop.folder / "home" / ".ray" / "auth_token").read_text()
    for host in cluster.there.hosts:
        file = host.folder / "home" / ".ray" / "auth_token"
        assert file.read_text() == token
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_machine_without_a_node_is_told_what_to_do(cluster: Cluster) -> None:
    head = ADDRESSES[0]
    for environment in ({}, {"RAY_AUTH_MODE": "token"}):
        done = laptop(
            cluster.there, "rfray", "tune", f"{HOME}/sweep.yaml", "--address", f"{head}:6379", **environment
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert f"the cluster at {head}:6379 has no node on this machine: run the command on one" in done.stderr


def test_a_sweep_outlives_a_host(cluster: Cluster) -> None:
    there, run, lost = cluster.there, cluster.run, cluster.there.hosts[1]
    log = there.shared / "tune.log"
    with log.open("w") as file:
        tune = subprocess.Popen(
            on_head(there, "rfray tune sweep.yaml --accept-audit --address auto"),
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def under_way() -> bool:
        assert tune.poll() is None, log.read_text()
        return any(len(out.history()) >= 3 for out in on_host(run, lost))

    until(under_way, f"a trial on {lost.name}", log.read_text)
    done = {out.id: len(out.history()) for out in on_host(run, lost)}
    there.cut(lost)
    cluster.cut.append(lost)
    cut = time.time()
    until(lambda: lost.address not in cluster.nodes()[1], f"the death of {lost.name}", cluster.seen.read_text)
    noticed = cluster.nodes()[0] - cut
    print(f"a host that was cut off counted as dead after {noticed:.1f} s")
    assert noticed < 20  # what the file's comments promise; most of it are pauses, not work

    assert tune.wait(PATIENCE) == 0, log.read_text()
    check_run(run, TRIALS)
    for name, epochs in done.items():
        starts = run.trial(name).starts()
        assert starts[0].host == lost.name
        assert starts[-1].host in {host.name for host in there.hosts if host is not lost}
        assert int(starts[-1].epochs) >= epochs  # the cut host still sees the disk, and may have gone on for a while
        print(f"{name}: {epochs} epochs at the cut, went on from {starts[-1].epochs} on {starts[-1].host}")

    ensemble = subprocess.run(
        on_head(there, "rfray ensemble runs/hosts --address auto"), capture_output=True, text=True
    )
    assert ensemble.returncode == 0, ensemble.stdout + ensemble.stderr
    board = pd.read_csv(run.leaderboard_csv)
    assert board["kind"].tolist()[-1] == "baseline"
    board = board[:-1]
    assert sorted(board["name"]) == sorted(["ensemble", *(out.id for out in run.trials())])
    assert set(board["status"]) == {"ok"}
    assert board["auc"].notna().all()


def test_the_token_stands_nowhere(cluster: Cluster) -> None:
    token = (cluster.there.laptop.folder / "home" / ".ray" / "auth_token").read_text()
    for host in cluster.there.hosts:
        found = subprocess.run(
            host.words("grep", "--recursive", "--files-with-matches", "--text", token, "/tmp", SHARED, HOME),
            capture_output=True, text=True,
        )  # fmt: skip
        assert found.stdout.split() == [f"{HOME}/.ray/auth_token"]


def test_taking_it_down_leaves_nothing(cluster: Cluster) -> None:
    there = cluster.there
    cluster.stop_watching()
    down = laptop(there, "python", "clusters/down.py", FILE)
    assert down.returncode == (1 if cluster.cut else 0)
    for host in there.hosts:
        gone = host not in cluster.cut
        assert (f"{host.address}: nothing of Ray is left" in down.stdout) == gone, down.stdout + down.stderr
        assert (f"{host.address}: RAY MAY STILL RUN" in down.stdout) != gone
        assert (of_ray(host) == []) == gone
    for host in cluster.cut:
        there.mend(host)
    down = laptop(there, "python", "clusters/down.py", FILE)
    assert down.returncode == 0, down.stdout + down.stderr
    for host in there.hosts:
        assert of_ray(host) == []


def on_host(run: RunDir, host: Host) -> list[Any]:
    """The trials of a run, as far as it has any, that were last started there."""
    trials = run.trials() if run.trials_folder.exists() else []
    return [out for out in trials if (starts := out.starts()) and starts[-1].host == host.name]


def of_ray(host: Host) -> list[str]:
    """The processes on a host that are not those of sshd."""
    commands = [" ".join(process.cmdline()) for process in host.processes()]
    return [command for command in commands if command and not command.startswith("sshd:")]

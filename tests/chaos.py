"""Kills drivers, trials and nodes of real sweeps at random moments, and holds what the run folder says in the end
against what it must say.

`make chaos SEEDS=5`, or python -m tests.chaos --seeds 5. Each seed is another order of kills on a cluster of two
nodes; after them sweeps on one machine that were killed are compared with sweeps that were not.
"""

import os

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all of this process's Ray listens on 127.0.0.1 alone

import argparse
import atexit
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import ray
from ray.cluster_utils import Cluster

from rfray.store.run_dir import RunDir
from tests.pictures import write_folder
from tests.whole_run import check_run

SWEEP = """
name: chaos
data: {{train: {pictures}/train, test: {pictures}/test, val: 0.25}}
trial:
  backbone: test_resnet
  pretrained: false
  augmentation: none
  image_size: 32
  lr: {{log: [1e-4, 1e-2]}}
  epochs: 6
  batch_size: 20
search: {{trials: {trials}, algorithm: optuna, scheduler: {scheduler}, grace_epochs: 2{more}}}
resources: {{cpu: 1, gpu: 0}}
ensemble: {{top_k: 2}}
"""
PICTURES = 150
"""Of each class, so that an epoch takes about half a second: kills are to hit the middle of one."""
PATIENCE = 300
"""Seconds after which a sweep that nobody disturbs any more must have ended."""


class Command:
    """`rfray tune`, in a session of its own, started as often as it takes."""

    def __init__(self, folder: Path, sweep: str, address: str | None) -> None:
        self.run = RunDir(folder / "run")
        self.log = folder / "log.txt"
        self.starts = 0
        (folder / "sweep.yaml").write_text(sweep)
        self._words = ["tune", "sweep.yaml", "--run", "run", "--accept-audit"]
        self._words += ["--address", address] if address else []
        self._folder = folder
        self.start()
        atexit.register(self.kill)  # a chaos that failed or was stopped leaves no sweep behind

    def start(self) -> None:
        self.starts += 1
        self.process = self._popen(self._words)

    def ensure(self) -> bool:
        """Starts it again if it ended badly; whether it ended well."""
        code = self.process.poll()
        if code not in (None, 0):
            self.start()
        return code == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """Lets it end, undisturbed."""
        began = time.monotonic()
        while not self.ensure():
            assert self.starts < 20, f"it does not begin; see {self.log}"
            assert time.monotonic() - began < PATIENCE, f"no end of it; see {self.log}"
            time.sleep(0.2)

    def ensemble(self) -> None:
        assert self._popen(["ensemble", "run"]).wait(PATIENCE) == 0, f"rfray ensemble failed; see {self.log}"

    def epochs(self) -> dict[Path, str]:
        """What starts.csv and history.csv of each trial say: it changes with every step forward."""
        found = (file for name in ("starts", "history") for file in self.run.trials_folder.glob(f"*/{name}.csv"))
        return {file: file.read_text() for file in found}

    def _popen(self, words: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "RFRAY_CACHE": str(self._folder / "cache")}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with self.log.open("ab") as log:
            log.write(f"\n=== {time.strftime('%X')} rfray {' '.join(words)}\n".encode())
            return subprocess.Popen(
                [sys.executable, "-m", "rfray.cli", *words],
                cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


def trial_processes(above: list[int]) -> list[psutil.Process]:
    """The processes below these that run a trial."""
    found = []
    for pid in above:
        try:
            found += psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return [process for process in found if _title(process).startswith("ray::ImplicitFunc")]


def cluster_run(seed: int, kills: int, folder: Path) -> None:
    """One sweep on two nodes with a worker node that may die, so many kills, and what must be so then."""
    dice = random.Random(seed)
    pictures = _pictures(folder)
    with _two_nodes() as (cluster, killable):

        def replace_node() -> None:
            cluster.remove_node(killable.pop(), allow_graceful=False)
            killable.append(cluster.add_node(num_cpus=1))

        def kill_trial() -> None:
            raylets = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, *killable)]
            _kill_one(trial_processes(raylets), dice)

        text = SWEEP.format(pictures=pictures, trials=6, scheduler="asha", more="")
        command = Command(folder, text, cluster.address)

        def everything() -> None:
            kill_trial()
            command.kill()
            replace_node()

        ways = [command.kill, kill_trial, replace_node, everything]
        dice.shuffle(ways)  # each seed begins with others, and has each before one twice
        _disturb(command, dice, list(itertools.islice(itertools.cycle(ways), kills)))
        command.finish()
        check_run(command.run, trials=6)
        check_nobody_left(folder)


def interrupted_equals_whole(scheduler: str, kills: int, folder: Path) -> None:
    """On one machine, one trial at a time: a sweep that was killed, and was killed, gives the leaderboard it would."""
    pictures = _pictures(folder)
    text = SWEEP.format(pictures=pictures, trials=4, scheduler=scheduler, more=", concurrent: 1")
    boards = {}
    killed = ("driver", "driver and trials") if kills > 2 else ("driver and trials",)
    for name in ("whole", *killed):
        (folder / name).mkdir()
        command = Command(folder / name, text, address=None)
        dice = random.Random(name)

        def kill_trial(command: Command = command, dice: random.Random = dice) -> None:
            _kill_one(trial_processes([command.process.pid]), dice)

        def kill_driver(command: Command = command) -> None:
            below = psutil.Process(command.process.pid).children(recursive=True)
            command.kill()
            _, left = psutil.wait_procs(below, timeout=5)
            print(f"  5 s after the driver's death {len(left)} of its {len(below)} processes are alive", flush=True)
            for process in left:
                print(f"    {process.pid} {_title(process)[:100]}", flush=True)

        ways = {"whole": [], "driver": [kill_driver], "driver and trials": [kill_driver, kill_trial]}[name]
        _disturb(command, dice, [dice.choice(ways) for _ in range(kills) if ways])
        command.finish()
        check_run(command.run, trials=4)
        command.ensemble()
        check_nobody_left(folder / name)
        boards[name] = pd.read_csv(command.run.leaderboard_csv, dtype=str)
    for name, board in boards.items():
        same = [column for column in board if not _of_time(column)]
        pd.testing.assert_frame_equal(board[same], boards["whole"][same], obj=f"leaderboard after kills of {name}")


def check_nobody_left(folder: Path) -> None:
    """No process that a command in this folder started is there 10 s after its end."""
    began = time.monotonic()
    while left := [process for process in psutil.process_iter() if _cache_of(process) == str(folder / "cache")]:
        assert time.monotonic() - began < 10, [(process.pid, _title(process)) for process in left]
        time.sleep(0.5)


def _pictures(folder: Path) -> Path:
    pictures = folder / "pictures"
    write_folder(pictures / "train", per_class=PICTURES, seed=0)
    write_folder(pictures / "test", per_class=16, seed=1)
    # a third of them says the wrong thing, so that the best epoch is not the first, nor every score 1
    for real in sorted((pictures / "train" / "real").iterdir())[::3]:
        fake = pictures / "train" / "fake" / real.name
        pixels = real.read_bytes()
        real.write_bytes(fake.read_bytes())
        fake.write_bytes(pixels)
    return pictures


@contextmanager
def _two_nodes() -> Iterator[tuple[Cluster, list[ray._private.node.Node]]]:
    """A cluster of a head and a worker, one trial each, and the list of nodes that may be killed."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    killable = [cluster.add_node(num_cpus=1)]
    try:
        yield cluster, killable
    finally:
        for node in (*killable, cluster.head_node):
            cluster.remove_node(node, allow_graceful=False)


def _disturb(command: Command, dice: random.Random, kills: list[Callable[[], None]]) -> None:
    """Kills, some of it at once, most of it a while after trials have gone on."""
    for number, kill in enumerate(kills):
        before = command.epochs()
        if dice.random() < 0.75:
            while command.epochs() == before and not command.ensure():
                time.sleep(0.05)
            time.sleep(dice.uniform(0.1, 2.5))
        else:
            time.sleep(dice.uniform(2, 6))
        if command.ensure():
            print(f"  it ended after {number} kills", flush=True)
            return
        print(f"  {time.strftime('%X')} {kill.__name__}", flush=True)
        kill()
        command.ensure()


def _kill_one(processes: list[psutil.Process], dice: random.Random) -> None:
    if not processes:
        print("    (no trial is running)", flush=True)
        return
    try:
        os.kill(dice.choice(sorted(processes, key=lambda one: one.pid)).pid, signal.SIGKILL)
    except ProcessLookupError:
        print("    (it ended by itself)", flush=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _cache_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RFRAY_CACHE")
    except psutil.Error:
        return None


def _of_time(column: str) -> bool:
    return "second" in column or column in ("node", "wait_share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="so many sweeps on a cluster")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kills", type=int, default=6, help="so many in each sweep")
    parser.add_argument("--interrupted", nargs="*", default=["none", "asha"], help="schedulers to compare with")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs: list[tuple[str, Callable[[Path], None]]] = [
        *((f"seed {seed}", lambda at, seed=seed: cluster_run(seed, asked.kills, at))
          for seed in range(asked.first, asked.first + asked.seeds)),
        *((f"interrupted, {name}", lambda at, name=name: interrupted_equals_whole(name, asked.kills, at))
          for name in asked.interrupted),
    ]  # fmt: skip
    for name, run in runs:
        folder = Path(tempfile.mkdtemp(prefix="rfray-chaos-"))
        print(f"{name}: {folder}", flush=True)
        began = time.monotonic()
        run(folder)  # what went wrong is looked for in the folder, so that one stays
        print(f"{name}: well after {time.monotonic() - began:.0f} s", flush=True)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


if __name__ == "__main__":
    main()

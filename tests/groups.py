"""A sweep of trials with two workers each on a cluster of three nodes with one core each, of which workers are killed.

python -m tests.groups. One group fits and a half; each node has a cache of its own. A worker of a group is killed, then
a trial's own process; what the run folder says in the end is held against what it must say, and that nothing is held.
"""

import os

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all of this process's Ray listens on 127.0.0.1 alone

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from tests.chaos import Command, _kill_one, _pictures, _title, check_nobody_left, check_run

SWEEP = """
name: groups
data: {{train: {pictures}/train, test: {pictures}/test, val: 0.25}}
trial:
  backbone: test_resnet
  pretrained: false
  augmentation: light
  image_size: 32
  lr: [1e-2, 3e-3, 1e-3]
  epochs: 12
  batch_size: 20
search: {{algorithm: grid, scheduler: asha, grace_epochs: 4, concurrent: 3}}
resources: {{cpu: 1, gpu: 0, workers: 2}}
ensemble: {{top_k: 2}}
"""


def processes(above: list[int], title: str) -> list[object]:
    import psutil

    below = [one for pid in above for one in psutil.Process(pid).children(recursive=True)]
    return [one for one in below if _title(one).startswith(title)]


def one_of(above: list[int], title: str, command: Command) -> list[object]:
    """The processes of this title, once an epoch has been trained since now."""
    before = command.epochs()
    while command.epochs() == before or not (found := processes(above, title)):
        assert command.process.poll() is None, f"it has ended; see {command.log}"
        time.sleep(0.1)
    return found


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="rfray-groups-"))
    print(folder, flush=True)
    pictures, dice = _pictures(folder), random.Random(0)
    caches = [folder / f"cache-{number}" for number in range(3)]
    nodes = [{"num_cpus": 1, "env_vars": {"RFRAY_CACHE": str(cache)}} for cache in caches]
    cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False})
    others = [cluster.add_node(**node) for node in nodes[1:]]
    raylets = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, *others)]
    try:
        command = Command(folder, SWEEP.format(pictures=pictures), cluster.address)
        for title in ("ray::RayTrainWorker", "ray::ImplicitFunc"):
            found = one_of(raylets, title, command)
            print(f"  {time.strftime('%X')} {title}: {len(found)}, one of which is killed", flush=True)
            _kill_one(found, dice)
        began = time.monotonic()
        while command.process.poll() is None:
            assert time.monotonic() - began < 900, f"no end of it; see {command.log}"
            time.sleep(0.5)
        assert command.process.returncode == 0, f"it failed; see {command.log}"
        check_run(command.run, trials=3)
        starts = [len(out.starts()) for out in command.run.trials()]
        print(f"  starts of the trials: {starts}, epochs: {[len(out.history()) for out in command.run.trials()]}")
        assert sum(starts) >= 4, "nobody was started again"
        for cache in caches:
            assert len(list(cache.glob("pixels-*.u8"))) == 1, f"{cache} was not filled"
        check_nobody_left(folder)
        ray.init(address=cluster.address, log_to_driver=False)
        while ray.available_resources().get("CPU") != 3:
            assert time.monotonic() - began < 960, ray.available_resources()
            time.sleep(0.5)
        assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
        ray.shutdown()
    finally:
        for node in (*others, cluster.head_node):
            cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main()

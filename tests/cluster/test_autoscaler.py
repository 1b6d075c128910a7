"""Nodes that an autoscaler may still start: planned with, and started when trials ask for them."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from ray._private import ray_constants

from rfray.cluster import slots
from rfray.cluster.slots import Slot, autoscaler_notice, resources_to_come

CPU, GPU = {"CPU": 16.0}, {"CPU": 8.0, "GPU": 1.0}

CONFIG = {
    "head_node_type": "head",
    "max_workers": 3,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "cpu": {"resources": CPU},
        "gpu": {"resources": GPU, "max_workers": 2},
    },
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an autoscaler would have been started with."""
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(CONFIG))
    monkeypatch.setattr(slots, "_config_file", lambda: str(file))
    return file


def test_up_to_the_most_of_each_kind_and_of_all_largest_first(config: Path) -> None:
    assert resources_to_come([]) == [GPU, GPU, CPU]


def test_those_that_are_there_count(config: Path) -> None:
    assert resources_to_come([GPU]) == [GPU, CPU]
    assert resources_to_come([GPU, GPU]) == [CPU]
    assert resources_to_come([CPU, CPU, CPU]) == []


def test_a_file_that_is_just_being_written(config: Path) -> None:
    config.write_text('{"max_workers": [')
    assert resources_to_come([]) == []


def test_a_ray_of_our_own_has_none(ray_here: None) -> None:
    assert resources_to_come([]) == []
    assert autoscaler_notice(Slot(1, 0)) is None


class Growing(NamedTuple):
    """A cluster, and what a process needs to reach it."""

    address: str
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], env=self.environment, capture_output=True, text=True, check=False
        )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(params=["0", "1"], ids=["first autoscaler", "second autoscaler"])
def growing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Growing]:
    """A head without room for trials; up to two nodes of four CPUs come when they are asked for."""
    # not ray.cluster_utils.AutoscalingCluster: that one ends every Ray of the machine first
    port, v2 = free_port(), request.param == "1"
    head_id = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 2.0,
        "provider": {
            "type": "external",  # Ray's wheel lacks the defaults of type fake_multinode, for which the second one asks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": head_id,
            "launch_multiple": v2,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "four": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "auth": {},
        **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    temporary = f"/tmp/growing-{os.getpid()}-{request.param}"  # a socket's path may have 107 characters
    options = [f"--port={port}", "--num-cpus=0", f"--temp-dir={temporary}", "--include-dashboard=false"]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--node-ip-address=127.0.0.1", "--block"]
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": request.param,
        "RAY_CLOUD_INSTANCE_ID": head_id,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
        "RAY_AUTH_MODE": "disabled",
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # listens on 127.0.0.1 alone
    }
    log = tmp_path / "head.log"
    with log.open("w") as out:
        words = [*command, f"--autoscaling-config={file}", *options]
        head = subprocess.Popen(words, env=environment, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text() and head.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        assert head.poll() is None, log.read_text()
        yield Growing(f"127.0.0.1:{port}", environment)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(temporary in word for word in process.info["cmdline"] or []):
                process.kill()
        head.wait()


NODES = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sorted(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
"""


BRING_UP = """
import ray, sys
from rich.console import Console
from rfray.cluster.slots import Slot
from rfray.tuning.measuring import bring_up
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
bring_up(Slot(4, 0), Console())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_brings_up_the_nodes_it_needs(growing: Growing, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: growing\ndata: {source: demo}\n"
        "trial: {backbone: test_resnet, pretrained: false, image_size: 32, lr: [1e-3, 1e-2], epochs: 1}\n"
        "search: {algorithm: grid}\nresources: {cpu: 4, gpu: 0}\n"
    )
    tune = ["-m", "rfray.cli", "tune", str(sweep), "--run", str(tmp_path / "run"), "--address", growing.address]
    refused = growing.run(*tune, "--set", "resources.cpu=5")
    assert refused.returncode == 2
    assert "a trial asks for 5 CPU and 0 GPU, but the cluster has a node with 0 CPU" in refused.stderr
    assert growing.run("-c", NODES, growing.address).stdout == "[0]\n"
    assert "Waiting for the autoscaler" in growing.run("-c", BRING_UP, growing.address).stdout
    assert growing.run("-c", NODES, growing.address).stdout == "[0, 4.0]\n"
    done = growing.run(*tune)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 slots are there" in done.stdout
    assert "2 trials done" in done.stdout
    assert growing.run("-c", NODES, growing.address).stdout == "[0, 4.0, 4.0]\n"

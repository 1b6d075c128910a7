"""the autoscaler of the connected cluster -> the nodes that it may still start; or one of them, brought up."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import psutil
import ray
from ray.autoscaler.sdk import request_resources
from rich.console import Console
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Resources = Mapping[str, float]
"""Ray's name of a resource -> how much of it a node has."""

PAUSE = 2.0
"""Seconds after which `bring_up` asks again whether the node is there."""


def resources_to_come(workers: Sequence[Resources]) -> list[Resources]:
    """Resources of the nodes that may still be started beside the `workers` that are alive; most GPUs first.

    They are known on the head only, and not on Kubernetes, where the autoscaler is a container of its own.
    """
    file = _config_file()
    if file is None:
        return []
    try:
        with open(file, encoding="utf-8") as text:
            config = YAML(typ="safe").load(text)
    except (OSError, YAMLError):
        return []  # `ray up` is just writing it
    most = int(config.get("max_workers", 0))
    there = Counter(_size(worker) for worker in workers)
    to_come: list[Resources] = []
    for name, kind in config["available_node_types"].items():
        resources = {name: float(amount) for name, amount in kind.get("resources", {}).items()}
        if name != config["head_node_type"] and any(_size(resources)):
            to_come += [resources] * max(0, int(kind.get("max_workers", most)) - there[_size(resources)])
    to_come.sort(key=_size, reverse=True)
    return to_come[: max(0, most - len(workers))]


def bring_up(resources: Resources, is_there: Callable[[], bool], console: Console) -> None:
    """Has the autoscaler start a node with these resources, and waits until `is_there`."""
    if is_there():
        return
    console.print("Waiting for the autoscaler to start a node, on which backbones are measured", soft_wrap=True)
    request_resources(bundles=[dict(resources)])
    try:
        while not is_there():
            time.sleep(PAUSE)
    finally:
        request_resources(bundles=[])


def _size(resources: Resources) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _config_file() -> str | None:
    """The file with which the cluster's autoscaler was started: Ray has no other way to ask for its node types."""
    ours = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    option = "--autoscaling-config="
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if ours in words and any(word.endswith("monitor.py") for word in words):
            return next((word.removeprefix(option) for word in words if word.startswith(option)), None)
    return None

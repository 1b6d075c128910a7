"""The connection to Ray: what it listens on, and what it says where there is nothing."""

import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
import ray

from rfray.cluster.connect import TRIAL_MODULES
from rfray.cluster.slots import Slot, slot_count, slot_for
from rfray.errors import ClusterError
from rfray.spec.sweep import Resources


def test_nothing_listens_beyond_this_machine(ray_here: None) -> None:
    @ray.remote
    def work() -> int:
        return 1

    assert ray.get(work.remote()) == 1
    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = []
    for process in own:
        with suppress(psutil.NoSuchProcess):  # Ray ends those that are idle
            found = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            listening += [(process.name(), one.laddr.ip) for one in found]
    assert len(listening) >= 3  # the raylet, the store of its state, a worker
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


def test_slots_are_what_fits_on_each_node(ray_here: None) -> None:
    cores = int(ray.cluster_resources()["CPU"])
    assert slot_count(Slot(1, 0)) == cores
    assert slot_count(Slot(cores, 0)) == 1
    assert slot_count(Slot(0.5, 0)) == 2 * cores
    assert slot_for(Resources(cpu=1, gpu=0)) == Slot(1, 0)


def test_more_than_any_node_has_is_refused(ray_here: None) -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ClusterError, match="asks for 1 CPU and 1 GPU, but the cluster has a node with"):
        slot_for(Resources(cpu=1, gpu=1))


def test_a_trial_has_as_many_threads_as_cores_and_at_least_one() -> None:
    assert [Slot(cpu, 0).threads for cpu in (0.25, 1, 1.5, 4)] == [1, 1, 1, 4]


def test_an_address_where_nothing_answers() -> None:
    # in a process of its own, as this one is connected already
    code = (
        "from rfray.spec.sweep import Resources\n"
        "from rfray.cluster.connect import connected\n"
        "with connected('127.0.0.1:1', Resources()): pass"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "rfray.errors.ClusterError: no Ray cluster at 127.0.0.1:1" in ended.stderr


def test_processes_have_imported_what_a_trial_needs_before_there_is_one(ray_here: None) -> None:
    class Process:
        def modules(self) -> set[str]:
            return set(sys.modules)

    modules = ray.get(ray.remote(Process).remote().modules.remote())
    assert modules >= set(TRIAL_MODULES)


def test_a_polite_kill_is_still_what_it_was_before_ray_came(ray_here: None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert not str(getattr(handler, "__module__", "")).startswith("ray")

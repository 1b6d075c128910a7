"""The connection to Ray: what it listens on, and what it says where there is none or it is refused."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from rfray.cluster import connect
from rfray.cluster.connect import TRIAL_MODULES, check_reachable
from rfray.cluster.ray_internals import free_groups
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


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/gone")  # as Ray does, when it writes its token

    monkeypatch.setattr(connect, "start_local_ray", refuse)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the Ray of other tests
    monkeypatch.setattr("ray.shutdown", lambda: None)
    said = r"^no Ray can be started here: /gone: No such file or directory\. .*set HOME"
    with pytest.raises(ClusterError, match=said), connect.connected(None, Resources()):
        pass


def test_a_shell_that_allows_hardly_any_open_files() -> None:
    script = (
        "from rfray.cluster.connect import connected; from rfray.spec.sweep import Resources;"
        "connected(None, Resources(cpu=1)).__enter__()"
    )
    words = ["bash", "-c", f"ulimit -n 64; exec {sys.executable} -c '{script}'"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert (
        "ClusterError: Ray needs 1,024 open files or more, and 64 are allowed here. Allow more (ulimit" in done.stderr
    )


def test_processes_have_imported_what_a_trial_needs_before_there_is_one(ray_here: None) -> None:
    class Process:
        def modules(self) -> set[str]:
            return set(sys.modules)

    modules = ray.get(ray.remote(Process).remote().modules.remote())
    assert modules >= set(TRIAL_MODULES)


def test_a_polite_kill_is_still_what_it_was_before_ray_came(ray_here: None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert not str(getattr(handler, "__module__", "")).startswith("ray")


def test_a_ray_that_the_process_has_is_used_or_refused_and_never_ended(ray_here: None) -> None:
    known = ray.get_runtime_context().gcs_address
    group = placement_group([{"CPU": 0.01}])  # of whoever called ray.init
    ray.get(group.ready())
    for address in (None, "auto", known):
        assert connect.way_to_ray(address) == "Using the Ray of this process"
        with connect.connected(address, Resources()) as session:
            assert (session / "logs").is_dir()
            free_groups("trials")
        assert ray.is_initialized()
    said = f"^this process is connected to the Ray at {known} already: leave the address 10.0.0.1:6379 out to use that"
    with pytest.raises(ClusterError, match=said), connect.connected("10.0.0.1:6379", Resources()):
        pass
    assert ray.get_runtime_context().gcs_address == known
    assert placement_group_table(group)["state"] == "CREATED"
    remove_placement_group(group)


def test_nothing_listens() -> None:
    with pytest.raises(ClusterError, match=r"^no Ray cluster at \S+:1: Connection refused$"):
        check_reachable("127.0.0.1:1")


def test_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "PROBE_SECONDS", 5)
    monkeypatch.setattr("psutil.process_iter", lambda attributes: [SimpleNamespace(info={"name": "raylet"})])
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        pytest.raises(ClusterError, match=r"^no Ray cluster at \S+: what answers there is not Ray$"),
    ):
        check_reachable(f"127.0.0.1:{server.getsockname()[1]}")


def test_no_address_at_all() -> None:
    with pytest.raises(ClusterError, match=r"^no Ray cluster at somewhere: Invalid address format: somewhere$"):
        check_reachable("somewhere")


def test_a_machine_without_a_node_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.process_iter", lambda attributes: [])
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        pytest.raises(ClusterError, match="has no node on this machine: run the command on one of its nodes"),
    ):
        check_reachable(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A real cluster that asks for a token: its address, and the environment of who has it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("5" * 64)
    own |= {"HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_raylet_start_wait_time_s": "120"}
    code = (
        "import sys; from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})\n"
        "print(cluster.address, flush=True); sys.stdin.read(); cluster.shutdown()"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=own | {"RAY_AUTH_MODE": "token"}, start_new_session=True,
    )  # fmt: skip
    assert head.stdin is not None
    assert head.stdout is not None
    try:
        yield next(line.strip() for line in head.stdout if line[:1].isdigit()), own
        head.stdin.close()
        head.wait(60)
    finally:
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_real_cluster_takes_in_who_has_its_token(guarded: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, own = guarded
    code = (
        "import sys; from rfray.spec.sweep import Resources; from rfray.cluster.connect import connected\n"
        "from rfray.cluster.slots import slot_for\n"
        "with connected(sys.argv[1], Resources(cpu=1)): print(slot_for(Resources(cpu=1, gpu=0)))"
    )

    def client(where: str = address, **settings: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, where]
        return subprocess.run(words, capture_output=True, text=True, env=own | settings)

    assert client(RAY_AUTH_MODE="token").stdout.strip() == "1 CPU and 0 GPU"
    assert client("auto").stdout.strip() == "1 CPU and 0 GPU"  # Ray finds the token by itself
    assert "asks for a token. Set RAY_AUTH_MODE=token" in client().stderr
    (tmp_path / "elsewhere").mkdir()
    nobody = client(RAY_AUTH_MODE="token", HOME=str(tmp_path / "elsewhere")).stderr
    assert "asks for a token, but there is none here" in nobody
    wrong = client(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="6" * 64).stderr
    assert "has another token than the one that is found here" in wrong

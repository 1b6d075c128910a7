"""What the user is told where a Ray cluster would not take this process in."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rfray.cluster import reachability
from rfray.cluster.reachability import check_reachable
from rfray.errors import ClusterError


def test_nothing_listens() -> None:
    with pytest.raises(ClusterError, match=r"^no Ray cluster at \S+:1: Connection refused$"):
        check_reachable("127.0.0.1:1")


def test_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "PROBE_SECONDS", 5)
    monkeypatch.setattr(reachability, "_check_node_here", lambda address: None)
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

"""What a client is told whom a Ray cluster would not take in, by Ray's own messages over a real socket."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray._private import ray_constants
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from rfray.cluster.reachability import knock
from rfray.errors import ClusterError


class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """A head with one node elsewhere, as far as it is asked."""

    def __init__(self, version: str, refuses: bool) -> None:
        self.version = version
        self.refuses = refuses

    def CheckAlive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if self.refuses:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing or incorrect"
            )
        return gcs_service_pb2.CheckAliveReply(ray_version=self.version)

    def GetAllNodeInfo(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        alive, dead = gcs_pb2.GcsNodeInfo.ALIVE, gcs_pb2.GcsNodeInfo.DEAD
        nodes = [
            gcs_pb2.GcsNodeInfo(node_id=b"a" * 28, node_manager_address="10.0.0.7", state=alive),
            gcs_pb2.GcsNodeInfo(node_id=b"b" * 28, node_manager_address="10.0.0.8", state=dead),
        ]
        return gcs_service_pb2.GetAllNodeInfoReply(node_info_list=nodes)


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has Ray take 127.0.0.1 as it is, and not for this machine's address among others."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)


@contextmanager
def answering(version: str = ray.__version__, refuses: bool = False) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Head(version, refuses), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def test_without_a_token_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with answering(refuses=True) as address, pytest.raises(ClusterError) as caught:
        knock(address)
    assert str(caught.value).endswith(
        "asks for a token. Set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token (chmod 600)"
    )


def test_with_a_wrong_token_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with answering(refuses=True) as address, pytest.raises(ClusterError, match=r"another token.*~/\.ray/auth_token"):
        knock(address)


def test_other_versions_are_named() -> None:
    with (
        answering(version="2.1.0") as address,
        pytest.raises(ClusterError, match=r"runs Ray 2\.1\.0, this machine Ray"),
    ):
        knock(address)


def test_a_machine_that_is_no_node_is_told_which_are() -> None:
    with answering() as address, pytest.raises(ClusterError, match=r"no node on this machine, but on 10\.0\.0\.7: run"):
        knock(address)


def test_nothing_listens() -> None:
    with pytest.raises(ClusterError, match=r"^no Ray cluster at \S+:1: Connection refused$"):
        knock("127.0.0.1:1")


def test_something_else_listens() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ThreadPoolExecutor() as beside:
        server.settimeout(20)
        greeted = beside.submit(lambda: server.accept()[0].sendall(b"SSH-2.0-OpenSSH\r\n" * 20))
        with pytest.raises(ClusterError, match=r"^no Ray cluster at \S+: .*HTTP/2"):
            knock(f"127.0.0.1:{server.getsockname()[1]}")
        greeted.result()


def test_something_silent_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.cluster.reachability.ANSWER", 0.5)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        pytest.raises(ClusterError, match=r"^no Ray cluster at \S+: nothing answers$"),
    ):
        knock(f"127.0.0.1:{server.getsockname()[1]}")


def test_no_address_at_all() -> None:
    with pytest.raises(ClusterError, match=r"^no Ray cluster at somewhere: Invalid address format: somewhere$"):
        knock("somewhere")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A real cluster that asks for a token: its address, and the environment of who has it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("5" * 64)
    own |= {"HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
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
        "import sys; from rfray.spec.sweep import Resources; from rfray.cluster.connect import connected, slot_for\n"
        "with connected(sys.argv[1], Resources(cpu=1)): print(slot_for(Resources(cpu=1, gpu=0)))"
    )

    def client(**settings: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, address]
        return subprocess.run(words, capture_output=True, text=True, env=own | settings)

    assert client(RAY_AUTH_MODE="token").stdout.strip() == "1 CPU and 0 GPU"
    assert "ClusterError: the cluster at" in (without := client().stderr)
    assert "asks for a token. Set RAY_AUTH_MODE=token" in without
    nobody = client(RAY_AUTH_MODE="token", HOME=str(tmp_path / "elsewhere")).stderr
    assert "asks for a token, but there is none here" in nobody

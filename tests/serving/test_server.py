"""`rfray serve` as a command, on a Ray Serve of its own: the same verdicts, nothing open but its port, a clean end."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

from rfray.cluster.session_folder import MARK
from rfray.errors import ClusterError, InputError, RunError
from rfray.models.bundle import detect, load_bundle
from rfray.store.bundle_record import Ensemble
from rfray.store.records import read_record, write_record
from rfray.store.run_dir import RunDir, read_bundle

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

import requests

from rfray.serving.server import kept, limits_here, serve_bundle, start_replicas
from rfray.serving.uploads import Limits

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    address: str

    def predict(self, *files: Path) -> Any:
        parts = [("files", (file.name, file.read_bytes())) for file in files]
        return requests.post(f"{self.address}/predict", files=parts, timeout=60)

    def family(self) -> list[psutil.Process]:
        """Its processes, itself included."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def models(self) -> list[psutil.Process]:
        """Those of them that have the models."""
        return [process for process in self.family() if "ServeReplica" in " ".join(process.cmdline())]

    def interrupt(self) -> tuple[int, str, str]:
        """What Ctrl-C in its terminal does: all its processes hear it. Exit code, output, errors."""
        os.killpg(self.process.pid, signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def served(where: Path, *options: str, **variables: str) -> Iterator[Server]:
    words = [sys.executable, "-m", "rfray.cli", "serve", str(where), "--port", "0", *options]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()  # it says so when it answers
        found = re.fullmatch(r"Serving 2 models at (http://127\.0\.0\.1:\d+) \(Ctrl-C stops it\)\n", said)
        assert found, said + process.communicate()[1]
        yield Server(process, found[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server(run: RunDir) -> Iterator[Server]:
    with served(run.path, "--replicas", "1") as server:
        yield server


def test_it_says_what_detect_says_to_many_at_once(server: Server, run: RunDir, images: list[Path]) -> None:
    bundle = load_bundle(run.path)
    ((table, _),) = detect(bundle, [str(image) for image in images], 64, 1)
    scores = table[bundle.ensemble.members].to_numpy()
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(server.predict, images * 10))
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    for number, answer in enumerate(answers):
        (one,) = answer.json()["images"]
        at = number % len(images)
        assert one["name"] == images[at].name
        assert list(one["members"].values()) == pytest.approx(scores[at].tolist(), abs=1e-6)
        assert one["p_fake"] == pytest.approx(scores[at].mean(), abs=1e-6)
    text = requests.get(f"{server.address}/metrics", timeout=60).text
    batches, predicted = (float(re.findall(rf"rfray_batch_images_{part} (\S+)", text)[0]) for part in ("count", "sum"))
    assert predicted == len(answers)
    assert batches < predicted


def test_the_other_addresses_answer(server: Server, images: list[Path]) -> None:
    assert requests.get(f"{server.address}/healthz", timeout=60).json() == {"status": "ok"}
    assert "/predict" in requests.get(f"{server.address}/openapi.json", timeout=60).json()["paths"]
    assert "Real or fake?" in requests.get(server.address, timeout=60).text
    drawn = requests.post(f"{server.address}/explain", files={"files": images[0].read_bytes()}, timeout=60)
    assert drawn.content[:3] == b"\xff\xd8\xff"
    bad = requests.post(f"{server.address}/predict", files={"files": b"hello"}, timeout=60)
    assert bad.status_code == 422


@pytest.mark.parametrize("has_length", [True, False])
def test_who_sends_too_much_hears_so(server: Server, has_length: bool) -> None:
    begin = b'--y\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    chunks = [begin, *[bytes(1_000_000)] * (Limits().request_bytes // 1_000_000 + 1)]
    body = b"".join(chunks) if has_length else iter(chunks)
    kind = {"Content-Type": "multipart/form-data; boundary=y"}
    answer = requests.post(f"{server.address}/predict", data=body, headers=kind, timeout=60)
    assert answer.status_code == 413
    assert "over 100 MB" in answer.json()["detail"]


def test_nothing_listens_beyond_this_machine(server: Server) -> None:
    listening = [
        ip_address(connection.laddr.ip)
        for process in server.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3  # Ray's own
    beyond = [str(ip) for ip in listening if not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback]
    assert beyond == []


def test_ctrl_c_ends_it_and_leaves_nothing(server: Server, images: list[Path]) -> None:
    family = server.family()
    assert server.predict(images[0]).status_code == 200
    assert server.interrupt() == (0, "Stopped\n", "")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    with socket.create_server(("127.0.0.1", int(server.address.rpartition(":")[2]))):
        pass  # the port is free again, and at once


@pytest.mark.slow
def test_a_process_that_dies_is_started_again(run: RunDir, images: list[Path]) -> None:
    with served(run.path, "--gpu", "0") as server:
        models = server.models()
        assert len(models) == min(4, os.cpu_count() or 1)
        for process in models:
            process.kill()
        statuses: list[int] = []
        while statuses.count(200) < 5:
            answer = server.predict(images[0])
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
        assert set(statuses) <= {200, 503}
        code, _, _ = server.interrupt()
        assert code == 0


@dataclass(frozen=True)
class Placed:
    """A server of a bundle of its own, and what it leaves in its folders."""

    server: Server
    bundle: Path
    above: Path

    def left(self) -> list[str]:
        return sorted(str(path) for folder in ("tmp/rfray-*", "cache/serving/*") for path in self.above.glob(folder))


@pytest.fixture(scope="module")
def placed(run: RunDir) -> Iterator[Placed]:
    above = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for Ray's sockets
    bundle = Path(shutil.copytree(run.bundle_folder, above / "bundle"))
    (above / "tmp").mkdir()
    variables = {"RAY_TMPDIR": str(above / "tmp"), "RFRAY_CACHE": str(above / "cache")}
    with served(bundle, "--replicas", "1", **variables) as server:
        yield Placed(server, bundle, above)
    shutil.rmtree(above)


@pytest.mark.slow
def test_models_that_die_come_again_as_the_server_began(placed: Placed, images: list[Path]) -> None:
    before = placed.server.predict(*images).json()
    (killed,) = placed.server.models()
    shutil.rmtree(placed.bundle / "members")
    (placed.bundle / "ensemble.json").write_text("{}")  # of another `rfray ensemble`, which has just begun
    killed.kill()
    answer = placed.server.predict(*images)
    for _ in range(300):
        if answer.status_code == 200:
            break
        assert answer.status_code == 503
        time.sleep(0.2)
        answer = placed.server.predict(*images)
    assert placed.server.models() != [killed]
    for one, earlier in zip(answer.json()["images"], before["images"], strict=True):
        assert one["members"] == pytest.approx(earlier["members"], abs=1e-6)  # of another batch


def test_sigterm_answers_what_has_begun_and_leaves_nothing(placed: Placed, images: list[Path]) -> None:
    server, family = placed.server, placed.server.family()
    assert len(placed.left()) == 2  # Ray's folder and the copy of the bundle
    where = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    body = b'--y\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + images[0].read_bytes()
    body += b"\r\n--y--\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: x.localhost\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(where, timeout=60) as client:
        client.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=y\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is being read
        server.process.send_signal(signal.SIGTERM)
        with suppress(ConnectionError):
            while True:  # until nobody is let in
                socket.create_connection(where, timeout=60).close()
        client.sendall(body)
        said = b"".join(iter(lambda: client.recv(10_000), b""))
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["images"][0]["verdict"] in ("real", "fake")
    out, err = server.process.communicate(timeout=60)  # Ray has told there of the process that was killed
    assert (out.splitlines()[-1], err, server.process.returncode) == ("Stopped", "", 0)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert placed.left() == []


def test_a_busy_port_is_refused_before_anything_starts(run: RunDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--host 127\.0\.0\.1 --port {port}: Address already in use"):
            serve_bundle(str(run.path), "127.0.0.1", port, None, None)


def test_no_more_connections_are_let_in_than_there_are_open_files_for() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        assert limits_here() == Limits(connections=724)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_no_bundle_and_no_address_is_refused(tmp_path: Path, run: RunDir) -> None:
    with pytest.raises(RunError, match="no bundle"):
        serve_bundle(str(tmp_path), "127.0.0.1", 0, None, None)
    with pytest.raises(InputError, match=r"--host nowhere\.invalid"):
        serve_bundle(str(run.path), "nowhere.invalid", 0, None, None)


@pytest.mark.usefixtures("ray_here")
def test_more_than_the_machine_has_is_refused(run: RunDir) -> None:
    with pytest.raises(ClusterError, match="asks for"):
        start_replicas(str(run.path), 1, 1.0)
    many = (os.cpu_count() or 1) + 1
    with pytest.raises(ClusterError, match=f"--replicas {many}: this machine has room for"):
        start_replicas(str(run.path), many, 0)


@pytest.mark.slow
def test_models_that_can_not_be_built_are_named_in_one_line(run: RunDir, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.bundle_folder, tmp_path / "bundle"))
    ensemble = read_record(copy / "ensemble.json", Ensemble)
    assert ensemble.bundle is not None
    second = ensemble.bundle.members[1]
    ensemble.bundle.members[1] = second.model_copy(
        update={"trial": second.trial.model_copy(update={"backbone": "resnet1"})}
    )
    write_record(copy / "ensemble.json", ensemble)
    words = [sys.executable, "-m", "rfray.cli", "serve", str(copy), "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rfray: the models did not start: {copy}/ensemble.json: member 2: timm has no resnet1\n"


def test_a_process_that_starts_anew_loads_what_the_server_started_with(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "cache"))
    left, mine = (tmp_path / "cache" / "serving" / name for name in ("rfray-12345678", "mine"))
    for there in (left, mine):
        there.mkdir(parents=True)
    (left / MARK).touch()  # of a server that was killed
    folder = Path(shutil.copytree(run.bundle_folder, tmp_path / "bundle"))
    before = read_bundle(folder)[1]
    with kept(str(folder)) as copy:
        assert not left.exists()
        (folder / "ensemble.json").write_text("another one")  # in its place, as an editor does
        shutil.rmtree(folder / "members")
        assert read_bundle(copy)[1] == before
        assert len(load_bundle(copy).detectors) == 2
    assert list(copy.parent.iterdir()) == [mine]


def test_weights_that_are_written_into_are_refused_by_the_bundles_own_name(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(run.bundle_folder, tmp_path / "bundle"))

    def damaged_meanwhile() -> None:
        with kept(str(folder)) as copy:
            with (folder / "members/1/model.safetensors").open("r+b") as file:
                file.write(b"x")
            load_bundle(copy)

    with pytest.raises(RunError, match=f"^{folder} can't be used") as refused:
        damaged_meanwhile()
    assert "members/1/model.safetensors is damaged" in str(refused.value)


def test_without_the_extra_one_line_says_what_to_install() -> None:
    without = "import sys; sys.modules['fastapi'] = None; sys.argv = ['rfray', 'serve', 'x']; import rfray.cli as cli"
    done = subprocess.run(
        [sys.executable, "-c", f"{without}; cli.process()"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rfray: serve needs fastapi, which is not installed: pip install 'rfray[serve]'\n"

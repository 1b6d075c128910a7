"""A command as a job on a real head with token authentication, and what is said where that does not work."""

import hashlib
import json
import os
import pty
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import ray

from rfray.errors import ClusterError
from rfray.progress.events import MARK, Event, JobBegan, Warned, rfray_version
from rfray.remote.jobs import Output, reach
from rfray.store.records import Spent, read_record
from rfray.store.run_dir import RunDir
from tests.pictures import write_folder
from tests.remote.test_command import SWEEP

ROOT = Path(__file__).parents[2]

# What needs no cluster


BEGAN = MARK + JobBegan(package="/tmp/_ray_pkg_1").model_dump_json()
WARNED = Warned(at=1.0, text="full")


def read(*pieces: str, with_files: bool = True) -> tuple[list[Event], list[str]]:
    events: list[Event] = []
    texts: list[str] = []
    output = Output(events.append, texts.append, with_files)
    for piece in pieces:
        output.take(piece)
    output.close()
    return events, texts


def test_events_and_text_come_apart_wherever_the_output_is_cut() -> None:
    whole = f"Running entrypoint for job x\n{BEGAN}\nfirst line\n{MARK}{WARNED.model_dump_json()}\n\nlast"
    for cut in range(len(whole)):
        assert read(whole[:cut], whole[cut:]) == ([WARNED], ["first line", "", "last"])


def test_a_text_that_begins_as_an_event_does_is_a_text() -> None:
    assert read(f"{BEGAN}\n{MARK}x/leaderboard.csv\n") == ([], [f"{MARK}x/leaderboard.csv"])


def test_a_job_that_never_began_is_explained_by_what_the_shell_said() -> None:
    assert read("Running entrypoint\nsh: 1: rfray: not found\n")[1] == ["Running entrypoint", "sh: 1: rfray: not found"]


def test_files_that_travelled_are_called_as_they_are_here() -> None:
    said = f"{BEGAN}\nrfray: /tmp/_ray_pkg_1/sweep.yaml:3: no\n"
    assert read(said)[1] == ["rfray: sweep.yaml:3: no"]
    assert read(said, with_files=False)[1] == ["rfray: /tmp/_ray_pkg_1/sweep.yaml:3: no"]


@contextmanager
def web_server(status: int, body: str) -> Iterator[str]:
    class Always(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Always) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_where_nothing_answers() -> None:
    with pytest.raises(ClusterError, match=r"nothing answers at http://127\.0\.0\.1:1 .*Is the tunnel open"):
        reach("http://127.0.0.1:1")
    with pytest.raises(ClusterError, match="nothing answers at http://"):
        reach("http://")


@pytest.mark.parametrize(("status", "body"), [(404, "not found"), (200, "<html>hello</html>"), (401, "log in first")])
def test_an_address_where_something_else_answers(status: int, body: str) -> None:
    with (
        web_server(status, body) as address,
        pytest.raises(ClusterError, match=rf"not Ray's dashboard \(HTTP {status}"),
    ):
        reach(address)


def test_another_ray_there() -> None:
    body = json.dumps({"version": "4", "ray_version": "2.54.0", "ray_commit": "", "session_name": ""})
    with web_server(200, body) as address, pytest.raises(ClusterError) as raised:
        reach(address)
    assert str(raised.value).startswith(f"Ray is {ray.__version__} here and 2.54.0 on the cluster")
    assert "pip install 'ray[default]==2.54.0'" in str(raised.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfray.remote.jobs.find_spec", lambda name: None if name == "aiohttp" else object())
    with pytest.raises(ClusterError, match=r"aiohttp is missing; pip install 'rfray\[cluster\]'"):
        reach("http://127.0.0.1:1")


# A real head


@dataclass(frozen=True)
class Head:
    """A running head node, and a laptop to reach it from."""

    address: str
    gcs: str
    folder: Path
    token: str

    @property
    def shared(self) -> Path:
        """The folder that jobs work in."""
        return self.folder / "shared"

    @property
    def laptop(self) -> Path:
        """Where commands are typed."""
        return self.folder / "laptop"

    @property
    def there(self) -> dict[str, str]:
        """What a command has in its environment that is started on the head itself."""
        listens_here_only = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        return {"RAY_AUTH_MODE": "token", "RFRAY_HOME": str(self.shared), **listens_here_only}

    def environment(self, **more: str) -> dict[str, str]:
        """Of a command on the laptop: the token is there, as a file."""
        own = {"HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "150", "LINES": "40"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_A", "RFRAY_HOME"))}
        return {**clean, **own, "PATH": path, **more}

    def rfray(self, *arguments: str, code: int | None = 0, **more: str) -> str:
        """Runs a command on the laptop; what it says. With `code=None` any exit code will do."""
        command = [sys.executable, "-m", "rfray.cli", *arguments]
        done = subprocess.run(
            command,
            cwd=self.laptop,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def secrets_in(self, folder: Path) -> list[Path]:
        """The files that hold the token."""
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        return [file for file in files if self.token.encode() in file.read_bytes()]


def free_ports(count: int) -> list[int]:
    with closing(socket.socket()) as first:
        taken = [first, *(socket.socket() for _ in range(count - 1))]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in taken]
        for one in taken:
            one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rfray-"))  # a short path, as Ray's sockets want it
    for name in ("home/.ray", "shared", "laptop"):
        (folder / name).mkdir(parents=True)
    token = secrets.token_hex(32)
    file = folder / "home" / ".ray" / "auth_token"
    file.write_text(token)
    file.chmod(0o600)
    names = ["", "dashboard-", "dashboard-agent-listen-", "dashboard-agent-grpc-", "ray-client-server-"]
    names += ["node-manager-", "object-manager-", "runtime-env-agent-"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    found = Head(f"http://127.0.0.1:{ports['dashboard-']}", f"127.0.0.1:{ports['']}", folder, token)
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--temp-dir={folder / 'ray'}",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2", "--disable-usage-stats",
        *(f"--{name}port={port}" for name, port in ports.items()),
    ]  # fmt: skip
    environment = found.environment(**found.there)
    write_folder(found.shared / "pictures" / "train", per_class=40, seed=0)
    write_folder(found.shared / "pictures" / "test", per_class=16, seed=1)
    with (folder / "ray.log").open("w") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    below: list[psutil.Process] = []
    try:
        while "block" not in (folder / "ray.log").read_text():
            assert started.poll() is None, (folder / "ray.log").read_text()
            threading.Event().wait(0.2)
        below = psutil.Process(started.pid).children(recursive=True)
        yield found
        below = psutil.Process(started.pid).children(recursive=True)
    finally:
        started.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        started.wait()
        psutil.wait_procs(below, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_without_the_token_or_with_another_one(head: Head, tmp_path: Path) -> None:
    ensemble = ["ensemble", "runs/x", "--address", head.address]
    said = head.rfray(*ensemble, code=2, HOME=str(tmp_path))
    assert said.startswith(f"rfray: the cluster at {head.address} asks for its token, and there is none here: ~/.ray")
    assert said.count("\n") == 1
    said = head.rfray(*ensemble, code=2, RAY_AUTH_TOKEN="0" * 64)
    assert said.startswith(f"rfray: the cluster at {head.address} refuses the token that is found here: ~/.ray")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_another_rfray_on_the_cluster_is_named_and_does_nothing(head: Head) -> None:
    (head.laptop / "sweep.yaml").write_text(SWEEP)
    code = (
        "import sys, rfray.remote.command as command\n"
        "from rfray.cli import main\n"
        "command.rfray_version = lambda: '0.0.9'\n"
        f"sys.argv = ['rfray', 'tune', 'sweep.yaml', '--run', 'runs/other', '--address', '{head.address}']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=head.laptop,
        env=head.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"rfray: rfray is 0.0.9 here and {rfray_version()} on the cluster: they must be the same" in done.stdout
    assert not (head.shared / "runs" / "other").exists()


def in_terminal(head: Head, command: list[str], *steps: tuple[str, bytes]) -> tuple[int, str]:
    """Runs a command in a pseudo-terminal; each step waits for a pattern in what is new, then types.

    The exit code, and all that was shown, without control sequences.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(head.laptop)
        os.execvpe(sys.executable, [sys.executable, "-m", "rfray.cli", *command], head.environment(TERM="xterm"))
    shown, seen, left = "", 0, list(steps)
    with closing(os.fdopen(terminal, "rb+", buffering=0)) as screen:
        while True:
            assert select.select([screen], [], [], 200)[0], shown
            try:
                piece = screen.read(65536)
            except OSError:  # Linux says so when the other side has gone
                break
            shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown + piece.decode(errors="replace"))
            if left and re.search(left[0][0], shown[seen:]):
                seen = len(shown)
                screen.write(left.pop(0)[1])
    assert left == [], shown
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown


@pytest.mark.slow
def test_a_sweep_on_a_cluster_from_a_laptop(head: Head) -> None:
    (head.laptop / "sweep.yaml").write_text(SWEEP.replace("epochs: 3", "epochs: 100000"))
    tune = ["tune", "sweep.yaml", "--address", head.address, "--accept-audit"]
    # followed in a terminal, and left alone
    code, shown = in_terminal(head, tune, (r"2/100000", b"\x03"), (r"\[D/s\]", b"\n"))
    assert code == 130, shown
    assert re.search(r"To the cluster: sweep\.yaml \(\d+ bytes\); nothing else", shown)
    assert "Ctrl-C detaches or stops" in shown
    again = re.search(r"detached; job (rfray-tune-\w+) goes on. Follow it again with: rfray (tune .*)\r\n", shown)
    assert again is not None, shown
    assert again[2].split() == tune
    # another sweep may not have its folder
    said = head.rfray(*tune, "--set", "trial.epochs=5", code=2)
    assert f"runs/tiny is in use on the cluster: job {again[1]} (rfray tune) runs with other settings" in said
    # followed again, and stopped
    code, shown = in_terminal(head, tune, (r"[3-9]/100000", b"\x03"), (r"\[D/s\]", b"s\n"))
    assert code == 130, shown
    assert f"Job {again[1]} at {head.address} runs already; following it" in shown
    assert f"stopped job {again[1]}; go on with: rfray tune" in shown
    run = head.shared / "runs" / "tiny"
    done = sum(len(file.read_text().splitlines()) - 1 for file in run.glob("trials/*/history.csv"))
    assert done >= 3
    assert not list(run.glob("trials/*/result.json"))
    # the same command goes on; without a terminal Ctrl-C detaches
    going = subprocess.Popen(
        [sys.executable, "-m", "rfray.cli", *tune], cwd=head.laptop, env=head.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert going.stdout is not None
    first = next(int(found[1]) for line in going.stdout if (found := re.search(r"epoch (\d+)/100000", line)))
    assert first in (done, done + 1)  # an epoch whose state was not on the disk yet is trained again
    going.send_signal(signal.SIGINT)
    assert "goes on. Follow it again" in going.stdout.read()
    assert going.wait() == 130
    # stopped by somebody else: who looks on is told, and that it can go on
    watching = subprocess.Popen(
        [sys.executable, "-m", "rfray.cli", *tune, "--on-interrupt", "stop"], cwd=head.laptop, env=head.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert watching.stdout is not None
    next(line for line in watching.stdout if " epoch " in line)
    watching.send_signal(signal.SIGINT)
    assert "stopped job" in watching.stdout.read()
    assert watching.wait() == 130
    assert head.secrets_in(head.shared) == head.secrets_in(head.folder / "ray") == head.secrets_in(head.laptop) == []


@pytest.mark.slow
def test_a_whole_sweep_and_its_ensemble(head: Head) -> None:
    import timm
    from safetensors.torch import save_file

    weights = head.laptop / "own.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False, num_classes=2).state_dict(), weights)
    text = SWEEP.replace("pretrained: false", "pretrained: own.safetensors").replace("name: tiny", "name: whole")
    (head.laptop / "whole.yaml").write_text(text)
    tune = ["tune", "whole.yaml", "--address", head.address]
    plan = head.rfray(*tune, "--dry-run")
    assert f"run folder   {head.shared}/runs/whole" in plan
    assert not (head.shared / "runs" / "whole").exists()
    said = head.rfray(*tune, "--accept-audit")
    assert re.search(r"To the cluster: whole\.yaml \(\d+ bytes\), own\.safetensors \(\d+\.\d .B\); nothing else", said)
    assert len(re.findall(r"^trial 0000\d-\w{6} epoch \d/3 val auc", said, re.MULTILINE)) == 6
    assert "2 trials done\nNext: rfray ensemble runs/whole --address" in said
    run = head.shared / "runs" / "whole"
    name = f"{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}-own.safetensors"
    assert RunDir(run).sweep().trial.choices("pretrained") == [f"{head.shared}/weights/{name}"]
    # once more: it is done already
    assert "has done this; --fresh starts anew" in head.rfray(*tune)
    said = head.rfray("ensemble", "runs/whole", "--top-k", "1", "--format", "csv", "--address", head.address)
    assert "Leaderboard, ranked by val_auc" in said
    said = head.rfray("fetch", "runs/whole", code=2)
    assert "`ray rsync-down cluster.yaml RFRAY_HOME/runs/whole/ runs/whole/`" in said
    # a job that fails: its text and its exit code, and next time how to read them
    (head.laptop / "wrong.yaml").write_text(text.replace("test_resnet", "test_resnot").replace("whole", "wrong"))
    said = head.rfray("tune", "wrong.yaml", "--address", head.address, code=2)
    assert 'wrong.yaml:4: trial.backbone: given "test_resnot"; allowed: test_resnet' in said
    said = head.rfray("tune", "wrong.yaml", "--address", head.address, code=2)
    assert re.search(r"The job before, rfray-tune-\w+, has failed \(exit code 2; its output: `ray job logs rfray", said)
    # on the head itself
    plan = head.rfray("tune", "whole.yaml", "--address", "auto", "--dry-run", "--set=data.source=demo",
                      "--set=data.train=null", "--set=data.test=null", RAY_ADDRESS=head.gcs, **head.there)  # fmt: skip
    assert "1 at once with 1 CPU and 0 GPU each" in plan
    assert head.secrets_in(head.shared) == head.secrets_in(head.folder / "ray") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_ends_with_its_budget(head: Head) -> None:
    text = SWEEP.replace("trials: 2, algorithm: random,", "budget: 45s,").replace("epochs: 3", "epochs: 100000")
    (head.laptop / "short.yaml").write_text(text.replace("name: tiny", "name: short"))
    tune = ["tune", "short.yaml", "--address", head.address, "--accept-audit"]
    run = RunDir(head.shared / "runs" / "short")
    for seconds in (45, 180):  # a busy machine says that 45 seconds are too short, and asks for more
        said = head.rfray(*tune, "--set", f"search.budget={seconds}s", code=None)
        if list(run.models()):
            break
    assert f"The budget of {seconds}s is used up; a larger search.budget goes on" in said, said
    done = {trial.id: trial.history()["epoch"].max() for trial in run.models()}
    assert done
    assert "Leaderboard, ranked by val_auc" in head.rfray("ensemble", "runs/short", "--address", head.address)
    head.rfray(*tune, "--set", f"search.budget={seconds + 30}s")
    assert read_record(run.budget_file, Spent).clock > seconds
    assert len(list(run.models())) > len(done)

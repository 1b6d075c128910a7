"""addresses -> machines of their own on this one, for as long as a block lasts.

Each host is a set of Linux namespaces (network, mounts, processes, name) with its own address, home, /tmp, /run and
/dev/shm, and an sshd that takes one key; all else, this checkout and its environment too, is as on this machine. A
laptop beside them has the key, and the switch that they all hang on. None of it shows outside: no interface, address or
route is added to this machine, so that addresses are free to choose, and all ends with the process that made it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
USER = "rfray"
HOME = f"/home/{USER}"
SHARED = "/shared"
"""Where all hosts (not the laptop) see the same folder."""
LAPTOP = "192.168.1.1"
TOOLS = ["ip", "mount", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare"]
PATH = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

# A root folder of its own: what this machine has, but for what a host has to itself. Its user is root by another name,
# with another home.
BOOT = r"""
set -eu
root=$1 home=$2 shared=$3 name=$4 user=$5; shift 5
mount -t tmpfs rfray-host "$root"
for entry in /*; do
  case $entry in
    /home | /run | /shared | /tmp) mkdir -p "$root$entry" ;;
    *) if [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
       elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
       fi ;;
  esac
done
chmod 1777 "$root/tmp"
mkdir -p "$root/run/sshd" "$root/home/$user" "$root/shared" "$root/run/etc"
mount -t tmpfs -o mode=1777 rfray-host "$root/dev/shm"
mount --bind "$home" "$root/home/$user"
[ -z "$shared" ] || mount --bind "$shared" "$root/shared"
for path in "$@"; do
  [ -e "$root$path" ] || { mkdir -p "$root$path"; mount --bind "$path" "$root$path"; }
done
{ echo "$user:x:0:0::/home/$user:/bin/bash"; cat /etc/passwd; } > "$root/run/etc/passwd"
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" > "$root/run/etc/hosts"
mount --bind "$root/run/etc/passwd" "$root/etc/passwd"
mount --bind "$root/run/etc/hosts" "$root/etc/hosts"
echo "$name" > /proc/sys/kernel/hostname
ip link set lo up
echo ready
exec chroot "$root" "$(command -v sshd)" -D -e -f /dev/null -h "/home/$user/.ssh/host_key" -o PidFile=none \
  -o UsePAM=no -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password \
  -o AuthorizedKeysFile=.ssh/authorized_keys
"""


@dataclass(frozen=True)
class Host:
    """A machine of its own. `pid` is the first of its processes, as this machine counts them."""

    name: str
    address: str
    folder: Path
    pid: int

    def words(self, *command: str, at: str = HOME, **environment: str) -> list[str]:
        """What runs a command on it from here, as its user, with no more of an environment than this."""
        given = {"HOME": HOME, "USER": USER, "LOGNAME": USER, "PATH": PATH, "LANG": "C.UTF-8", **environment}
        settings = [f"{key}={value}" for key, value in given.items()]
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "env", "-i", f"--chdir={at}", *settings, *command]

    def processes(self) -> list[psutil.Process]:
        """All that run on it, sshd among them."""
        mine = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        return [process for process in psutil.process_iter() if _pid_namespace(process) == mine]


@dataclass(frozen=True)
class Hosts:
    """A laptop, and the machines that it reaches."""

    laptop: Host
    hosts: list[Host]
    shared: Path
    """What the hosts see as /shared, from here."""

    def cut(self, host: Host) -> None:
        """Pulls the cable of a host."""
        _in_network(self.laptop, "ip", "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Puts it back."""
        _in_network(self.laptop, "ip", "link", "set", host.name, "up")

    def ssh(self, host: Host, command: str) -> list[str]:
        """What runs a shell command on a host from the laptop."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        words = [word for option in options for word in ("-o", option)]
        return self.laptop.words("ssh", *words, f"{USER}@{host.address}", command)


def missing() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "hosts of its own take Linux and root"
    if lacking := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"hosts of its own take {', '.join(lacking)} (Debian: openssh-server rsync iproute2)"
    words = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run(
        [*words, "sh", "-c", "mount -t tmpfs x /tmp && ip link add type veth && ip link add switch type bridge"],
        capture_output=True, text=True,
    )  # fmt: skip
    if tried.returncode:
        return f"no namespaces to be had here: {tried.stderr.strip()}"
    return None


@contextmanager
def hosts(folder: Path, addresses: list[str]) -> Iterator[Hosts]:
    """A laptop and hosts at these addresses (192.168.1.2 to .254), with an empty shared folder."""
    shared = folder / "shared"
    shared.mkdir(parents=True)
    with ExitStack() as stack:
        laptop = stack.enter_context(_booted(folder / "laptop", LAPTOP, None))
        _in_network(laptop, "ip", "link", "add", "switch", "type", "bridge")
        _plug(laptop, "switch")
        key = folder / "laptop" / "home" / ".ssh" / "id_ed25519"
        _key(key)
        machines = []
        for number, address in enumerate(addresses):
            name = f"host{number}"
            host = stack.enter_context(_booted(folder / name, address, shared))
            shutil.copy(key.with_suffix(".pub"), folder / name / "home" / ".ssh" / "authorized_keys")
            ends = ["eth0", "netns", str(host.pid), "type", "veth", "peer", "name", name, "netns", str(laptop.pid)]
            _run("ip", "link", "add", *ends)
            _plug(host, "eth0")
            _in_network(laptop, "ip", "link", "set", name, "master", "switch", "up")
            machines.append(host)
        yield Hosts(laptop, machines, shared)


@contextmanager
def _booted(folder: Path, address: str, shared: Path | None) -> Iterator[Host]:
    root, home = folder / "root", folder / "home"
    root.mkdir(parents=True)
    shutil.copytree("/etc/skel", home)
    (home / ".ssh").mkdir(mode=0o700)
    _key(home / ".ssh" / "host_key")
    here = [str(ROOT), sys.prefix, sys.base_prefix]
    with (folder / "sshd.log").open("wb") as log:
        # killed with this process, and everything on the host with its first process
        started = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork",
             "--kill-child", "--mount-proc", "bash", "-c", BOOT, "boot", root, home, shared or "", folder.name, USER,
             *here],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
        )  # fmt: skip
    try:
        assert started.stdout is not None
        if started.stdout.readline() != "ready\n":
            raise RuntimeError(f"{folder.name} did not start: {(folder / 'sshd.log').read_text()}")
        [first] = psutil.Process(started.pid).children()
        yield Host(folder.name, address, folder, first.pid)
    finally:
        started.kill()
        started.wait()


def _key(file: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file))


def _in_network(host: Host, *command: str) -> None:
    _run("nsenter", f"--target={host.pid}", "--net", *command)


def _plug(host: Host, device: str) -> None:
    _in_network(host, "ip", "address", "add", f"{host.address}/24", "dev", device)
    _in_network(host, "ip", "link", "set", device, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": PATH})


def _pid_namespace(process: psutil.Process) -> int | None:
    try:
        return os.stat(f"/proc/{process.pid}/ns/pid").st_ino
    except OSError:
        return None

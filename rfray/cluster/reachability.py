"""an address of a Ray cluster -> nothing, or a ClusterError that says why this machine can't use it."""

import os
import socket
import subprocess
import sys

import psutil

from rfray.errors import ClusterError

CONNECT_SECONDS = 5
"""Time to open a connection to the head."""
PROBE_SECONDS = 40
"""Time for the probe; it takes 2 s on an idle machine, and 12 s with a load of 9 on two cores."""
PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_server_request_timeout_seconds": "5"}
"""Ray's settings for the probe; by default it tries 20 times, and waits 60 s for a node on this machine."""
TOKEN_HELP = "Set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token (chmod 600)"  # noqa: S105


def check_reachable(address: str) -> None:
    """Connects to the cluster at `address` in a process of its own.

    `ray.init` in this process would try for minutes where nothing answers or the token is wrong, and not say which.
    `address` is host:port, or auto: the cluster of this machine. Addresses of another kind (ray://…) are left to Ray.
    Raises ClusterError where nothing answers, the token is missing or wrong, no node of Ray runs on this machine, or
    Ray has another reason.
    """
    if "://" in address:
        return
    host, _, port = address.rpartition(":")
    command = [sys.executable, "-c", PROBE, address]
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            _check_node_here(address)
        probe = subprocess.run(  # noqa: S603
            command, env=os.environ | IMPATIENT, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except TimeoutError:
        raise ClusterError(f"no Ray cluster at {address}: nothing answers") from None
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {address}: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"no Ray cluster at {address}: what answers there is not Ray") from None
    if "AuthenticationError" in probe.stderr:
        raise ClusterError(f"the cluster at {address} {_token_problem(probe.stderr)}. {TOKEN_HELP}")
    if probe.returncode:
        reason = " ".join(probe.stderr.rpartition("Error: ")[2].split()) or "no reason is given"
        raise ClusterError(f"no Ray cluster at {address}: {reason}")


def _check_node_here(address: str) -> None:
    if not any((process.info["name"] or "").startswith("raylet") for process in psutil.process_iter(["name"])):
        raise ClusterError(
            f"the cluster at {address} has no node on this machine: run the command on one of its nodes with "
            "--address auto, or submit it through the head's job server (--address http://…)"
        )


def _token_problem(stderr: str) -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "asks for a token"
    if "InvalidAuthToken" in stderr:
        return "has another token than the one that is found here"
    return "asks for a token, but there is none here"

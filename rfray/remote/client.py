"""the address of a job server -> Ray's client of it, after the versions and the token are checked."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rfray.errors import ClusterError


def reach(address: str) -> Any:
    """Ray's client of the job server at `address` (http://host:port).

    Raises ClusterError where nothing answers, or something else than Ray, where the token is missing or wrong, and
    where Ray has another version there.
    """
    for name in ("requests", "aiohttp"):
        if find_spec(name) is None:
            raise ClusterError(f"--address {address}: {name} is missing; pip install 'rfray[cluster]'")
    remote_version = _ray_version(address)  # before Ray is imported, as it may set RAY_AUTH_MODE
    for overruling in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(overruling, None)

    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    check_versions("Ray", ray.__version__, remote_version, "ray[default]")
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # Ray would print a line on every request
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise _wrong_token(address) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the Ray at {address} does not answer: {error}") from None


def check_versions(what: str, here: str, there: str, package: str) -> None:
    """Raises ClusterError where they differ."""
    if here != there:
        raise ClusterError(
            f"{what} is {here} here and {there} on the cluster: they must be the same. "
            f"Here: pip install '{package}=={there}'; or install {here} there (constraints.txt) and start Ray again"
        )


def _ray_version(address: str) -> str:
    """The version of the Ray at `address`. Raises ClusterError in seconds where that is not Ray or refuses the token.

    Where the server asks for a token, RAY_AUTH_MODE is set, so that Ray's client sends it.
    """
    import requests

    url = f"{address.rstrip('/')}/api/version"
    try:
        answer = requests.get(url, timeout=10)
        if answer.status_code == 401 and "authentication token" in answer.text:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            answer = requests.get(url, headers={"Authorization": f"Bearer {_token()}"}, timeout=10)
            if answer.status_code in (401, 403):
                raise _wrong_token(address)
    except (requests.RequestException, ValueError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({type(error).__name__}). Is the tunnel open? "
            "`ray dashboard cluster.yaml` makes one to http://127.0.0.1:8265"
        ) from None
    if '"ray_version"' not in answer.text:
        raise ClusterError(f"what answers at {address} is not Ray's dashboard (HTTP {answer.status_code})")
    return str(answer.json()["ray_version"])


def _token() -> str:
    """The token that Ray's client sends; "" where there is none. Ray documents these three places, in this order."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _wrong_token(address: str) -> ClusterError:
    found = "refuses the token that is found here" if _token() else "asks for its token, and there is none here"
    return ClusterError(
        f"the cluster at {address} {found}: ~/.ray/auth_token (mode 600; or RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN) must "
        "hold the same as that file on the head, and RAY_AUTH_MODE must be token or not set"
    )

"""an address -> a ClusterError, or nothing: whether the Ray cluster there would take this process in.

`ray.init` tries for up to a minute, and then says no more than that it could not connect. Asked by Ray's own messages,
the head of a cluster answers within milliseconds.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray._private.authentication import authentication_token_setup as token_setup
from ray._private.authentication import grpc_authentication_client_interceptor as token_sender
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray.exceptions import AuthenticationError

from rfray.errors import ClusterError

if TYPE_CHECKING:
    import grpc

ANSWER = 5
"""Seconds in which a head must answer."""
TOKEN = "Set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token (chmod 600)"  # noqa: S105


def knock(address: str) -> None:
    """Raises ClusterError within seconds where `ray.init(address)` would fail.

    That is where nothing answers, the token is missing or wrong, Ray's versions differ, or no node of the cluster runs
    on this machine. `address` is host:port, or auto: the cluster that runs here. Others are left to Ray.
    """
    try:
        if address == "auto":
            with _quiet():  # as ray.init does; for an address that is given it wants to be told
                token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        elif "://" in address:
            return
        place = canonicalize_bootstrap_address(address)
        if place is not None:
            _ask(place, named=place if address == "auto" else address)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from error
    except AuthenticationError as error:
        reason = str(error).partition(". ")[0]
        raise ClusterError(
            f"the cluster at {address} asks for a token, but there is none here: {reason}. {TOKEN}"
        ) from error


def _ask(place: str, named: str) -> None:
    import grpc
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest, GetAllNodeInfoRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    token = token_sender._get_authentication_metadata_tuple()
    with grpc.insecure_channel(place) as channel:
        head = NodeInfoGcsServiceStub(channel)
        try:
            version = head.CheckAlive(CheckAliveRequest(), timeout=ANSWER, metadata=token).ray_version
            if version != ray.__version__:
                here = f"this machine Ray {ray.__version__}"
                raise ClusterError(f"the cluster at {named} runs Ray {version}, {here}: install the same on both")
            found = head.GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=ANSWER, metadata=token).node_info_list
        except grpc.RpcError as error:
            raise _refused(named, error) from error
    nodes = {node.node_id.hex(): node.node_manager_address for node in found if node.state == GcsNodeInfo.ALIVE}
    if not nodes.keys() & set(find_node_ids()):
        raise ClusterError(
            f"the cluster at {named} has no node on this machine, but on {', '.join(sorted(set(nodes.values())))}: "
            "run the command on one of those, with --address auto, or submit it through the head's job server"
        )


def _refused(address: str, error: "grpc.RpcError") -> ClusterError:
    import grpc

    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
        silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        reason = "nothing answers" if silent else str(error.details()).rpartition(": ")[2]
        return ClusterError(f"no Ray cluster at {address}: {reason}")
    if os.environ.get(token_setup.AUTH_MODE_ENV_VAR, "").lower() != "token":
        return ClusterError(f"the cluster at {address} asks for a token. {TOKEN}")
    return ClusterError(f"the cluster at {address} has another token than the one that is found here. {TOKEN}")


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger(token_setup.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

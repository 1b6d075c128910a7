"""the Host of a request -> whether this server is meant.

A page elsewhere can let a name of its own point here (DNS rebinding), and would read what is answered.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

from starlette.datastructures import Headers

from rfray.errors import InputError

HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(:\d*)?")
"""A name or an address, IPv6 in brackets, and maybe a port."""


def check_hosts(names: Sequence[str]) -> None:
    """Raises InputError where one is no name that a Host can have: gpubox, *.example.org, or * for any."""
    for name in names:
        if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_.-]+", name):
            allowed = "a name without scheme and port, such as gpubox or *.example.org, or * for any"
            raise InputError(f"--allow-host {name!r}: it takes {allowed}")


def is_for(headers: Headers, version: str, names: Sequence[str]) -> bool:
    """Whether a request of this HTTP version is for one of the `names`, this machine's localhost or a literal address.

    No name of anybody's can be made to point to an address that is written out. No browser leaves the Host away.
    """
    given = headers.getlist("host")
    if not given:
        return version == "1.0" or "*" in names
    found = HOST.fullmatch(given[0])
    if len(given) > 1 or found is None:
        return False
    name = found["name"].lower().removesuffix(".")
    with suppress(ValueError):
        ip_address(name.strip("[]"))
        return True
    wanted = [one.lower().removesuffix(".") for one in ("localhost", "*.localhost", *names)]
    return any(one in ("*", name) or (one[:2] == "*." and name.endswith(one[1:])) for one in wanted)

"""the header of a request -> whether this server is meant, and by nobody else's web page.

A page elsewhere can let a name of its own point here (DNS rebinding), and would read what is answered. It can also make
its visitor's browser send requests here, whose answers it does not see (CSRF): they would still take time and memory.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.datastructures import Headers

from rfray.errors import InputError

HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(:\d*)?")
"""A name or an address, IPv6 in brackets, and maybe a port."""
ORIGIN = re.compile(r"https?://(?P<at>.*)")
HOW = "rfray serve --allow-host NAME makes it so"


def check_hosts(names: Sequence[str]) -> None:
    """Raises InputError where one is no name that a Host can have: gpubox, *.example.org, or * for any."""
    for name in names:
        if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_.-]+", name):
            allowed = "a name without scheme and port, such as gpubox or *.example.org, or * for any"
            raise InputError(f"--allow-host {name!r}: it takes {allowed}")


def refusal(headers: Headers, version: str, names: Sequence[str]) -> tuple[int, str] | None:
    """Status and reason for a request of this HTTP version that is not answered; None: it is.

    It is to be for one of the `names`, this machine's localhost or a literal address: no name of anybody's can be made
    to point to an address that is written out. Where a page sends it, the page is to be this server's own, or one of
    a host in `names` or of localhost.
    """
    given, anybody = headers.getlist("host"), "*" in names
    if len(given) > 1 or not (given or anybody or version == "1.0"):  # no browser leaves it away
        return 400, f"the request has {len(given)} fields Host; it is to have one"
    if anybody:
        return None
    host = _name(given[0]) if given else "localhost"
    if not (host and (_address(host) or _is_known(host, names))):
        return 421, f"this server is not known by the Host of the request; {HOW}"
    if not _is_own_page(headers, host, names):
        return 403, f"the request comes from a page of another site (its Origin or Sec-Fetch-Site); {HOW}"
    return None


def _is_own_page(headers: Headers, host: str, names: Sequence[str]) -> bool:
    """Whether no page of another site sends it. Only browsers say so, with an Origin wherever something may be done."""
    if origins := headers.getlist("origin"):  # "null" is a file's, or that of a page that hides where it is from
        sites = [_name(found["at"]) if (found := ORIGIN.fullmatch(origin)) else "" for origin in origins]
        return all(site and (site == host or _is_known(site, names)) for site in sites)
    fetched, mode, where = (headers.get(f"sec-fetch-{what}", "") for what in ("site", "mode", "dest"))
    return fetched != "cross-site" or (mode, where) == ("navigate", "document")  # a link to this server is followed


def _name(given: str) -> str:
    """The host in "host:port", in small letters; "" where it is none."""
    found = HOST.fullmatch(given)
    return found["name"].lower().removesuffix(".") if found else ""


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name.strip("[]"))
    except ValueError:
        return None


def _is_known(name: str, names: Sequence[str]) -> bool:
    """Whether it is one of the `names`, or this machine whatever it is called."""
    if address := _address(name):
        return address.is_loopback or name.strip("[]") in names
    wanted = [one.lower().removesuffix(".") for one in ("localhost", "*.localhost", *names)]
    return any(one == name or (one[:2] == "*." and name.endswith(one[1:])) for one in wanted)

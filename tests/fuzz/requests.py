"""Requests, damaged, to the server on a real socket -> an answer of 200, or of 4xx with a sentence in JSON.

The models alone are made up: a number for every picture. The real ones are in processes of their own.
"""

import asyncio
import io
import json
import logging
import re
import socket
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from rfray.data.geometry import Geometry
from rfray.serving.app import Endpoints
from rfray.serving.connections import Connection
from rfray.serving.uploads import Limits
from rfray.spec.trial import Trial
from rfray.store.bundle_record import Bundle, Ensemble, Member
from tests.fuzz.mutate import EDGES, TEXTS, of_bytes, several
from tests.fuzz.runner import Check, Input, Make
from tests.pictures import picture

LIMITS = Limits(
    file_bytes=20_000, request_bytes=50_000, header_bytes=8192, upload_seconds=0.1, header_seconds=0.1, read_seconds=5
)
"""Seconds are few, as most of what is damaged waits for something; a slow machine only answers 408 more often."""
KEEP_ALIVE = 0.1
PATIENCE = 60
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HEAD_WORDS = (
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n", b"Host: \r\n", b"Host: evil.example\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n",
    b"Content-Type: multipart/form-data\r\n", b"Content-Type: application/json\r\n", b"; charset=punycode",
    b"; charset=utf-16", b"boundary=", b'; boundary="', b"; boundary=\xff", b"\r\n", b"\r\n\r\n", b"\n", b"\0",
    b"\x80", b" HTTP/1.0", b" HTTP/2.0", b"?a=%00%ff", b"%2e%2e/", b"//",
    b"Content-Disposition: form-data; name=x; filename=", b"filename*=utf-8''%ff", b'; filename="',
    b"Content-Transfer-Encoding: base64\r\n", b"--x--\r\n", b"--x\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
    b"-1\r\n", b"a: b\r\n" * 200, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


class MadeUp:
    """Models that answer at once."""

    async def scores(self, squares: Any) -> np.ndarray:
        return np.full((2, len(squares[0])), 0.25)

    async def evidence(self, drawn: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(drawn[:8, :8]).save(out, "JPEG")
        return out.getvalue()

    async def alive(self) -> None:
        pass


class Errors(logging.Handler):
    """What the server has logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.said.append(logging.Formatter().format(record))


def prepare(folder: Path) -> tuple[Make, Check]:
    """See the package."""
    errors = Errors()
    for name in ("", "uvicorn.error", "asyncio"):
        logging.getLogger(name).addHandler(errors)
    address = _serve()
    seeds = _requests()

    def make(random: Random) -> Input:
        return Input("request", _changed(random, random.choice(seeds), seeds))

    def check(given: Input) -> None:
        errors.said.clear()
        _check_answers(_answers(address, given.data))
        assert _answers(address, ALIVE).startswith(b"HTTP/1.1 200 ")
        assert not errors.said, "\n".join(errors.said)

    return make, check


def _serve() -> tuple[str, int]:
    """The application in a thread, as `rfray serve` has it."""
    members = [
        Member(id=name, weights="0" * 64, trial=Trial(backbone="resnet18", image_size=32)) for name in ("a", "b")
    ]
    bundle = Bundle(members=members, reencode=None, files={}, figures={}, test_digest="", audit_stamp="", versions={})
    vote: dict[str, Any] = {
        "name": "ensemble",
        "members": ["a", "b"],
        "weights": [0.5, 0.5],
        "temperatures": [1.0, 1.0],
    }
    ensemble = Ensemble(
        **vote, threshold=0.5, val_score=0.9, classes=["real", "fake"], metric="auc", others=[], bundle=bundle
    )
    app = Endpoints(ensemble, [Geometry("scale", 32, None)] * 2, MadeUp(), 2, LIMITS).app(["localhost"])
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, limit_concurrency=LIMITS.connections
    )
    config.timeout_keep_alive = KEEP_ALIVE  # type: ignore[assignment]
    config.load()
    state, protocol, ready, where = (
        uvicorn.Server(config).server_state,
        type("Quick", (Connection,), {"limits": LIMITS}),
        Event(),
        [],
    )

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        where.append(server.sockets[0].getsockname())
        ready.set()
        await server.serve_forever()

    Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    ready.wait()
    return where[0]


def _answers(address: tuple[str, int], sent: bytes) -> bytes:
    """All that comes back until the server closes, which it does in time."""
    with socket.create_connection(address, timeout=PATIENCE) as client:
        got = b""
        try:
            client.sendall(sent)
            while piece := client.recv(1_000_000):
                got += piece
        except ConnectionError:  # it was closed before all was sent
            pass
        return got


def _check_answers(got: bytes) -> None:
    """Raises AssertionError unless all of it is answers that are documented."""
    rest = got
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, got[:2000]
        line, *fields = head.split(b"\r\n")
        status = int(line.split(b" ")[1])
        assert line.startswith(b"HTTP/1.1 "), line
        assert status in (100, 200) or 400 <= status < 500, got[:2000]
        if status == 100:
            continue
        named = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        size = int(named[b"content-length"])
        body, rest = rest[:size], rest[size:]
        if status >= 400 and body:  # a HEAD has none
            assert json.loads(body)["detail"], body


def _requests() -> list[bytes]:
    """One of each kind that is answered, and some that are refused."""
    generator = np.random.default_rng(0)
    files = []
    for form in ("JPEG", "PNG", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(picture(True, generator)).save(out, form)
        files.append(out.getvalue())
    gets = [_request(b"GET", path) for path in (b"/", b"/healthz", b"/metrics", b"/openapi.json", b"/nowhere", b"*")]
    others = [_request(method, b"/predict") for method in (b"GET", b"HEAD", b"OPTIONS", b"PUT")]
    form = b"Content-Type: multipart/form-data; boundary=x\r\n"
    posts = []
    for path, chosen in (
        (b"/predict", files),
        (b"/predict", files[:1]),
        (b"/explain", files[1:2]),
        (b"/predict", [b"no picture"]),
    ):
        parts = [
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n' % number
            + b"Content-Type: image/jpeg\r\n\r\n"
            + data
            for number, data in enumerate(chosen)
        ]
        body = b"\r\n".join([*parts, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb', b"--x--\r\n"])
        posts.append(_request(b"POST", path, form, body))
        cut = len(body) // 2
        chunks = b"".join(b"%x\r\n" % len(one) + one + b"\r\n" for one in (body[:cut], body[cut:])) + b"0\r\n\r\n"
        posts.append(_request(b"POST", path, form + b"Transfer-Encoding: chunked\r\n") + chunks)
    return [*gets, *others, *posts, gets[1] * 3, posts[2] + gets[0]]


def _request(method: bytes, path: bytes, fields: bytes = b"", body: bytes = b"") -> bytes:
    size = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + fields + size + b"\r\n" + body


def _changed(random: Random, request: bytes, others: list[bytes]) -> bytes:
    """Bytes anywhere, bytes of the body alone (the length fits), or lines of the header and of a part's header."""
    kind = random.choice(("bytes", "body", "body", "lines", "lines"))
    if kind == "bytes":
        return of_bytes(random, request, others, HEAD_WORDS)
    head, _, body = request.partition(b"\r\n\r\n")
    if kind == "body" and body and b"chunked" not in head:
        body = of_bytes(random, body, [other.partition(b"\r\n\r\n")[2] for other in others], HEAD_WORDS)
        return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body
    lines = request.split(b"\r\n")
    last = next((number for number, line in enumerate(lines) if not line), len(lines))
    for _ in range(several(random)):
        if not lines:
            break
        at = random.randrange(min(last + 6, len(lines)))
        name, colon, value = lines[at].partition(b":")
        match random.randrange(6):
            case 0:
                lines[at:at] = [lines[at]] * random.choice((1, 2, 300))
            case 1:
                del lines[at]
            case 2:
                text = random.choice(TEXTS)[:9000].encode("utf-8", "replace")
                lines[at] = name + colon + text if colon else text
            case 3:
                lines[at] = name + colon + b" %d" % random.choice((*EDGES, -1, 10**30))
            case 4:
                lines[at] = lines[at].replace(
                    *random.choice(((b"=", b"=="), (b"x", b"y"), (b" ", b"  "), (b'"', b""), (b";", b"")))
                )
            case _:
                lines[at] = lines[at] + random.choice(HEAD_WORDS) + value
    return b"\r\n".join(lines)

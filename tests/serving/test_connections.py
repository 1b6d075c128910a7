"""Clients that never end, never begin or never read, on a real socket: each is cut off, and the others are answered."""

import asyncio
import json
import re
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

import uvicorn
from fastapi import FastAPI

from rfray.serving.app import Metrics, metered
from rfray.serving.connections import Connection
from rfray.serving.uploads import Limits
from tests.serving.clock import run_in_no_time

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
SLOW = Limits(header_bytes=2000, header_seconds=30, connections=3)
QUICK = Limits(header_seconds=0.1, read_seconds=0.1)
KEEP_ALIVE = 0.1
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def served(
    limits: Limits,
    client: Callable[[Connect], Awaitable[None]],
    answer: Any = b"ok",
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
    keep_alive: float = KEEP_ALIVE,
    work: float = 0,
) -> None:
    """Runs the client against a server whose application is `answer`, or answers so: always, None with the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        await asyncio.sleep(work)
        said = body if answer is None else answer
        length = (b"content-length", str(len(said)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": said})

    async def go() -> None:
        asked = answer if callable(answer) else app
        config = uvicorn.Config(asked, lifespan="off", log_level="critical", limit_concurrency=limits.connections)
        config.timeout_keep_alive = keep_alive  # type: ignore[assignment]
        config.load()
        state = uvicorn.Server(config).server_state
        protocol = type("Limited", (Connection,), {"limits": limits})
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        host, port = listening.sockets[0].getsockname()
        await asyncio.wait_for(client(lambda: asyncio.open_connection(host, port)), 20 if run is asyncio.run else 2000)
        listening.close()

    run(go())


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What still comes, until the server closes."""
    data = b""
    try:
        while piece := await reader.read(1_000_000):
            data += piece
    except ConnectionError:
        pass
    return data


ENDLESS = {
    "fields": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "one field's name": (b"GET / HTTP/1.1\r\n", b"aaaaaa"),
    "one field's value": (b"GET / HTTP/1.1\r\na: ", b"aaaaaa"),
    "URL": (b"GET /", b"aaaaaa"),
    "blank lines": (b"", b"\r\n\r\n"),
    "trailer": (CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n"),
    "one field of the trailer": (CHUNKED + b"1\r\na\r\n0\r\na: ", b"aaaaaa"),
    "extension of a chunk": (CHUNKED + b"1;a=", b"aaaaaa"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_not_kept(kind: str) -> None:
    async def client(connect: Connect) -> None:
        begin, more = ENDLESS[kind]
        reader, writer = await connect()
        answer = asyncio.create_task(rest(reader))
        writer.write(begin)
        sent = 0
        while not answer.done() and sent < 2_000_000:
            writer.write(more * 10)
            sent += len(more) * 10
            await asyncio.sleep(0)
        assert b" 431 " in await answer or sent > SLOW.header_bytes
        assert sent < 2_000_000

    served(SLOW, client)


def test_a_whole_header_that_is_too_long_hears_so_and_a_long_body_does_not() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * 2000 + b"\r\n\r\n")
        said = await rest(reader)
        assert b" 431 " in said
        assert b"the header is over 2000 bytes" in said
        reader, writer = await connect()
        writer.write(CHUNKED + (b"5dc\r\n" + b"a" * 1500 + b"\r\n") * 40 + b"0\r\n\r\n" + GET)
        for _ in range(2):
            assert (await reader.readuntil(b"ok"))[:15] == b"HTTP/1.1 200 OK"

    served(SLOW, client)


@pytest.mark.parametrize("begin", [b"", b"GET / HT", b"\r\n", b"GET / HTTP/1.1\r\na: b\r\n"])
@pytest.mark.parametrize("answered", [False, True])
def test_who_never_ends_a_header_is_closed_however_slowly_it_goes_on(begin: bytes, answered: bool) -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        if answered:
            writer.write(GET)
            await reader.readuntil(b"ok")
        writer.write(begin)
        said = asyncio.create_task(rest(reader))
        while begin and not said.done():
            await asyncio.sleep(0.02)
            writer.write(b"\r\n" if begin == b"\r\n" else b"")
        assert (await said)[:13] == (b"HTTP/1.1 408 " if begin else b"")

    served(QUICK, client)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(protocol: bytes) -> None:
    async def client(connect: Connect) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nupgrade: " + protocol
        body = b"\r\nContent-Length: 14\r\n\r\nabc\r\nupgrade: "
        reader, writer = await connect()
        for _ in range(2):  # and may ask again
            writer.write(head + body)
            assert await reader.readuntil(b"\r\n\r\nabc\r\nupgrade: ")
        reader, writer = await connect()
        name = head.index(b"grade: ")
        writer.write(head[:name])
        await asyncio.sleep(0.1)  # in two pieces
        writer.write(head[name:] + body)
        assert (await rest(reader))[:13] == b"HTTP/1.1 501 "

    served(Limits(), client, answer=None)


def test_who_sends_no_more_is_answered_and_then_closed() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET)
        writer.write_eof()
        assert (await rest(reader))[-2:] == b"ok"
        for part in (b"", GET[:10], CHUNKED + b"1\r\n"):
            reader, writer = await connect()
            writer.write(part)
            writer.write_eof()
            assert await rest(reader) == b""

    served(Limits(), client, work=0.2)


def test_the_silent_make_room_for_who_asks() -> None:
    async def client(connect: Connect) -> None:
        silent = [await connect() for _ in range(10)]
        for _ in range(3):
            reader, writer = await connect()
            writer.write(GET)
            assert (await reader.readuntil(b"ok"))[:15] == b"HTTP/1.1 200 OK"
        assert await rest(silent[0][0]) == b""

    served(SLOW, client)


def test_who_does_not_read_is_cut_off() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await asyncio.sleep(0.5)
        assert len(await rest(reader)) < 30_000_000

    served(QUICK, client, answer=bytes(30_000_000))


CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("asks", [GET, CLOSE])
@pytest.mark.parametrize(("rate", "until", "whole"), [(10_000, 8_000_000, True), (500, 100_000, False)])
def test_who_reads_slowly_has_the_time_for_it_and_who_hardly_reads_has_not(
    asks: bytes, rate: int, until: int, whole: bool
) -> None:
    async def client(connect: Connect) -> None:
        _, other = await connect()
        loop, got = asyncio.get_running_loop(), 0
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)  # else the system reads some MB for it
            slow.setblocking(False)
            await loop.sock_connect(slow, other.get_extra_info("peername"))
            await loop.sock_sendall(slow, asks)
            with suppress(ConnectionError):
                while new := await loop.sock_recv(slow, 50_000):
                    got += len(new)
                    await asyncio.sleep(len(new) / rate if got < until else 0)
        assert (got > 8_000_000) is whole

    served(Limits(), client, bytes(8_000_000), run_in_no_time, keep_alive=30)


def test_who_breaks_off_between_requests_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()  # with a reset
        await asyncio.sleep(1000)

    served(Limits(), client, run=run_in_no_time, keep_alive=30)
    assert caplog.text == ""


def test_where_uploads_take_all_places_the_slowest_gives_way() -> None:
    async def client(connect: Connect) -> None:
        fast, slow, slower = [await connect() for _ in range(3)]
        for (_, writer), sent in ((slow, 20_000), (fast, 80_000), (slower, 1)):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 80001\r\n\r\n" + b"a" * sent)
            await writer.drain()
        for gone in (slower, slow):
            reader, writer = await connect()
            assert await rest(gone[0]) == b""
            writer.write(CLOSE)
            assert (await rest(reader))[:15] == b"HTTP/1.1 200 OK"
            held = await connect()
            held[1].write(CHUNKED + b"9c40\r\n" + b"a" * 40_000)
        fast[1].write(b"a")
        assert (await fast[0].readuntil(b"ok"))[:15] == b"HTTP/1.1 200 OK"

    served(Limits(connections=4), client)


def application(limits: Limits) -> Any:
    """One that refuses all bodies unread."""
    api = FastAPI()

    @api.get("/")
    async def root() -> str:
        return "ok"

    return metered(api, Metrics(), ["gpubox"], limits)


@pytest.mark.parametrize(
    ("url", "host", "status"),
    [
        ("http://localhost/", "gpubox", 200),
        ("http://gpubox", "gpubox", 200),
        ("HTTPS://[::1]:80/", "evil.example", 200),  # what the field says is ignored
        ("http://evil.example/", "localhost", 421),
        ("http://evil.example?a=/", "localhost", 421),
        ("http://localhost@evil.example/", "localhost", 421),
        ("http://evil.example@localhost/", "localhost", 421),
        ("http:///", "localhost", 421),
        ("ftp://evil.example/", "localhost", 421),
        ("//evil.example/", "localhost", 404),  # a path
        ("http://localhost/", "localhost\r\nHost: localhost", 400),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_host_of_a_url_that_names_one_is_the_one_that_counts(
    url: str, host: str, status: int, version: str
) -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(f"GET {url} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert int((await rest(reader)).split()[1]) == status

    served(Limits(), client, application(Limits()))


@pytest.mark.parametrize("length", [b"Content-Length: 30000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("host", [b"localhost", b"evil.example"])
def test_who_is_refused_unread_hears_so_at_once_and_may_send_the_rest(length: bytes, host: bytes) -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: " + host + b"\r\n" + length + b"\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == (b"405" if host == b"localhost" else b"421")
        assert b"\r\nconnection: close\r\n" in head.lower()
        assert json.loads(await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0])))["detail"]
        rest_of_it = bytes(30_000_000) if b"Length" in length else b"1c9c380\r\n" + bytes(30_000_000) + b"\r\n0\r\n\r\n"
        writer.write(rest_of_it)
        await writer.drain()  # not cut off
        assert await rest(reader) == b""

    served(Limits(), client, application(Limits()))


def test_who_is_refused_and_sends_the_rest_slowly_is_cut_off() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\n")
        assert (await rest(reader))[:12] == b"HTTP/1.1 405"
        assert asyncio.get_running_loop().time() == pytest.approx(10, abs=1)  # the grace of an upload

    served(Limits(), client, application(Limits()), run=run_in_no_time)


@pytest.mark.parametrize("ends", [True, False])
def test_a_server_that_is_told_to_stop_answers_what_it_has(ends: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()
        api = FastAPI()

        @api.get("/")
        async def root() -> str:
            began.set()
            await go_on.wait()
            return "ok"

        config = uvicorn.Config(
            metered(api, Metrics(), ["*"], Limits()),
            http=Connection,
            lifespan="off",
            timeout_graceful_shutdown=20 if ends else 0,
        )
        server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        await began.wait()
        silent, _ = await asyncio.open_connection(*address)
        server.handle_exit(signal.SIGTERM, None)
        assert await rest(silent) == b""  # at once, as is the port
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*address)
        if ends:
            go_on.set()
        said = await rest(reader)
        assert said[:13] == (b"HTTP/1.1 200 " if ends else b"HTTP/1.1 503 ")
        await serving

    on_sigterm = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which uvicorn raises again at the end
    try:
        asyncio.run(asyncio.wait_for(go(), 20))
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    assert "Traceback" not in caplog.text


def test_requests_before_any_answer_are_not_piled_up() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET * 1000)
        assert b" 429 " in await rest(reader)

    served(SLOW, client)

"""bytes of a connection -> requests, within limits of bytes, seconds and places that uvicorn's parser does not have."""

import asyncio
import json
import re
import sys
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rfray.serving.uploads import Limits

PIPELINED = 16
"""Requests that may wait behind the one that is being answered; browsers and curl send none so."""
UPGRADE = re.compile(rb"(?<=\n)Upgrade(?=:)", re.IGNORECASE)
"""A header's field that asks for another protocol (WebSocket, HTTP/2). Java's client sends it with every upload."""
ABSOLUTE = re.compile(rb"[^/?#]*://([^/?#]*)(.*)", re.DOTALL)
"""A request's URL as proxies get it: http://host/path."""
FIELD_BYTES = 32
"""Counted for every field of a header besides its text, as HTTP/2 does (RFC 9113, 6.5.2): each is an object here."""
REFUSALS = {
    400: "no valid HTTP request",
    408: "the header took longer than {0.header_seconds:g} s",
    429: "too many requests were sent before their answers were read",
    431: "the header is over {0.header_bytes} bytes",
    501: "no protocol but HTTP/1.1 is spoken here; send no field Upgrade",
}


class Connection(HttpToolsProtocol):
    """One connection. A client that keeps no limit hears so where it can, and is cut off."""

    limits = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._status = 400
        self._fields = 0  # bytes of the URL and all fields of the current request, its trailer included
        self._unknown, self._understood = 0, False  # bytes since anything was understood: a line without an end
        self._unread = 0  # bytes of answers that the client has not taken when its time to read began
        self.idle_since = 0.0
        self.began, self.size = 0.0, 0  # of the current request's body: the loop's time, bytes by now

    @property
    def idle(self) -> bool:
        """Whether no request of it is being answered or taken in: nothing, or a part of a header has arrived."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def turn_to_go(self) -> tuple[int, float]:
        """Where places are short, the lowest gives way: who is idle, for longest, before uploads, the slowest."""
        return (0, self.idle_since) if self.idle else (1, self.limits.upload_ends(self.began, self.size))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Where there is no place, another connection gives way; see `turn_to_go`."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.idle_since = self.loop.time()
        self._wait_for("header")
        if len(self.connections) >= self.limits.connections:
            others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
            waiting = (one for one in others if one.idle or one.cycle.more_body)
            if least := min(waiting, key=lambda one: one.turn_to_go, default=None):
                self.connections.discard(least)
                least.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._wait_no_more("header", "reader")

    def data_received(self, data: bytes) -> None:
        """A header has its time from its first byte on; what is no whole line yet is counted."""
        if self.transport.is_closing():
            return
        if self.idle:
            self._wait_for("header")
            head, end, rest = data.partition(b"\r\n\r\n")
            data = (
                UPGRADE.sub(b"Ignored", head) + end + rest
            )  # as RFC 9110 has it; the parser would leave the body away
        self._understood = False
        super().data_received(data)
        self._unknown = 0 if self._understood else self._unknown + len(data)
        if self._unknown > self.limits.header_bytes and not self.transport.is_closing():
            self._status = 431
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._understood, self._fields = True, 0

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the header, or of the trailer."""
        self._count(len(name) + len(value) + FIELD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is taken in; `uploads` limits the time for its body."""
        self._understood = True
        self.began, self.size = self.loop.time(), 0
        self._wait_no_more("header")
        if self.parser.should_upgrade():  # the field came in two pieces, or CONNECT asks for it
            self._stop(501)
        if found := ABSOLUTE.fullmatch(self.url):  # the host that it names is the one that counts (RFC 9112, 3.2.2)
            self.url = found[2] if found[2].startswith(b"/") else b"/" + found[2]
            others = [field for field in self.headers if field[0] != b"host"]
            if len(self.headers) - len(others) < 2:  # two are refused
                self.headers[:] = [*others, (b"host", found[1])]
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            self._stop(429)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._understood = True
        self.size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has wholly arrived."""
        self._understood = True
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # which asyncio allows
        """Who sends no more may still read the answer to what it has sent; whether there is one to come."""
        waits = not self.idle and not self.cycle.more_body
        if waits:
            self.cycle.keep_alive = False
        return waits

    def on_response_complete(self) -> None:
        """Whoever wants no other request has so long to read the answer."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if self.transport.is_closing():
            self._wait_for("reader")

    def pause_writing(self) -> None:
        """The client doesn't read."""
        super().pause_writing()
        self._wait_for("reader")

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._wait_no_more("reader")

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for in time; whoever still reads an answer reads it to its end."""
        if not self.transport.is_closing():
            self.transport.close()
            self._wait_for("reader")

    def send_400_response(self, msg: str) -> None:
        """Says what is wrong with what was sent, in the words of REFUSALS, and closes."""
        body = json.dumps({"detail": REFUSALS[self._status].format(self.limits)}).encode()
        if self.idle or not self.cycle.response_started:
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[self._status] + head + body)
        self.transport.close()
        self._wait_for("reader")

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > self.limits.header_bytes:
            self._stop(431)

    def _stop(self, status: int) -> None:
        """Ends the parser, upon which uvicorn calls `send_400_response`."""
        self._status = status
        raise ValueError(REFUSALS[status])

    def _wait_for(self, what: str) -> None:
        """Until the deadline of a header, or of a client that is to read; one that runs already stays as it is."""
        if what not in self._deadlines:
            self._unread = self._left_to_read() if what == "reader" else self._unread
            seconds, call = {
                "header": (self.limits.header_seconds, self._no_header),
                "reader": (self.limits.read_seconds, self._no_reader),
            }[what]
            self._deadlines[what] = self.loop.call_later(seconds, call)

    def _wait_no_more(self, *whats: str) -> None:
        for what in whats:
            if what in self._deadlines:
                self._deadlines.pop(what).cancel()

    def _no_header(self) -> None:
        if self._fields + self._unknown and not self.transport.is_closing():
            self._status = 408
            self.send_400_response("")
        else:
            self.transport.abort()

    def _no_reader(self) -> None:
        """Who reads slowly but reads on has as much time again."""
        self._wait_no_more("reader")
        read = self._unread - self._left_to_read()
        if read < self.limits.upload_rate * self.limits.read_seconds:
            self.transport.abort()
        else:
            self._wait_for("reader")

    def _left_to_read(self) -> int:
        """Bytes of answers that wait here and, on Linux, in the system, which has room for some MB."""
        waiting = self.transport.get_write_buffer_size()
        with suppress(OSError, ValueError):  # a connection that has ended, or another system
            queued = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
            waiting += int.from_bytes(queued, sys.byteorder)
        return waiting

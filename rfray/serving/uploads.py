"""a multipart request -> its files, within limits; HTTPException with the reason where that can't be."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from rfray.errors import of_system

HOW = "send multipart/form-data, e.g. curl -F files=@photo.jpg"

CONTENT_TYPE_LENGTH = 500
"""A boundary has at most 70 characters (RFC 2046); parsing takes quadratic time."""
NO_ROOM_SECONDS = 30
"""After so long it is worth to look whether somebody has made room on the disk (our choice)."""

Take = Callable[[str, int], None]
"""Takes an amount of one of the server's limits for a request; raises HTTPException (503) where there is no room."""


@dataclass(frozen=True)
class Limits:
    """What a server takes. How many pixels a picture may have, `data.decoding` says."""

    files: int = 100
    """Of a request."""
    file_bytes: int = 25_000_000
    request_bytes: int = 100_000_000
    upload_seconds: float = 60
    """A request that has not arrived then is refused."""
    grace_seconds: float = 10
    """So long an upload may be as slow as it likes, and ..."""
    upload_rate: float = 2000
    """... for every so many bytes it may go on for another second: half of what the slowest mobile network (GPRS) has.
    As in Apache's mod_reqtimeout, whose default is 500. It holds for the reading of answers, too."""
    answer_seconds: float = 120
    """One that has arrived and is not answered then is given up."""
    images: int = 2000
    """In the server at once, of all requests; so many more bring a 503."""
    held_bytes: int = 1_000_000_000
    """The same for what was uploaded of them, but that the uploads that hold the most for longest give way first."""
    explanations: int = 16
    """The same for heat maps: each takes several times as long as a prediction."""
    header_bytes: int = 65_536
    """Of a request's line and header, and of any line in its body that is no content; h11 has the same limit."""
    header_seconds: float = 10
    """A header that has not wholly arrived then, from the connection or its first byte on, never will."""
    read_seconds: float = 60
    """A client that in so long reads less of its answer than the rate of uploads allows is cut off."""
    connections: int = 4000
    """With one more, the one that has been idle for longest is closed, or, where none is, the slowest upload. Each is
    an open file: where fewer are allowed, there are fewer (see `server.limits_here`)."""

    def upload_ends(self, began: float, size: int) -> float:
        """When an upload that has begun then and has so many bytes by now is given up, if no more come."""
        return began + min(self.upload_seconds, self.grace_seconds + size / self.upload_rate)


@dataclass(eq=False)
class Body:
    """A request's body on its way in. Called, it is ASGI's `receive`."""

    receive: Callable[[], Awaitable[Message]]
    limits: Limits
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    size: int = 0
    more: bool = True
    gave_way: bool = False
    _deadline: asyncio.Timeout | None = None

    async def __call__(self) -> Message:
        """The next message."""
        message = await self.receive()
        self.more = message.get("more_body", False)
        self.size += len(message.get("body", b""))
        if self._deadline and not self.gave_way:
            self._deadline.reschedule(self._ends())
        return message

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raises HTTPException where what is read in the block does not come in time, or gives way."""
        try:
            async with asyncio.timeout_at(self._ends()) as self._deadline:
                yield
        except TimeoutError:
            raise self._slow() from None
        finally:
            self._deadline = None

    async def discard(self) -> None:
        """Reads the rest: a client that sends everything before it reads would never see its answer."""
        with suppress(HTTPException):
            async with self.in_time():
                while self.more:
                    await self()

    def give_way(self) -> None:
        """It is not read any further."""
        self.gave_way = True
        if self._deadline:
            self._deadline.reschedule(0)

    def _slow(self) -> HTTPException:
        if self.gave_way:
            return come_again("the server is busy and gives up slow uploads", NO_ROOM_SECONDS)
        if self._ends() == self.began + self.limits.upload_seconds:
            return HTTPException(408, f"the upload took longer than {self.limits.upload_seconds:g} s")
        return HTTPException(408, f"the upload came slower than {self.limits.upload_rate:g} bytes a second")

    def _ends(self) -> float:
        return self.limits.upload_ends(self.began, self.size)


@dataclass
class Room:
    """What is in the server now, and what may be."""

    limits: Limits
    delay: Callable[[], float]
    """In about so many seconds there will be room."""
    taken: Counter[str] = field(default_factory=Counter)
    """Name of a limit (images, held_bytes, explanations) -> how much of it is taken, by all requests."""
    _requests: dict[Body, Counter[str]] = field(default_factory=dict)
    """The same of each."""

    @contextmanager
    def request(self, body: Body) -> Iterator[Take]:
        """What a request takes within the block is free again when the block ends."""
        mine = self._requests[body] = Counter[str]()

        def take(what: str, amount: int) -> None:
            while self.taken[what] + amount > getattr(self.limits, what):
                if what != "held_bytes" or not self._another_gives_way(body):
                    raise self.full()
            self.taken[what] += amount
            mine[what] += amount

        try:
            yield take
        finally:
            del self._requests[body]
            self.taken.subtract(mine)

    def full(self) -> HTTPException:
        """A 503 that says when to come again."""
        return come_again("the server is busy", self.delay())

    def _another_gives_way(self, asking: Body) -> bool:
        """Frees what an upload holds: of those that have not ended, the one that holds most bytes for longest."""
        now = asyncio.get_running_loop().time()
        uploads = [body for body in self._requests if body is asking or (body.more and not body.gave_way)]
        last = max(uploads, key=lambda body: body.size * (now - body.began))
        if last is not asking:
            last.give_way()
            self.taken["held_bytes"] -= self._requests[last].pop("held_bytes", 0)
        return last is not asking


def come_again(reason: str, seconds: float) -> HTTPException:
    """A 503 with Retry-After, in whole seconds, one at least."""
    wait = max(1, ceil(seconds))
    return HTTPException(503, f"{reason}; try again in {wait} s", {"Retry-After": str(wait)})


async def read_uploads(request: Request, body: Body, take: Take) -> list[tuple[str, bytes]]:
    """Name and content of the files of a request, whatever their fields are called.

    Raises HTTPException: 400 (no multipart request, or not a whole one; no file; too many; an empty one), 408 (too
    slow), 413 (too large), 415 (something else), 503 (no room, in memory or, for files over 1 MB, on the disk).
    """
    limits = body.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, f"the content type is {kind or 'not given'}; {HOW}")
    _check_charset(request.headers["content-type"])
    _check_size("the request", int(request.headers.get("content-length", 0)), limits.request_bytes)

    async def receive() -> Message:
        message = await body()
        if body.size > limits.request_bytes:
            raise HTTPException(413, f"the request is over {_megabytes(limits.request_bytes)}")
        take("held_bytes", len(message.get("body", b"")))
        return message

    try:
        form = Request(request.scope, receive).form(max_files=limits.files, max_fields=limits.files)
        async with body.in_time(), form as fields:
            files = [part for _, part in fields.multi_items() if isinstance(part, UploadFile)]
            if not files:
                raise HTTPException(400, f"no file in the request; {HOW}")
            named = [(file.filename or f"file {number}", file) for number, file in enumerate(files, start=1)]
            for name, file in named:
                _check_size(name, file.size or 0, limits.file_bytes)
            return [(name, await file.read()) for name, file in named]
    except ClientDisconnect:
        raise HTTPException(400, "the upload broke off") from None
    except OSError as error:  # Starlette writes what is over 1 MB into the folder for temporary files
        logging.getLogger(__name__).error("an upload was not taken in: %s", of_system(error))
        raise come_again("the server has no room for files over 1 MB", NO_ROOM_SECONDS) from None


def _check_charset(content_type: str) -> None:
    """Starlette decodes names by the charset that the client names, some of which take quadratic time (punycode)."""
    if len(content_type) > CONTENT_TYPE_LENGTH:
        raise HTTPException(415, f"the content type is over {CONTENT_TYPE_LENGTH} characters; {HOW}")
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise HTTPException(415, f"the charset is {charset}; only utf-8 is read; {HOW}")


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise HTTPException(413, f"{what} has {_megabytes(size)}, which is over {_megabytes(limit)}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.4g} MB"

"""models and what their bundle says of them -> the HTTP interface: /predict, /explain, /healthz, /metrics and the page.

Every file is judged or gets its reason; a request that can't be answered gets 4xx or 503 and a sentence that says why.
"""

import asyncio
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Literal, Protocol

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rfray.data.decoding import MAX_PIXELS, UnreadableImageError
from rfray.data.geometry import Geometry
from rfray.report.words import TEMPLATES, figure_rows
from rfray.serving.batching import Batches, Squares, different
from rfray.serving.decoding import Lanes, RequestDecoder
from rfray.serving.hosts import refusal
from rfray.serving.uploads import Body, Limits, Room, come_again, read_uploads
from rfray.spec.schema_base import Strict
from rfray.stats.guessing import bundle_warning
from rfray.stats.voting import NOT_FINITE, joined, verdicts
from rfray.store.bundle_record import Ensemble

ALIVE_SECONDS = 5
"""Models that don't answer for so long count as dead."""
STOPPED_SECONDS = 30
"""After about so long, a server that is stopped to be started anew is there again."""
DRAWN_AT_ONCE = 2
"""Heat maps; each has a whole picture in memory."""
REASONS = 5
"""At most so many files' reasons stand in one sentence."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Of every answer: browsers take it for nothing but what it is."""


class Judgement(Strict):
    """What the bundle says of one uploaded file."""

    name: str
    """As the client called it."""
    p_fake: float | None = None
    """The vote's, in [0, 1]; null where there is a reason."""
    verdict: Literal["real", "fake", "unsure"] | None = None
    """null where there is a reason."""
    members: dict[str, float] = Field(default_factory=dict)
    """Member's id -> its p_fake; empty where there is a reason."""
    reason: str = ""
    """Why there is no verdict; "" where there is one."""


class Judgements(Strict):
    """The files of a request, in their order."""

    images: list[Judgement]


class Refusal(Strict):
    """Why a request was not answered."""

    detail: str


class UnreadablePicture(Refusal):
    """Why none of a request's files could be judged, and each one's reason."""

    images: list[Judgement]


REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 408, 413, 415, 503)}
FILES_SCHEMA = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["files"], "properties": {"files": FILES_SCHEMA}}}
UPLOAD: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": FORM}}}
"""What FastAPI can't see, as the files are read within limits of our own."""
BODY = "rfray.body"
"""In the scope of a request: its `Body`."""


class Models(Protocol):
    """What predicts. Its methods raise HTTPException where that is not possible."""

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k, b) float64: p_fake of each of k members for a batch of b images."""

    async def evidence(self, picture: np.ndarray) -> bytes:
        """The heat map of (height, width, 3) uint8, as JPEG."""

    async def alive(self) -> None:
        """Returns, if they are."""


class Metrics:
    """What is counted in one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("rfray_requests", "Requests answered.", ["path", "status"], registry=registry)
        kinds = (
            "Requests refused for what they are (refused), for want of room or time (busy), or failed here (failed)."
        )
        self.errors = Counter("rfray_errors", kinds, ["kind"], registry=registry)
        seconds = "From a request's header to the end of its answer."
        self.seconds = Histogram("rfray_request_seconds", seconds, ["path"], buckets=SECONDS, registry=registry)
        self.waiting = Gauge("rfray_waiting_images", "Images in the server now.", registry=registry)
        self.images = Counter("rfray_images", "Images uploaded to be judged.", registry=registry)
        verdicts = "What they were called; none: unreadable."
        self.verdicts = Counter("rfray_verdicts", verdicts, ["verdict"], registry=registry)
        batches = "Images that were predicted together."
        self.batches = Histogram("rfray_batch_images", batches, buckets=SIZES, registry=registry)


class Endpoints:
    """What is done for each request; the docstrings are the descriptions in /openapi.json."""

    def __init__(
        self, ensemble: Ensemble, geometries: Sequence[Geometry], models: Models, at_once: int, limits: Limits
    ) -> None:
        """`models` are given so many batches `at_once`; `geometries` are those of the members of the bundle."""
        self._metrics = Metrics()
        self._vote, self._geometries, self._models, self._limits = ensemble, different(geometries), models, limits
        self._batches = Batches(models.scores, at_once, self._metrics.batches.observe)
        self._lanes = Lanes()
        self._room, self._drawing = Room(limits, self._batches.delay), asyncio.Semaphore(DRAWN_AT_ONCE)
        self._metrics.waiting.set_function(lambda: self._room.taken["images"])

    async def predict(self, request: Request) -> Judgements | JSONResponse:
        """Judges images, one or more. A file that can't be read has its reason; where none can, the status is 422."""
        decoder = RequestDecoder(self._lanes)
        with self._room.request(request.scope[BODY]) as take:
            uploads = await read_uploads(request, request.scope[BODY], take)
            take("images", len(uploads))
            async with self._in_time():
                images = await asyncio.gather(*(self._judgement(decoder, *upload) for upload in uploads))
        self._metrics.images.inc(len(images))
        for image in images:
            self._metrics.verdicts.labels(image.verdict or "none").inc()
        if all(image.reason for image in images):
            reasons = [f"{image.name}: {image.reason}" for image in images]
            detail = "; ".join(reasons[:REASONS] + ["…"] * (len(reasons) > REASONS))
            return JSONResponse(UnreadablePicture(detail=detail, images=images).model_dump(), 422)
        return Judgements(images=images)

    async def explain(self, request: Request) -> Response:
        """Draws where the members saw evidence for their call of one image (Grad-CAM): a JPEG."""
        with self._room.request(request.scope[BODY]) as take:
            uploads = await read_uploads(request, request.scope[BODY], take)
            if len(uploads) > 1:
                raise HTTPException(400, f"{len(uploads)} files in the request; one at a time is explained")
            take("explanations", 1)
            name, data = uploads[0]
            try:
                async with self._in_time(), self._drawing:
                    (picture,) = await RequestDecoder(self._lanes)(data, [], keep_picture=True)
                    return Response(await self._models.evidence(picture), media_type="image/jpeg")
            except UnreadableImageError as error:
                raise HTTPException(422, f"{name}: {error}") from None

    async def healthz(self) -> dict[str, str]:
        """Whether the models answer."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._models.alive()
        except TimeoutError:
            raise come_again("the models do not answer", ALIVE_SECONDS) from None
        return {"status": "ok"}

    async def counts(self) -> Response:
        """What was counted, for Prometheus."""
        return Response(generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _judgement(self, decoder: RequestDecoder, name: str, data: bytes) -> Judgement:
        """What is said of one file, decoded once for all members; why not, where it can't be read."""
        try:
            squares = await decoder(data, self._geometries)
        except UnreadableImageError as error:
            return Judgement(name=name, reason=str(error))
        scores = await self._batches.scores(squares)
        if not np.isfinite(scores).all():
            return Judgement(name=name, reason=NOT_FINITE)
        p_fake = joined(self._vote, scores[:, None])
        members = dict(zip(self._vote.members, scores.tolist(), strict=True))
        return Judgement(name=name, p_fake=p_fake[0], verdict=verdicts(self._vote, p_fake)[0], members=members)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                yield
        except TimeoutError:
            raise self._room.full() from None

    def app(self, hosts: Sequence[str] = ("*",)) -> ASGIApp:
        """The application, which answers to these names; see `hosts.refusal`."""
        html, policy = page(self._vote, self._limits)
        app = FastAPI(
            title="rfray",
            version=version("rfray"),
            description="Tells real images from fake ones.",
            docs_url=None,  # its pages take scripts from elsewhere
            redoc_url=None,
        )
        unreadable = {**REFUSALS, 422: {"model": UnreadablePicture}}
        app.post("/predict", response_model=Judgements, responses=unreadable, openapi_extra=UPLOAD)(self.predict)
        drawn = {**REFUSALS, 200: {"content": {"image/jpeg": {}}}, 422: {"model": Refusal}}
        app.post("/explain", response_class=Response, responses=drawn, openapi_extra=UPLOAD)(self.explain)
        app.get("/healthz", responses={503: {"model": Refusal}})(self.healthz)
        text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
        app.get("/metrics", response_class=Response, responses=text)(self.counts)

        @app.get("/", include_in_schema=False)
        async def root() -> HTMLResponse:
            return HTMLResponse(html, headers={"Content-Security-Policy": policy})

        @app.exception_handler(Exception)
        async def failed(_: Request, __: Exception) -> JSONResponse:
            return JSONResponse({"detail": "the server failed; its output says why"}, 500)

        return metered(app, self._metrics, hosts, self._limits)


def page(ensemble: Ensemble, limits: Limits) -> tuple[str, str]:
    """The page of a bundle, and its Content-Security-Policy: nothing but this page and this server."""
    bundle = ensemble.bundle
    assert bundle is not None
    html = TEMPLATES.get_template("serving/page.html.j2").render(
        warning=bundle_warning(ensemble),
        stamp=bundle.audit_stamp,
        figures=figure_rows(bundle.figures),
        n=int(bundle.figures.get("n") or 0),
        megabytes=f"{limits.file_bytes / 1e6:g}",
        megapixels=MAX_PIXELS // 1_000_000,
        about={
            "members": [
                {"id": member.id, "backbone": member.trial.backbone, "share": share}
                for member, share in zip(bundle.members, ensemble.weights, strict=True)
            ],
            "threshold": f"{ensemble.threshold:.3g}",
            "unsure": [f"{end:.3g}" for end in ensemble.unsure] if ensemble.unsure else None,
            "bytes": limits.file_bytes,
        },
    )
    script, style = (
        " ".join(
            f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        )
        for tag in ("script", "style")
    )
    return html, (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def metered(app: FastAPI, metrics: Metrics, hosts: Sequence[str], limits: Limits) -> ASGIApp:
    """The application for requests to `hosts`; its requests are counted, and its answers have HEADERS."""
    paths = {getattr(route, "path", "") for route in app.routes}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no WebSockets here, which FastAPI says
            await app(scope, receive, send)
            return
        headers, body = Headers(scope=scope), Body(receive, limits)
        body.more = scope["method"] not in ("GET", "HEAD")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # uvicorn leaves the body of the answer away
        scope = {**scope, "method": method, BODY: body}
        path = scope["path"] if scope["path"] in paths else "other"
        began, status, started = time.perf_counter(), 500, False

        async def send_counted(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                said = MutableHeaders(scope=message)
                said.update(HEADERS)
                said.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
                if body.more:
                    said["Connection"] = "close"
            elif body.more and not message.get("more_body"):  # answered before the client has sent everything
                await send({**message, "more_body": True})
                with suppress(asyncio.CancelledError):  # see below
                    await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            if refused := refusal(headers, scope["http_version"], hosts):
                await JSONResponse({"detail": refused[1]}, refused[0])(scope, body, send_counted)
            else:
                await app(scope, body, send_counted)
        except asyncio.CancelledError:  # uvicorn's, to what is not answered in time when the server is stopped
            if started:
                raise
            stopped = JSONResponse(
                {"detail": "the server is being stopped"}, 503, {"Retry-After": str(STOPPED_SECONDS)}
            )
            await stopped(scope, body, send_counted)
        finally:
            metrics.requests.labels(path, status).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - began)
            if status >= 400:
                kind = "busy" if status == 503 else "refused" if status < 500 else "failed"
                metrics.errors.labels(kind).inc()

    return answer

"""models and what their bundle says of them -> the HTTP interface: /predict, /explain, /healthz, /metrics and the page.

Every file is judged or gets its reason; a request that can't be answered gets 4xx or 503 and a sentence that says why.
"""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from rfray.data.decoding import UnreadableImageError
from rfray.data.geometry import Geometry
from rfray.serving.batching import Batches, Squares
from rfray.serving.judging import Judge, Judgement
from rfray.serving.page import page
from rfray.serving.server_metrics import MeteredApp, ServerMetrics
from rfray.serving.uploads import Limits, Room, Upload, come_again, read_uploads
from rfray.spec.schema_base import Strict
from rfray.store.bundle_record import Ensemble

Found = TypeVar("Found")

ALIVE_SECONDS = 5
"""Models that don't answer for so long count as dead."""
DRAWN_AT_ONCE = 2
"""Heat maps; each has a whole picture in memory."""
REASONS = 5
"""At most so many files' reasons stand in one sentence."""


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
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["files"], "properties": {"files": FILES}}}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": FORM}}}
"""What FastAPI can't see, as the files are read within limits of our own."""


class Models(Protocol):
    """What predicts. Its methods raise HTTPException where that is not possible."""

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k, b) float64: p_fake of each of k members for a batch of b images."""

    async def evidence(self, picture: np.ndarray) -> bytes:
        """The heat map of (height, width, 3) uint8, as JPEG."""

    async def alive(self) -> None:
        """Returns, if they are."""


class Endpoints:
    """What is done for each request; the docstrings are the descriptions in /openapi.json."""

    def __init__(
        self, ensemble: Ensemble, geometries: Sequence[Geometry], models: Models, at_once: int, limits: Limits
    ) -> None:
        self.metrics = ServerMetrics()
        batches = Batches(models.scores, at_once, self.metrics.batches.observe)
        self._models, self._limits = models, limits
        self._judge = Judge(ensemble, geometries, batches, os.cpu_count() or 1)
        self._room, self._drawing = Room(limits, batches.delay), asyncio.Semaphore(DRAWN_AT_ONCE)
        self.metrics.watch("rfray_waiting_images", "Images in the server now.", lambda: self._room.taken["images"])

    async def predict(self, request: Request) -> Judgements | JSONResponse:
        """Judges images, one or more. A file that can't be read has its reason; where none can, the status is 422."""
        with self._room.request() as take:
            uploads = await read_uploads(request, self._limits, take)
            take("images", len(uploads))
            images = await self._in_time(asyncio.gather(*map(self._judge.judgement, uploads)))
        self.metrics.images.inc(len(images))
        for image in images:
            self.metrics.verdicts.labels(image.verdict or "none").inc()
        if all(image.reason for image in images):
            reasons = [f"{image.name}: {image.reason}" for image in images]
            detail = "; ".join(reasons[:REASONS] + ["…"] * (len(reasons) > REASONS))
            return JSONResponse(UnreadablePicture(detail=detail, images=images).model_dump(), 422)
        return Judgements(images=images)

    async def explain(self, request: Request) -> Response:
        """Draws where the members saw evidence for their call of one image (Grad-CAM): a JPEG."""
        with self._room.request() as take:
            uploads = await read_uploads(request, self._limits, take)
            if len(uploads) > 1:
                raise HTTPException(400, f"{len(uploads)} files in the request; one at a time is explained")
            take("explanations", 1)
            try:
                return Response(await self._in_time(self._draw(uploads[0])), media_type="image/jpeg")
            except UnreadableImageError as error:
                raise HTTPException(422, f"{uploads[0].name}: {error}") from None

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
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _draw(self, upload: Upload) -> bytes:
        async with self._drawing:
            return await self._models.evidence(await self._judge.picture(upload))

    async def _in_time(self, work: Awaitable[Found]) -> Found:
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await work
        except TimeoutError:
            raise self._room.full() from None


def create_app(
    ensemble: Ensemble, geometries: Sequence[Geometry], models: Models, at_once: int, limits: Limits
) -> MeteredApp:
    """The application. `models` are given so many batches `at_once`; `geometries` are those of the members.

    `ensemble` is that of a bundle.
    """
    assert ensemble.bundle is not None
    endpoints = Endpoints(ensemble, geometries, models, at_once, limits)
    html, policy = page(ensemble, ensemble.bundle, limits)
    app = FastAPI(
        title="rfray",
        version=version("rfray"),
        description="Tells real images from fake ones.",
        docs_url=None,  # its pages take scripts from elsewhere
        redoc_url=None,
    )
    unreadable = {**REFUSALS, 422: {"model": UnreadablePicture}}
    app.post("/predict", response_model=Judgements, responses=unreadable, openapi_extra=BODY)(endpoints.predict)
    drawn = {**REFUSALS, 200: {"content": {"image/jpeg": {}}}, 422: {"model": Refusal}}
    app.post("/explain", response_class=Response, responses=drawn, openapi_extra=BODY)(endpoints.explain)
    app.get("/healthz", responses={503: {"model": Refusal}})(endpoints.healthz)
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
    app.get("/metrics", response_class=Response, responses=text)(endpoints.counts)

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the server failed; its output says why"}, 500)

    return MeteredApp(app, endpoints.metrics)

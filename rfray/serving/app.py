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
from rfray.serving.answers import Judgement, Judgements, Refusal, Unreadable
from rfray.serving.batching import Batches, Squares
from rfray.serving.judging import Judge
from rfray.serving.measures import Measured, Measures
from rfray.serving.page import page
from rfray.serving.uploads import Limits, Room, Upload, come_again, read_uploads
from rfray.store.ensemble_record import Ensemble

Found = TypeVar("Found")

ALIVE_SECONDS = 5
"""Models that don't answer for so long count as dead."""
DRAWN_AT_ONCE = 2
"""Heat maps; each holds a whole picture."""
TOLD = 5
"""At most so many files' reasons stand in one sentence."""

FILES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}
"""What FastAPI can't see, as the files are read within limits of our own."""
REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 408, 413, 415, 503)}


class Models(Protocol):
    """What predicts. Its methods raise HTTPException where that is not possible."""

    async def scores(self, squares: Squares) -> np.ndarray:
        """(k, b) float64: p_fake of each of k members for a batch of b images."""

    async def evidence(self, picture: np.ndarray) -> bytes:
        """The heat map of (height, width, 3) uint8, as JPEG."""

    async def alive(self) -> None:
        """Returns, if they are."""


def create_app(
    ensemble: Ensemble, geometries: Sequence[Geometry], models: Models, at_once: int, limits: Limits
) -> Measured:
    """The application. `models` are given so many batches `at_once`; `geometries` are those of the members.

    `ensemble` is that of a bundle.
    """
    bundle = ensemble.bundle
    assert bundle is not None
    measures = Measures()
    batches = Batches(models.scores, at_once, measures.batches.observe)
    judge = Judge(ensemble, geometries, batches, os.cpu_count() or 1)
    room, drawing = Room(limits, batches.delay), asyncio.Semaphore(DRAWN_AT_ONCE)
    measures.watch("rfray_waiting_images", "Images in the server now.", lambda: room.taken["images"])
    html, policy = page(ensemble, bundle, limits)
    app = FastAPI(
        title="rfray",
        version=version("rfray"),
        description="Tells real images from fake ones.",
        docs_url=None,  # its pages take scripts from elsewhere
        redoc_url=None,
    )

    @app.post(
        "/predict", response_model=Judgements, responses={**REFUSALS, 422: {"model": Unreadable}}, openapi_extra=FILES
    )
    async def predict(request: Request) -> Judgements | JSONResponse:
        """Judges images, one or more. A file that can't be read has its reason; where none can, the status is 422."""
        with room.guest() as guest:
            uploads = await read_uploads(request, guest)
            guest.take("images", len(uploads))
            images = await _in_time(asyncio.gather(*map(judge.judgement, uploads)), room)
        measures.images.inc(len(images))
        for image in images:
            measures.verdicts.labels(image.verdict or "none").inc()
        if all(image.reason for image in images):
            return JSONResponse(Unreadable(detail=_reasons(images), images=images).model_dump(), 422)
        return Judgements(images=images)

    @app.post(
        "/explain",
        response_class=Response,
        responses={**REFUSALS, 200: {"content": {"image/jpeg": {}}}, 422: {"model": Refusal}},
        openapi_extra=FILES,
    )
    async def explain(request: Request) -> Response:
        """Draws where the members saw evidence for their call of one image (Grad-CAM): a JPEG."""
        with room.guest() as guest:
            uploads = await read_uploads(request, guest)
            if len(uploads) > 1:
                raise HTTPException(400, f"{len(uploads)} files in the request; one at a time is explained")
            guest.take("explanations", 1)
            try:
                return Response(await _in_time(drawn(uploads[0]), room), media_type="image/jpeg")
            except UnreadableImageError as error:
                raise HTTPException(422, f"{uploads[0].name}: {error}") from None

    async def drawn(upload: Upload) -> bytes:
        async with drawing:
            return await models.evidence(await judge.picture(upload))

    @app.get("/healthz", responses={503: {"model": Refusal}})
    async def healthz() -> dict[str, str]:
        """Whether the models answer."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await models.alive()
        except TimeoutError:
            raise come_again("the models do not answer", ALIVE_SECONDS) from None
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What was counted, for Prometheus."""
        return Response(measures.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the server failed; its output says why"}, 500)

    return Measured(app, measures)


async def _in_time(work: Awaitable[Found], room: Room) -> Found:
    try:
        async with asyncio.timeout(room.limits.answer_seconds):
            return await work
    except TimeoutError:
        raise room.full() from None


def _reasons(images: Sequence[Judgement]) -> str:
    told = [f"{image.name}: {image.reason}" for image in images[:TOLD]]
    return "; ".join(told + ["…"] * (len(images) > TOLD))

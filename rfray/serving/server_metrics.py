"""requests and what comes of them -> /metrics, as Prometheus reads it."""

import time
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Of every answer: browsers take it for nothing but what it is."""


class ServerMetrics:
    """What is counted in one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("rfray_requests", "Requests answered.", ["path", "status"], registry=registry)
        errors = (
            "Requests refused for what they are (refused), for want of room or time (busy), or failed here (failed)."
        )
        self.errors = Counter("rfray_errors", errors, ["kind"], registry=registry)
        seconds = "From a request's header to the end of its answer."
        self.seconds = Histogram("rfray_request_seconds", seconds, ["path"], buckets=SECONDS, registry=registry)
        self.images = Counter("rfray_images", "Images uploaded to be judged.", registry=registry)
        verdicts = "What they were called; none: unreadable."
        self.verdicts = Counter("rfray_verdicts", verdicts, ["verdict"], registry=registry)
        batches = "Images that were predicted together."
        self.batches = Histogram("rfray_batch_images", batches, buckets=SIZES, registry=registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Calls `value` whenever /metrics is read."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)


class MeteredApp:
    """An application whose requests are counted, and whose answers have HEADERS."""

    def __init__(self, app: FastAPI, metrics: ServerMetrics) -> None:
        self.app = app
        self._metrics = metrics
        self._paths = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        began, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)
            if status >= 400:
                kind = "busy" if status == 503 else "refused" if status < 500 else "failed"
                self._metrics.errors.labels(kind).inc()

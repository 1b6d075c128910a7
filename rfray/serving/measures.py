"""requests and what comes of them -> /metrics, as Prometheus reads it."""

import time
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """What is counted in one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("rfray_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.errors = Counter(
            "rfray_errors",
            "Requests refused for what they are (refused), for want of room or time (busy), or failed here (failed).",
            ["kind"],
            registry=registry,
        )
        self.seconds = Histogram(
            "rfray_request_seconds",
            "From a request's header to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("rfray_images", "Images uploaded to be judged.", registry=registry)
        self.verdicts = Counter(
            "rfray_verdicts", "What they were called; none: unreadable.", ["verdict"], registry=registry
        )
        self.batches = Histogram(
            "rfray_batch_images", "Images that were predicted together.", buckets=SIZES, registry=registry
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Has a number asked for whenever somebody looks."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)


class Measured:
    """An application whose requests are measured, and whose answers browsers take for nothing but what they are."""

    def __init__(self, app: FastAPI, measures: Measures) -> None:
        self.app = app
        self._measures = measures
        self._paths = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"], headers["Referrer-Policy"] = "nosniff", "no-referrer"
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            self._measures.requests.labels(path, status).inc()
            self._measures.seconds.labels(path).observe(time.perf_counter() - began)
            if status >= 400:
                self._measures.errors.labels(_kind(status)).inc()


def _kind(status: int) -> str:
    if status == 503:
        return "busy"
    return "refused" if status < 500 else "failed"

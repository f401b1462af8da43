"""Build the ASGI application: its addresses, with guards around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from pipeline.errors import PipelineError
from pipeline.serve.answers import label
from pipeline.serve.asked import Asked, parse_asked
from pipeline.serve.body import read_body
from pipeline.serve.guard import Guard
from pipeline.serve.jobs.routes import JobRoutes
from pipeline.serve.openapi import docs, document
from pipeline.serve.page import page
from pipeline.serve.refusals import RequestRefused, refusal_of
from pipeline.serve.rembg import fetch, parse_remove
from pipeline.serve.service import Service

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def make_app(service: Service, *, with_lifespan: bool = False) -> ASGIApp:
    """Return the application of a service.

    Args:
        service: The service.
        with_lifespan: Load the models at the application's startup, and end the service at its shutdown (ASGI lifespan). False:
            the server does both.
    """
    routes = _Routes(service)
    # Without the last one, Starlette answers an unexpected error itself, as plain text, and nothing logs it.
    handlers = {HTTPException: _refuse, PipelineError: _refuse, Exception: _refuse}
    lifespan = _lifespan_of(service) if with_lifespan else None
    app = Starlette(routes=routes.all(), exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect would name a host
    paths = frozenset(route.path for route in routes.all())
    return Guard(app, service.settings, service.metrics, paths)


def _lifespan_of(service: Service) -> Lifespan[Starlette]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.load()
        yield
        service.draining = True
        await service.stop()

    return lifespan


async def _refuse(_: Request, error: Exception) -> Response:
    return refusal_of(error).response()


class _Routes:
    """The addresses of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._presets = tuple(service.presets)
        self._jobs = JobRoutes(service)
        self._document = document(
            self._presets, list(service.renditions), service.limits, service.settings, with_jobs=service.jobs is not None
        )

    def all(self) -> list[Route]:
        return [
            Route("/v1/cutout", _InPlace(self._service, self.cutout), methods=["POST"]),
            Route("/api/remove", _InPlace(self._service, self.remove), methods=["POST", "GET"]),
            *self._jobs.all(),
            Route("/v1/presets", self.presets),
            Route("/v1/renditions", self.renditions),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
            Route("/", self.page),
        ]

    async def cutout(self, request: Request) -> Response:
        """Cut out the picture of the body."""
        query = dict(request.query_params)
        self._asked(query)  # refuse wrong options before the body is read
        body = await self._read(request)
        return await _while_connected(request, self._service.cut(body.data, self._asked(query | body.fields)))

    async def remove(self, request: Request) -> Response:
        """Do what rembg's server does."""
        service, query = self._service, dict(request.query_params)
        data: bytes | Callable[[], bytes] = partial(fetch, query.get("url", ""), service.files, service.limits)
        if request.method == "POST":
            body = await self._read(request)
            data, query = body.data, query | body.fields
        return await _while_connected(request, service.cut(data, parse_remove(query, self._presets)))

    def _asked(self, given: dict[str, str]) -> Asked:
        return parse_asked(given, self._presets, self._service.renditions)

    async def _read(self, request: Request) -> Any:
        began = time.monotonic()
        body = await read_body(request, self._service.limits)
        self._service.metrics.observe_stage("read", time.monotonic() - began)
        return body

    async def presets(self, _: Request) -> Response:
        """List the configured presets, the default first."""
        batchers = self._service.batchers
        listed = [
            {
                "name": name,
                "about": preset.about,
                "licence": preset.licence,
                "commercial": preset.commercial,
                "labels": preset.recipe.detector is not None,
                "recipe": label(batchers[name].segmenter.recipe) if name in batchers else None,
            }
            for name, preset in self._service.presets.items()
        ]
        return JSONResponse({"presets": listed})

    async def renditions(self, _: Request) -> Response:
        """List the renditions."""
        listed = [
            {"name": name, "about": one.about, "suffix": one.suffix, "what": one.what, "size_px": next(iter(one.size_px), None)}
            for name, one in self._service.renditions.items()
        ]
        return JSONResponse({"renditions": listed})

    async def health(self, _: Request) -> Response:
        """Tell whether the process works: a lost GPU, or a pass of the model that does not end, calls for a restart."""
        if (fault := self._service.fault) is not None:
            raise fault
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Tell whether requests are answered at once: the models are loaded and work, and the service is not ending."""
        if self._service.draining or not self._service.batchers:
            word = "ending" if self._service.draining else "loading its models"
            raise RequestRefused(503, "not_ready", f"the service is {word}", {"Retry-After": "1"})
        if (fault := self._service.fault) is not None:
            raise fault
        return JSONResponse({"status": "ready", "presets": list(self._presets)})

    async def metrics(self, _: Request) -> Response:
        """Return the metrics for Prometheus."""
        return PlainTextResponse(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """Return the description of the service."""
        return JSONResponse(self._document)

    async def docs(self, _: Request) -> Response:
        """Return the same description for people."""
        return HTMLResponse(docs(self._document), headers={"Content-Security-Policy": DOCS_POLICY})

    async def page(self, _: Request) -> Response:
        """Return the page to try the service."""
        return HTMLResponse(page().html, headers={"Content-Security-Policy": page().policy})


class _InPlace:
    """ASGI endpoint that holds a place of the queue until its client has read the answer, but for the last piece."""

    def __init__(self, service: Service, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._service, self._answer = service, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with self._service.place():
            response = await self._answer(Request(scope, receive, send))
            await response(scope, receive, send)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Do the work, or end it when the client goes away."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestRefused(499, "gone", "the client went away")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        # An error of the work leads to this frame, and its task to the error: only the garbage collector would free them.
        del working, gone


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

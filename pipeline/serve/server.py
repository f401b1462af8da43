"""Run the application in this process with uvicorn, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.serve.app import make_app
from pipeline.serve.connections import protocol_for
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving

KEEP_ALIVE_S = 15


def listen(settings: Serving) -> socket.socket:
    """Open the socket of a service.

    Raises:
        ConfigError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {settings.host}, port {settings.port}: {reason}; choose another --port") from error


def run(make_service: Callable[[], Service], listening: socket.socket, settings: Serving) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish those that have begun.

    The socket is open before the models are loaded: requests that come meanwhile wait.

    Args:
        make_service: Makes the service, inside the event loop.
        listening: From ``listen``.
        settings: Seconds of draining.

    Raises:
        Refused: A model cannot be loaded.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again at its end, and ending after a signal is no failure
    errors = logging.getLogger("uvicorn.error")
    errors.handlers, errors.propagate = log.handlers, False
    errors.setLevel(logging.ERROR)
    asyncio.run(_serve(make_service, listening, settings))


async def _serve(make_service: Callable[[], Service], listening: socket.socket, settings: Serving) -> None:
    service = make_service()
    config = uvicorn.Config(
        make_app(service),
        http=protocol_for(settings.queue),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    server = _Server(config, service)
    loading = asyncio.ensure_future(_load(service, server))
    try:
        await server.serve(sockets=[listening])
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await service.stop()
    if not loading.cancelled() and (error := loading.exception()) is not None:
        raise error


async def _load(service: Service, server: uvicorn.Server) -> None:
    """Load the models; if that fails, end the server."""
    try:
        await service.load()
    except Exception:
        server.should_exit = True
        raise
    log.info("ready", extra={"facts": {"presets": list(service.presets)}})


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the service that it is ending."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new requests, and finish those that have begun."""
        self._service.draining = True
        if self._service.jobs is not None:
            self._service.jobs.interrupt()
        log.info("ending", extra={"facts": {"requests": self._service.inside}})
        await super().shutdown(sockets)

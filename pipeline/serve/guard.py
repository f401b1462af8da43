"""Check every request before it is read: host, origin, token. Logs and counts every answer, and gives it an id.

The check of ``Host`` keeps out web pages whose name is made to lead to this machine (DNS rebinding). The check of ``Origin``
keeps out other web pages altogether: a browser would hide the answer from them, but the work would be done. For pictures and
links of a page, browsers send no ``Origin``; there, ``Sec-Fetch-Site`` says that another page asks, and ``Referer`` which one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.log import log
from pipeline.serve.answers import EXPOSED
from pipeline.serve.metrics import Metrics
from pipeline.serve.refusals import REQUEST_ID, RequestRefused, refusal_of
from pipeline.serve.settings import Serving

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""Addresses without a token: they say nothing about pictures, and load balancers and people who have not signed in use them."""

PROBED = frozenset({"/health", "/ready"})
"""Addresses that answer to any host name: probes and load balancers ask by the address of a machine or pod."""

DRAIN_S = 2.0
"""Seconds in which the rest of a refused body is read. A connection that is closed before loses the answer."""

PIECE = 2**18
"""Bytes of an answer that the server takes at a time. It takes the next ones when the client has read most of them."""

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
}

PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}
"""What a browser learns before it sends the request of a page of an allowed origin (CORS)."""


class Guard:
    """ASGI middleware around the application.

    Args:
        app: The application.
        settings: Token, hosts, origins.
        metrics: Counts the answers.
        paths: The application's addresses; others are counted as ``other``.
    """

    def __init__(self, app: ASGIApp, settings: Serving, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._settings, self._metrics, self._paths = app, settings, metrics, paths
        self._hosts = settings.answered_hosts
        self._token = None if settings.token is None else hashlib.sha256(settings.token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            if self._check(scope, exchange):
                await self._app(scope, exchange.receive, exchange.send)
            else:
                await Response(headers=PREFLIGHT)(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the time to drain is over: uvicorn would answer in plain text
            exchange.give_up_body()
            await exchange.refuse(RequestRefused(503, "busy", "the service has ended; try again", {"Retry-After": "10"}))
        except Exception as error:  # noqa: BLE001  no error may reach the client as it is
            await exchange.refuse(error)
        finally:
            path = self._label(scope["path"])
            seconds = time.monotonic() - exchange.began
            self._metrics.count_request(path, exchange.status, exchange.code)
            facts = {"method": scope["method"], "path": path, "status": exchange.status, "ms": round(1000 * seconds, 1)}
            facts["request_id"] = exchange.id
            if exchange.code:
                facts["code"] = exchange.code
            (log.debug if path in {"/health", "/ready", "/metrics"} else log.info)("request", extra={"facts": facts})

    def _label(self, path: str) -> str:
        """Return an address as it is counted and logged: one of the application's, with ids replaced."""
        if path in self._paths:
            return path
        folder = f"{path.rpartition('/')[0]}/{{id}}"
        return folder if folder in self._paths else "other"

    def _check(self, scope: Scope, exchange: _Exchange) -> bool:
        """Refuse a request of the wrong host, origin or token. Return False for a browser's question beforehand (preflight).

        Raises:
            RequestRefused: 401, 403 or 421.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and scope["path"] not in PROBED and _name(host) not in self._hosts:
            raise RequestRefused(421, "host", "this host name is not served here; name it with --allow-host")
        origin = _origin_of(headers, scope["path"])
        if origin is not None and origin not in self._settings.origins and _authority(origin) != host.lower():
            raise RequestRefused(403, "origin", "pages of other origins are not served; name the origin with --allow-origin")
        if origin in self._settings.origins:
            exchange.origin = origin
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                return False  # browsers send it without the token
        if self._token is None or scope["path"] in OPEN:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        if not hmac.compare_digest(digest, self._token) or kind.lower() != "bearer":
            raise RequestRefused(
                401, "token", "the token is missing or wrong; send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )
        return True


def _origin_of(headers: Headers, path: str) -> str | None:
    """Return the origin of the page that asks; None if there is none, or if it is the service's own.

    Other pages may link to the addresses in ``OPEN``, which say nothing about pictures.
    """
    if (origin := headers.get("origin")) is not None:
        return origin
    if path in OPEN or headers.get("sec-fetch-site") not in {"cross-site", "same-site"}:
        return None
    try:
        parts = urlsplit(headers.get("referer", ""))
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "null"


def _authority(origin: str) -> str | None:
    """Return host and port of an ``Origin`` header, in lower case; None for one that has none or cannot be read."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """Return the host name of a ``Host`` header, in lower case; "" for one that cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Exchange:
    """One request with its answer. Adds headers, and makes sure that an early answer arrives."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began = time.monotonic()
        self.status, self.code = 499, None  # type: int, str | None  # 499: the client has gone before the answer
        self._scope, self._receive, self._send = scope, receive, send
        headers = Headers(scope=scope)
        self._unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._started = False
        self.id = secrets.token_hex(8)
        REQUEST_ID.set(self.id)
        self.origin: str | None = None
        """Allowed origin of the page that asks."""

    async def receive(self) -> Message:
        """Receive, and notice the body's end."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Send. The rest of a body that nobody read is read before the connection closes, for a while."""
        if message["type"] == "http.response.start":
            self.status, self._started = message["status"], True
            headers = MutableHeaders(scope=message)
            self.code = headers.get("X-Error-Code")
            for name, value in SAFE.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.id
            if self.origin is not None:
                headers["Access-Control-Allow-Origin"] = self.origin
                headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)
                headers.add_vary_header("Origin")
            if self._unread:
                headers["Connection"] = "close"
            await self._send(message)
            return
        body = message.get("body", b"")
        last = max(0, len(body) - 1) // PIECE * PIECE
        for start in range(0, last, PIECE):
            await self._send({"type": message["type"], "body": body[start : start + PIECE], "more_body": True})
        message = {**message, "body": body[last:]}
        if self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, error: BaseException) -> None:
        """Answer with an error, unless one has begun: Starlette raises an unexpected error again after its answer."""
        if not self._started:
            await refusal_of(error).response()(self._scope, self.receive, self.send)

    def give_up_body(self) -> None:
        """Do not read the rest of the body."""
        self._unread = False

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._unread:
                    await self.receive()
        except TimeoutError:
            pass

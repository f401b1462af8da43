"""Images on web servers: read only, and only from servers that the user named or that anybody can reach."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import fsspec
import yarl
from fsspec.asyn import sync

from pipeline.errors import FetchError
from pipeline.storage.allowlist import AllowList, shortened, web_address
from pipeline.storage.backend import Content, check_size
from pipeline.storage.errors import WebStatus
from pipeline.storage.uris import WEB

CHUNK = 256 * 1024
MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # all that is handed out to the IPv6 internet
_INSIDE = "an address inside a network"


T = TypeVar("T")


class Web:
    """GET over http and https with connections kept open; a body is cut off at the limit, whatever its header says.

    A row of a manifest, or a redirect, could otherwise ask a machine inside the user's network, or the cloud's metadata
    server, on the user's behalf. So a host that no root names must have a public address; that is told from the address of
    each connection as it is made, so no name, spelling or DNS answer can hide it. Redirects are followed here, one by one,
    because each of them is a new question.
    """

    def __init__(self, allowlist: AllowList) -> None:
        self.allowlist = allowlist
        # fsspec makes a session when it is first used and closes it in the end.
        self.free = fsspec.filesystem("https", skip_instance_cache=True, get_client=_free)
        self.public = fsspec.filesystem("https", skip_instance_cache=True, get_client=_public_only)

    def etag(self, uri: str, timeout_s: float) -> str:
        """Which version there is now, as ``read`` tells it; the body stays where it is."""
        return self._get(uri, timeout_s, _etag)

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        async def body(answer: aiohttp.ClientResponse) -> Content:
            data = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK):
                data += chunk
                check_size(uri, len(data), max_bytes)
            return Content(bytes(data), await _etag(answer))

        return self._get(uri, timeout_s, body)

    def _get(self, uri: str, timeout_s: float, take: Callable[[aiohttp.ClientResponse], Awaitable[T]]) -> T:
        timeout = aiohttp.ClientTimeout(total=timeout_s)

        async def get() -> T:
            address = web_address(uri)
            for _ in range(MOST_REDIRECTS + 1):
                async with await self._ask(address, timeout) as answer:
                    if answer.status in _REDIRECTS and "Location" in answer.headers:
                        address = _next(address, answer.headers["Location"])
                        continue
                    if answer.status != 200:
                        raise WebStatus(answer.status)
                    return await take(answer)
            raise FetchError(f"{shortened(uri)}: it was redirected {MOST_REDIRECTS} times and more; correct the URI")

        try:
            return cast(T, sync(self.free.loop, get, timeout=timeout_s))
        except aiohttp.ClientConnectorError as error:
            if str(error.os_error) != _INSIDE:
                raise
            raise _not_public(uri) from error

    async def _ask(self, address: yarl.URL, timeout: aiohttp.ClientTimeout) -> Any:
        proxy = proxy_for(address)
        named = self.allowlist.names(str(address))
        if not (named or self.allowlist.allows(str(address))):
            raise FetchError(self.allowlist.refusal(str(address), "the address"))
        if proxy and not named:
            await _check_behind_proxy(address)
        # The proxy is the user's choice, wherever it is; what it connects to can't be seen from here.
        session = await (self.free if named or proxy else self.public).set_session()
        return session.get(address, timeout=timeout, allow_redirects=False, proxy=proxy)


async def _etag(answer: aiohttp.ClientResponse) -> str:
    told = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return told.removeprefix("W/").strip('"')


async def _free(**_: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(trust_env=True)


async def _public_only(**_: Any) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(socket_factory=_public_socket)
    return aiohttp.ClientSession(connector=connector, trust_env=True)


def _public_socket(info: Any) -> socket.socket:
    """A socket for one address of a host, whether a name led to it or it was written out.

    Raises:
        OSError: it isn't public. (Of this kind, because the race between a host's addresses knows no other.)
    """
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise PermissionError(_INSIDE)
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """An IPv4 or IPv6 address that belongs to everybody's internet; one that wraps another is judged by what it wraps."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return is_public(str(inner)) if inner else ip.is_global and ip in _UNICAST
    return ip.is_global and not ip.is_multicast


def _next(address: yarl.URL, location: str) -> yarl.URL:
    """Where a redirect leads. Credentials in the address stay with its host."""
    target = address.join(web_address(location))
    if target.scheme not in WEB:
        raise FetchError(f"{shortened(str(address))}: it is redirected to something that is no web address; correct the URI")
    same = (target.scheme, target.raw_host, target.port) == (address.scheme, address.raw_host, address.port)
    return target.with_user(address.user).with_password(address.password) if same and address.user else target


def proxy_for(address: yarl.URL) -> str | None:
    """The proxy that the environment names for this address (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    found = getproxies().get(address.scheme)
    return None if found is None or proxy_bypass(address.raw_host or "") else found


async def _check_behind_proxy(address: yarl.URL) -> None:
    """As far as the name can be looked up from here; a proxy that reaches further is judge in its own network.

    Raises:
        FetchError: it has an address that isn't public.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.raw_host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return
    if not all(is_public(str(entry[4][0])) for entry in found):
        raise _not_public(str(address))


def _not_public(uri: str) -> FetchError:
    return FetchError(
        f"{shortened(uri)}: its server has an address inside a network (private, loopback or link-local), which is only read "
        "where an allowed root names the host; add --allow-root with its scheme and host if it may be"
    )

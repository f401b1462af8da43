"""All HTTP requests: images with SSRF protection, weights files, and webhooks.

Image addresses come from untrusted manifests. Addresses of weights files and webhooks are chosen by the operator, so any
server is allowed for them. Redirects are followed one by one, so that each target can be checked.
"""

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
from fsspec.asyn import get_loop, sync

from pipeline.errors import AddressRefused, FetchError, StorageError
from pipeline.storage.allowlist import AllowList, display_uri, parse_url
from pipeline.storage.backend import Content, check_size
from pipeline.storage.errors import HttpStatusError
from pipeline.storage.retry import TIMEOUT_S, with_retries
from pipeline.storage.uris import HTTP_SCHEMES

CHUNK_BYTES = 256 * 1024
MAX_REDIRECTS = 10

SOCKET_TIMEOUT_S = 60.0
"""Seconds without data after which a download is aborted and retried."""

POST_TRIES = 3
"""Attempts to send a message."""

POST_TIMEOUT_S = 10.0
"""Seconds per attempt."""

POST_PAUSE_S = 4.0
"""Longest pause before the first retry, in seconds."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # the public IPv6 address space
_NOT_PUBLIC = "not a public address"

T = TypeVar("T")
Request = Callable[[yarl.URL], Awaitable[Any]]
Consumer = Callable[[aiohttp.ClientResponse], Awaitable[T]]


class HttpBackend:
    """Read images over persistent connections, from allowed servers only.

    A manifest row or a redirect could address a machine in the user's network or the cloud's metadata service (SSRF). A host
    that no root names must therefore have a public address. The address of each connection is checked when it is opened, so
    neither spellings of an address nor DNS rebinding can bypass the check.
    """

    def __init__(self, allowlist: AllowList) -> None:
        self.allowlist = allowlist
        # fsspec creates each session on first use and closes it at exit.
        self._unrestricted = fsspec.filesystem("https", skip_instance_cache=True, get_client=_unrestricted_session)
        self._public = fsspec.filesystem("https", skip_instance_cache=True, get_client=_public_session)

    def etag(self, uri: str, timeout_s: float) -> str:
        """Return the current version of an image without reading its body."""
        return self._get(uri, timeout_s, _etag)

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        """Read an image and stop at ``max_bytes``, whatever its Content-Length is."""

        async def read_body(response: aiohttp.ClientResponse) -> Content:
            data = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                data += chunk
                check_size(uri, len(data), max_bytes)
            return Content(bytes(data), await _etag(response))

        return self._get(uri, timeout_s, read_body)

    def _get(self, uri: str, timeout_s: float, consume: Consumer[T]) -> T:
        timeout = aiohttp.ClientTimeout(total=timeout_s)

        async def request(address: yarl.URL) -> Any:
            session, proxy = await self._session(address)
            return session.get(address, timeout=timeout, allow_redirects=False, proxy=proxy)

        try:
            return cast(T, sync(self._public.loop, _get, uri, request, consume, timeout=timeout_s))
        except aiohttp.ClientConnectorError as error:
            if str(error.os_error) != _NOT_PUBLIC:
                raise
            raise _not_public(uri) from error

    async def _session(self, address: yarl.URL) -> tuple[aiohttp.ClientSession, str | None]:
        """Return the session and the proxy for an address.

        Raises:
            AddressRefused: The address is outside the allowed roots, or it is not public.
        """
        proxy, named = _proxy(address), self.allowlist.names(str(address))
        if not (named or self.allowlist.allows(str(address))):
            raise AddressRefused(self.allowlist.refusal(str(address), "the address"))
        if proxy and not named:
            await _check_public_host(address)
        # The user chose the proxy, so it may be anywhere. The connections that it opens can't be checked here.
        return await (self._unrestricted if named or proxy else self._public).set_session(), proxy


def download(
    uri: str,
    known_etag: str,
    write: Callable[[bytes], object],
    timeout_s: float,
    *,
    allow_http: bool,
    expect: Callable[[int | None], object] | None = None,
) -> str | None:
    """Pass the size of a weights file to ``expect``, None if it is unknown, and then its body to ``write``, chunk by chunk.

    Returns:
        The ETag (empty if there is none), or None if the server reports that the file still has ``known_etag``.

    Raises:
        FetchError: The file is redirected without end, or to ``http://`` although that is not allowed.
    """
    # Without "identity" a server may compress the body, and the bytes would have another hash.
    headers = {"User-Agent": "matteline", "Accept-Encoding": "identity"} | ({"If-None-Match": known_etag} if known_etag else {})
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=SOCKET_TIMEOUT_S, sock_read=SOCKET_TIMEOUT_S)

    async def write_body(response: aiohttp.ClientResponse) -> str:
        if expect is not None:
            expect(response.content_length)
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            write(chunk)
        return _header(response, "ETag")

    async def get() -> str:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, auto_decompress=False) as session:

            async def request(address: yarl.URL) -> Any:
                if address.scheme == "http" and not allow_http:
                    raise FetchError(f"{display_uri(uri)}: it redirects to http:// (insecure); set recipe.weights_sha256")
                return session.get(address, allow_redirects=False, proxy=_proxy(address))

            return await _get(uri, request, write_body)

    try:
        return cast(str, sync(get_loop(), get, timeout=timeout_s))
    except HttpStatusError as error:
        if error.status != 304:
            raise
        return None


def post_json(url: str, body: bytes, *, tries: int = POST_TRIES, timeout_s: float = POST_TIMEOUT_S) -> None:
    """POST JSON to a webhook, with retries. Redirects are not followed.

    Errors name only the host, because the path of a webhook is often a secret token.

    Raises:
        StorageError: The webhook did not accept the message.
    """
    address = yarl.URL(url)
    options: dict[str, Any] = {"data": body, "headers": {"Content-Type": "application/json"}, "allow_redirects": False}

    async def post() -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.post(address, **options, proxy=_proxy(address)) as response,
        ):
            if response.status >= 300:
                raise HttpStatusError(response.status)

    host = f"{address.scheme}://{address.host}"
    with_retries(host, StorageError, lambda _: sync(get_loop(), post, timeout=2 * timeout_s), TIMEOUT_S, tries, POST_PAUSE_S)


# Addresses that Python's tables, which differ by version, count as global: Azure's metadata service, IETF protocol assignments
# with Oracle Cloud's metadata, shared address space (Alibaba's metadata), benchmarks, former 6to4 relays, reserved.
_RESERVED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("168.63.129.16/32", "192.0.0.0/24", "100.64.0.0/10", "198.18.0.0/15", "192.88.99.0/24", "240.0.0.0/4", "0.0.0.0/8"),
        *("169.254.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    )
)


def is_public(address: str) -> bool:
    """Check whether an IPv4 or IPv6 address is public. An address that embeds an IPv4 address is checked by that one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return is_public(str(inner)) if inner else ip.is_global and ip in _UNICAST
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _RESERVED)


async def _get(uri: str, request: Request, consume: Consumer[T]) -> T:
    address = parse_url(uri)
    for _ in range(MAX_REDIRECTS + 1):
        async with await request(address) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                address = _redirect_target(address, response.headers["Location"])
                continue
            if response.status != 200:
                raise HttpStatusError(response.status)
            return await consume(response)
    raise FetchError(f"{display_uri(uri)}: it was redirected more than {MAX_REDIRECTS} times; correct the URI")


def _redirect_target(address: yarl.URL, location: str) -> yarl.URL:
    """Resolve a redirect. Credentials in the address are kept only for the same host."""
    target = address.join(parse_url(location))
    if target.scheme not in HTTP_SCHEMES:
        raise FetchError(f"{display_uri(str(address))}: it redirects to something that is not a web address; correct the URI")
    same = (target.scheme, target.raw_host, target.port) == (address.scheme, address.raw_host, address.port)
    return target.with_user(address.user).with_password(address.password) if same and address.user else target


async def _etag(response: aiohttp.ClientResponse) -> str:
    etag = _header(response, "ETag") or _header(response, "Last-Modified")
    return etag.removeprefix("W/").strip('"')


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    """Return a header, or an empty text. aiohttp turns bytes that are not UTF-8 into surrogates, which no file can hold."""
    return response.headers.get(name, "").encode(errors="replace").decode()


async def _unrestricted_session(**_: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


async def _public_session(**_: Any) -> aiohttp.ClientSession:
    # Without a jar, servers cannot fill the memory with cookies that are sent with the requests of other images.
    connector = aiohttp.TCPConnector(socket_factory=_public_socket)
    return aiohttp.ClientSession(connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


def _public_socket(info: Any) -> socket.socket:
    """Create a socket for an address, whether it was resolved or given as a number.

    Raises:
        OSError: The address is not public. aiohttp expects this type when it races a host's addresses.
    """
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise PermissionError(_NOT_PUBLIC)
    return socket.socket(family, kind, protocol)


def _proxy(address: yarl.URL) -> str | None:
    """Return the proxy of the environment for this address (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    proxy = getproxies().get(address.scheme)
    return None if proxy is None or proxy_bypass(address.raw_host or "") else proxy


async def _check_public_host(address: yarl.URL) -> None:
    """Check the addresses of a host that a proxy will connect to. A name that only the proxy can resolve passes.

    Raises:
        AddressRefused: One of the addresses is not public.
    """
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(address.raw_host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return
    if not all(is_public(str(entry[4][0])) for entry in entries):
        raise _not_public(str(address))


def _not_public(uri: str) -> AddressRefused:
    return AddressRefused(
        f"{display_uri(uri)}: its server has a non-public address (private, loopback or link-local), which is read only if an "
        "allowed root names the host; add --allow-root with its scheme and host"
    )

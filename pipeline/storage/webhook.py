"""A message to the web server that the operator named: one POST of JSON.

Whoever set it may mean a machine of their own network, so any address will do, unlike an image's (``web.py``), which strangers
write into manifests. Such addresses are secrets as a whole (their path is a token): messages name the host alone.
"""

from __future__ import annotations

import time
from typing import Any

import aiohttp
import yarl
from fsspec.asyn import get_loop, sync

from pipeline.errors import StorageError
from pipeline.storage.http import proxy_for

TRY_S = 10.0
TRIES, PAUSE_S = 3, 2.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which it is tried again."""


def post(address: str, message: bytes, *, tries: int = TRIES, try_s: float = TRY_S) -> None:
    """Send JSON, and again if the server is away or busy. Redirects are not followed: the message is for this server.

    Raises:
        StorageError: it was not taken; says which host, and why.
    """
    host, why = yarl.URL(address).host or "?", ""
    for number in range(tries):
        if number:
            time.sleep(PAUSE_S * number)
        try:
            status = int(sync(get_loop(), _post, address, message, try_s, timeout=2 * try_s))
        except (aiohttp.ClientError, OSError, ValueError) as error:  # their texts may hold the address
            why = type(error).__name__
            continue
        if status < 300:
            return
        why = f"it answered {status}"
        if status not in PASSING:
            break
    raise StorageError(f"{host} didn't take the message: {why}")


async def _post(address: str, message: bytes, try_s: float) -> int:
    url, headers = yarl.URL(address), {"Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=try_s)
    options: dict[str, Any] = {"data": message, "headers": headers, "allow_redirects": False, "proxy": proxy_for(url)}
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, **options) as answer:
        return answer.status

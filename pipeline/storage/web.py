"""Images on web servers: read only."""

from __future__ import annotations

import aiohttp
import fsspec
import yarl
from fsspec.asyn import sync

from pipeline.storage.faults import WebStatus
from pipeline.storage.place import check_size

CHUNK = 256 * 1024


class Web:
    """GET over http and https with connections kept open; a body is cut off at the limit, whatever its header says."""

    def __init__(self) -> None:
        self.fs = fsspec.filesystem("https", skip_instance_cache=True, client_kwargs={"trust_env": True})

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> bytes:
        # An address that is quoted already, a signed one above all, must not be quoted anew.
        address = yarl.URL(uri, encoded="%" in uri)

        async def get() -> bytes:
            session = await self.fs.set_session()
            async with session.get(address, timeout=aiohttp.ClientTimeout(total=timeout_s)) as answer:
                if answer.status != 200:
                    raise WebStatus(answer.status)
                body = bytearray()
                async for chunk in answer.content.iter_chunked(CHUNK):
                    body += chunk
                    check_size(uri, len(body), max_bytes)
                return bytes(body)

        return bytes(sync(self.fs.loop, get, timeout=timeout_s))

"""Read the body of a request: a picture, or a form with one. Limits apply while the bytes arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pipeline.config.job import Limits
from pipeline.serve.refusals import RequestRefused

IDLE_S = 10.0
"""Seconds without a byte after which a body is given up."""

FORM_BYTES = 64 * 1024
"""Bytes of a form besides its picture, and of one of its fields, at most."""

FILE_FIELDS = ("image", "file")
"""Names that a form may give its picture."""

MOST_FIELDS = 24


class Body(NamedTuple):
    """A picture's file, and the fields of the form that it came in."""

    data: bytes
    fields: dict[str, str]


class _InMemory(MultiPartParser):
    """A parser that writes no temporary files: the size of the complete body is limited already."""

    spool_max_size = 2**62


async def read_body(request: Request, limits: Limits) -> Body:
    """Read a picture that is the body itself, or the field ``image`` or ``file`` of a form.

    Raises:
        RequestRefused: 400, 408, 413 or 415: no picture, too slow, too large, or another kind of body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":  # what curl -d and --data-binary say, unless told otherwise
        raise RequestRefused(
            415, "request", "send the picture as a form (curl -F image=@cup.jpg), or as the body with its own Content-Type"
        )
    is_form = kind == "multipart/form-data"
    most = limits.max_bytes + (FORM_BYTES if is_form else 0)
    stream = _limited(request, most, f"the body has more than {limits.max_bytes:,} bytes (limits.max_bytes)")
    async with _arriving(limits):
        if is_form:
            return await _form(request, stream, limits)
        data = b"".join([chunk async for chunk in stream])
    if not data:
        raise RequestRefused(400, "request", "the body is empty; send a picture")
    return Body(data, {})


async def read_json(request: Request, limits: Limits) -> Any:
    """Read a JSON body of at most ``FORM_BYTES``.

    Raises:
        RequestRefused: 400, 408, 413 or 415: not JSON, too slow, or too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(415, "request", "send JSON with Content-Type: application/json")
    async with _arriving(limits):
        stream = _limited(request, FORM_BYTES, f"the body has more than {FORM_BYTES:,} bytes")
        data = b"".join([chunk async for chunk in stream])
    try:
        return json.loads(data, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise RequestRefused(400, "request", "the body is not JSON that can be used") from None


@asynccontextmanager
async def _arriving(limits: Limits) -> AsyncIterator[None]:
    """Read a body within ``limits.fetch_s``.

    Raises:
        RequestRefused: 400 or 408: its client left, or it takes longer.
    """
    try:
        async with asyncio.timeout(limits.fetch_s):
            yield
    except TimeoutError:
        raise RequestRefused(408, "fetch", f"the body did not arrive within {limits.fetch_s:g} s (limits.fetch_s)") from None
    except ClientDisconnect:
        raise RequestRefused(400, "fetch", "the connection ended before the body") from None


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


async def _limited(request: Request, most: int, too_large: str) -> AsyncGenerator[bytes, None]:
    """Yield the body's bytes, as long as there are not too many and they do come.

    Raises:
        RequestRefused: 408 or 413.
    """
    declared = request.headers.get("content-length", "0")
    size = int(declared) if declared.isdecimal() else 0
    chunks = request.stream()
    while size <= most:
        try:
            async with asyncio.timeout(IDLE_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise RequestRefused(408, "fetch", f"no byte of the body came for {IDLE_S:g} s") from None
        if chunk is None:
            return
        most -= len(chunk)
        size = 0
        if chunk:
            yield chunk
    raise RequestRefused(413, "fetch", too_large)


async def _form(request: Request, stream: AsyncGenerator[bytes, None], limits: Limits) -> Body:
    try:
        parser = _InMemory(request.headers, stream, max_files=1, max_fields=MOST_FIELDS, max_part_size=FORM_BYTES)
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestRefused(400, "request", f"the form cannot be read: {error.message}") from None
    files = [name for name, value in form.multi_items() if isinstance(value, UploadFile)]
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    if len(files) != 1 or files[0] not in FILE_FIELDS:
        await form.close()
        raise RequestRefused(
            400, "request", "the form has no picture; send one file in its field image (curl -F image=@cup.jpg)"
        )
    upload = form[files[0]]
    assert isinstance(upload, UploadFile)
    try:
        data = await upload.read()
    finally:
        await form.close()
    if not data:
        raise RequestRefused(400, "request", "the picture is empty; send a file with content")
    if len(data) > limits.max_bytes:
        raise RequestRefused(413, "fetch", f"the picture has more than {limits.max_bytes:,} bytes (limits.max_bytes)")
    return Body(data, fields)

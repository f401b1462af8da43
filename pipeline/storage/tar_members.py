"""Read the members of tar archives: one by its place, or the headers of all. Archives are never trusted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

from pipeline.errors import FetchError
from pipeline.storage.backend import Content, StorageBackend, check_size
from pipeline.storage.members import TarMember
from pipeline.storage.uris import redact, scheme

HEADER_BYTES = 512

LOCAL_BLOCK_BYTES, REMOTE_BLOCK_BYTES = 2**12, 2**22
"""Bytes per read while the headers of an archive are read. Remote archives are read completely, unless members are larger."""

MAX_READ_BYTES = 2**20
"""Bytes of an extended header (long names, PAX records), at most. Honest ones have hundreds."""

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def read_member(member: TarMember, backend: StorageBackend, max_bytes: int | None, timeout_s: float) -> Content:
    """Read a member's header and content by one request.

    Raises:
        FetchError: It is larger than ``max_bytes``, or the archive has no such member, because it was replaced.
    """
    check_size(str(member), member.size, max_bytes)
    content = backend.read_range(member.container, member.offset, HEADER_BYTES + member.size, timeout_s)
    header, data = content.data[:HEADER_BYTES], content.data[HEADER_BYTES:]
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise FetchError(_changed(member, "has no member at this offset")) from error
    if found.type not in _REGULAR or found.size != member.size:
        raise FetchError(_changed(member, "has another member at this offset"))
    if len(data) != member.size:
        raise FetchError(f"{redact(member.container)}: it ends within {member.name!r}; it is truncated, copy it again")
    return Content(data, content.etag)


def _changed(member: TarMember, what: str) -> str:
    return f"{redact(member.container)}: it {what} ({member.name!r}); it has changed, run again with it as the manifest"


def tar_members(container: str, source: Any) -> Iterator[tuple[TarMember, Any]]:
    """Yield the regular files of an archive in its order, each with a function that returns its content.

    Links, devices, folders and sparse files are left out. Names are as written, and may be absolute or have ``..``.

    Args:
        container: URI of the archive.
        source: A file that can be read and sought, such as ``Files.open_input`` returns.

    Raises:
        ValueError: The archive is damaged or truncated, no tar archive, compressed, or has an excessive header.
    """
    reader = _BlockReader(source, REMOTE_BLOCK_BYTES if scheme(container) else LOCAL_BLOCK_BYTES)
    try:
        with tarfile.open(fileobj=reader, mode="r:") as archive:  # type: ignore[call-overload]
            end = 0
            while (found := archive.next()) is not None:
                archive.members = []  # or it would keep all of them
                if sum(len(name) + len(value) for name, value in archive.pax_headers.items()) > MAX_READ_BYTES:
                    raise tarfile.ReadError("its global headers are too large")  # it keeps these
                if found.size < 0 or archive.offset <= end:
                    raise tarfile.ReadError(f"the size of {found.name[:100]!r} is negative")
                end = archive.offset
                if found.type not in _REGULAR or found.sparse is not None:
                    continue
                if found.offset_data + found.size > reader.size:
                    raise tarfile.ReadError(f"{found.name[:100]!r} is longer than the archive")
                # PAX and GNU records come before the member's own header, which is directly before its content.
                member = TarMember(container, found.offset_data - HEADER_BYTES, found.size, found.name)
                yield member, reader.content(found.offset_data, found.size)
            reader.seek(archive.offset)
            if any(reader.read(HEADER_BYTES)):  # tarfile takes an invalid header for the end
                raise tarfile.ReadError(f"the header at offset {archive.offset} is invalid")
    except (tarfile.TarError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from error


class _BlockReader:
    """A file for ``tarfile`` that reads ahead in blocks and refuses to read much at once."""

    def __init__(self, source: Any, block_bytes: int) -> None:
        self.size: int = source.size()
        self._block_bytes = block_bytes
        self._source, self._position, self._start, self._block = source, 0, 0, b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        self._position = position + (0, self._position, self.size)[whence]
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Read like a file, but at most ``MAX_READ_BYTES``.

        Raises:
            ReadError: More is asked for.
        """
        if not 0 <= count <= MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes; it may have {MAX_READ_BYTES}")
        data = self._at(self._position, count)
        self._position += len(data)
        return data

    def content(self, offset: int, size: int) -> Any:
        """Return a function that reads a member's content."""
        return lambda: self._at(offset, size)

    def _at(self, offset: int, count: int) -> bytes:
        inside = offset - self._start
        if inside < 0 or inside + count > len(self._block):
            self._start, inside = offset, 0
            self._source.seek(min(offset, self.size))
            self._block = self._source.read(max(count, self._block_bytes)) if offset < self.size else b""
        return bytes(self._block[inside : inside + count])

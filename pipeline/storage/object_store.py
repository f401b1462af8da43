"""Object stores: S3 by its own calls, whatever else fsspec knows by fsspec's.

An object is published by one PUT, so it is there whole or not at all. fsspec keeps one event loop a process, on a thread
of its own; any number of threads may wait on it.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import s3fs
from fsspec.asyn import sync
from fsspec.utils import glob_translate

from pipeline.config.job import Storage
from pipeline.errors import StorageError
from pipeline.storage.backend import Content, FileInfo, check_size, is_hidden
from pipeline.storage.errors import s3_code, was_repeated
from pipeline.storage.retry import with_retries
from pipeline.storage.uris import bucket_and_key, scheme

SEQUENTIAL_BLOCK = 8 * 1024 * 1024
"""Bytes a request while a file is read from front to back."""

CONNECTIONS = 64
"""S3 connections a process; threads beyond that wait for one."""


class Remote:
    """Any fsspec filesystem: Google's and Azure's stores, HDFS, memory."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        before = self.stat(uri, timeout_s)
        check_size(uri, before.size, max_bytes)
        return Content(bytes(self.fs.cat_file(uri)), before.etag)

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        info = self.fs.info(uri)
        if info["type"] != "file":
            raise FileNotFoundError(uri)
        return _described(uri, info)

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        return bool(self.fs.isdir(uri))

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        self.fs.pipe_file(uri, data)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        try:
            self.fs.pipe_file(uri, data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, uri: str, timeout_s: float) -> None:
        if self.fs.exists(uri):
            self.fs.rm_file(uri)

    def walk(self, uri: str, timeout_s: float, *, hidden: bool = False) -> Iterator[FileInfo]:
        for path, info in sorted(self.fs.find(uri, detail=True).items()):
            found = f"{scheme(uri)}://{path.lstrip('/')}"
            if hidden or not is_hidden(found[len(uri) :].lstrip("/")):
                yield _described(found, info)

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        entries = self.fs.ls(uri, detail=True)
        found = (entry["name"].strip("/") for entry in entries if entry["type"] == "directory")
        return tuple(sorted(f"{scheme(uri)}://{path}" for path in found))

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """Files by pattern, found in one flat listing below the part that has no wildcard."""
        fixed = re.split(r"[*?\[]", uri, maxsplit=1)[0].rpartition("/")[0]
        pattern = re.compile(glob_translate(uri))
        return tuple(sorted(entry.uri for entry in self.walk(fixed, timeout_s) if pattern.match(entry.uri)))

    def open(self, uri: str, sequential: bool) -> Any:
        how: dict[str, Any] = (
            {"cache_type": "readahead", "block_size": SEQUENTIAL_BLOCK} if sequential else {"cache_type": "none"}
        )
        return pa.PythonFile(self.fs.open(uri, "rb", **how), mode="r")

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Object stores have no folders to prepare."""


class S3(Remote):
    """S3 and what speaks like it."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(_s3_filesystem(storage))

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        bucket, key = _object(uri)

        async def get() -> Content:
            answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            try:
                check_size(uri, answer["ContentLength"], max_bytes)
                return Content(bytes(await answer["Body"].read()), _answered(uri, answer).etag)
            finally:
                answer["Body"].close()

        found: Content = sync(self.fs.loop, get, timeout=timeout_s)
        return found

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        bucket, key = _object(uri)
        answer = self._call("head_object", timeout_s, Bucket=bucket, Key=key)
        return _answered(uri, answer)

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        return bool(self._page(uri, timeout_s, MaxKeys=1).get("Contents"))

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        self._put(uri, data, timeout_s)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        try:
            self._put(uri, data, timeout_s, IfNoneMatch="*")
        except OSError as error:
            if s3_code(error) not in {"PreconditionFailed", "412"}:
                raise
            # A repeated PUT may have met the object that its first attempt made before the answer was lost.
            return was_repeated(error) and self.read(uri, None, timeout_s).data == data
        return True

    def delete(self, uri: str, timeout_s: float) -> None:
        bucket, key = _object(uri)
        self._call("delete_object", timeout_s, Bucket=bucket, Key=key)

    def walk(self, uri: str, timeout_s: float, *, hidden: bool = False) -> Iterator[FileInfo]:
        bucket, prefix = bucket_and_key(uri)
        more: dict[str, str] = {}
        while True:
            # Each page is a request of its own: one that fails doesn't start the listing anew.
            page = with_retries(uri, StorageError, partial(self._page, uri, **more), timeout_s)
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if not key.endswith("/") and (hidden or not is_hidden(key[len(prefix) :].lstrip("/"))):
                    yield _described(f"s3://{bucket}/{key}", {**entry, "size": entry["Size"]})
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        bucket = bucket_and_key(uri)[0]
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._page(uri, timeout_s, Delimiter="/", **more)
            found += [f"s3://{bucket}/{entry['Prefix'].rstrip('/')}" for entry in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return tuple(sorted(found))
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Ask for a listing: some stores would make a missing bucket at the first PUT, and HEAD doesn't tell why it refuses."""
        self._page(uri, timeout_s, MaxKeys=1)

    def _put(self, uri: str, data: bytes, timeout_s: float, **conditions: str) -> None:
        bucket, key = _object(uri)
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        self._call("put_object", timeout_s, Bucket=bucket, Key=key, Body=data, ContentType=kind, **conditions)

    def _page(self, uri: str, timeout_s: float, /, **how: Any) -> dict[str, Any]:
        bucket, key = bucket_and_key(uri)
        return self._call("list_objects_v2", timeout_s, Bucket=bucket, Prefix=f"{key.rstrip('/')}/" if key else "", **how)

    def _call(self, method: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = sync(self.fs.loop, self.fs._call_s3, method, timeout=timeout_s, **arguments)
        return answer


def _object(uri: str) -> tuple[str, str]:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise FileNotFoundError("a bucket is no object")
    return bucket, key


def _s3_filesystem(storage: Storage) -> Any:
    def revealed(name: str) -> str | None:
        secret = getattr(storage, name)
        return None if secret is None else secret.get_secret_value()

    session = {} if storage.profile is None else {"profile": storage.profile}
    return s3fs.S3FileSystem(
        anon=storage.anonymous,
        endpoint_url=storage.endpoint_url,
        key=revealed("key"),
        secret=revealed("secret"),
        token=revealed("token"),
        client_kwargs={} if storage.region is None else {"region_name": storage.region},
        # botocore bridges hiccups within seconds; Files repeats what lasts longer, until its deadline.
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": 3},
            "connect_timeout": 5,
            "read_timeout": 30,
            "max_pool_connections": CONNECTIONS,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        **session,
    )


def filesystem(uri: str) -> Any:
    """fsspec's filesystem for any other scheme, configured by fsspec's own means.

    Raises:
        ImportError: no installed library knows the scheme.
    """
    try:
        return fsspec.filesystem(scheme(uri), skip_instance_cache=True, use_listings_cache=False)
    except ValueError as error:
        raise ImportError(f"nothing reads {scheme(uri)}://") from error


def _answered(uri: str, answer: dict[str, Any]) -> FileInfo:
    """What GET and HEAD say of an object: both the same."""
    return _described(uri, {**answer, "size": answer["ContentLength"]})


def _described(uri: str, info: dict[str, Any]) -> FileInfo:
    modified = info.get("LastModified") or info.get("mtime") or info.get("created") or info.get("updated")
    seconds = modified.timestamp() if isinstance(modified, datetime) else 0.0
    size = int(info["size"])
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"') or (f"{size:x}-{seconds:.6f}" if seconds else "")
    return FileInfo(uri=uri, size=size, etag=etag, modified=seconds)

"""S3 and compatible stores, through the calls of s3fs.

An object is written by one PUT, or in parts that are joined by one request, so it appears atomically. fsspec runs one event
loop per process on a thread of its own, and any number of threads may wait for it.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import s3fs
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError
from botocore.utils import parse_timestamp
from fsspec.asyn import sync
from s3fs.errors import translate_boto_error

from pipeline.config.job import Storage
from pipeline.errors import FetchError, StorageError
from pipeline.storage.backend import Content, FileInfo, LeftOut, check_size, is_hidden, listed
from pipeline.storage.errors import is_missing, library_errors, s3_code, was_retried
from pipeline.storage.fsspec_backend import FsspecBackend, file_info
from pipeline.storage.retry import with_retries
from pipeline.storage.spelling import by_fold, other_spelling
from pipeline.storage.uris import bucket_and_key, name

MAX_LISTED = 256
"""Prefixes whose names are kept, to find other spellings of missing objects."""

PARTS_FROM = 1024**3
"""Size in bytes from which a file is uploaded in parts. S3 takes at most 5 GB in one PUT, and a part is repeated sooner."""

PART_BYTES = 64 * 1024**2
"""Size of a part, in bytes, if there are not too many of them. S3 takes no smaller parts than 5 MiB."""

MAX_PARTS = 10_000
"""Parts of an object, at most: the limit of S3."""

PARTS_AT_ONCE = 2
"""Parts of a file that are in memory and on their way together."""

CONNECTIONS = 64
"""S3 connections per process; further threads wait."""


class S3Backend(FsspecBackend):
    """S3 and compatible stores."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(_s3_filesystem(storage))
        self._listed: dict[str, Mapping[str, str]] = {}

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        """Read a complete object by one GET."""
        try:
            return self._get(uri, max_bytes, timeout_s)
        except OSError as error:
            other = self.other_spelling(uri, timeout_s) if is_missing(error) else None
            if other is None or self._names(other, timeout_s=timeout_s):
                raise
            raise FetchError(f"{uri}: it does not exist, but {other!a} does; correct the URI") from error

    def read_range(self, uri: str, start: int, length: int, timeout_s: float) -> Content:
        """Read some bytes of an object by one GET."""
        try:
            return self._get(uri, None, timeout_s, Range=f"bytes={start}-{start + length - 1}")
        except OSError as error:
            if s3_code(error) not in {"InvalidRange", "416"}:
                raise
            return Content(b"", "")

    def _get(self, uri: str, max_bytes: int | None, timeout_s: float, **options: str) -> Content:
        bucket, key = _bucket_and_key(uri)

        async def get() -> Content:
            response = await self.fs._call_s3("get_object", Bucket=bucket, Key=key, **options)
            try:
                check_size(uri, response["ContentLength"], max_bytes)
                return Content(bytes(await response["Body"].read()), _response_info(uri, response).etag)
            finally:
                response["Body"].close()

        content: Content = sync(self.fs.loop, get, timeout=timeout_s)
        return content

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        """Return the metadata of an object."""
        bucket, key = _bucket_and_key(uri)
        return _response_info(uri, self._call("head_object", timeout_s, Bucket=bucket, Key=key))

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        """Check whether an object below this prefix exists."""
        return bool(self._page(uri, timeout_s, MaxKeys=1).get("Contents"))

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        """Write or replace an object."""
        self._put(uri, data, timeout_s)

    def upload(self, uri: str, path: Path, timeout_s: float) -> None:
        """Write or replace an object by the content of a local file; a large one in parts."""
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < PARTS_FROM:
                self._put(uri, file, timeout_s)
            else:
                sync(self.fs.loop, self._put_parts, uri, file, max(PART_BYTES, -(-size // MAX_PARTS)), timeout=timeout_s)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        """Write an object by a conditional PUT (``If-None-Match: *``)."""
        try:
            self._put(uri, data, timeout_s, IfNoneMatch="*")
        except OSError as error:
            if s3_code(error) not in {"PreconditionFailed", "412"}:
                raise
            # If botocore retried the PUT, the existing object may be the result of the first attempt.
            return was_retried(error) and self.read(uri, None, timeout_s).data == data
        return True

    def delete(self, uri: str, timeout_s: float) -> None:
        """Delete an object if it exists."""
        bucket, key = _bucket_and_key(uri)
        self._call("delete_object", timeout_s, Bucket=bucket, Key=key)

    def walk(self, uri: str, timeout_s: float, *, left_out: LeftOut | None = None) -> Iterator[FileInfo]:
        """List all objects below a prefix."""
        bucket, prefix = bucket_and_key(uri)
        for page in self._pages(uri, timeout_s):
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if not key.endswith("/") and not is_hidden(key[len(prefix) :].lstrip("/")):
                    yield file_info(f"s3://{bucket}/{key}", {**entry, "size": entry["Size"]})

    def scan(self, uri: str, timeout_s: float, after: str = "") -> Iterator[pa.Table]:
        """List all objects below a prefix, page by page."""
        _, key = bucket_and_key(uri)
        prefix = f"{key.rstrip('/')}/" if key else ""
        for page in self._pages(uri, timeout_s, **({"StartAfter": prefix + after} if after else {})):
            entries = [entry for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
            yield listed(
                [(entry["Key"][len(prefix) :].encode(), entry["Size"], entry["LastModified"].timestamp()) for entry in entries]
            )

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the prefixes directly below this one."""
        bucket, pages = bucket_and_key(uri)[0], self._pages(uri, timeout_s, Delimiter="/")
        prefixes = (entry["Prefix"].rstrip("/") for page in pages for entry in page.get("CommonPrefixes", []))
        return tuple(sorted(f"s3://{bucket}/{prefix}" for prefix in prefixes))

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Request a listing: some stores create a missing bucket at the first PUT, and HEAD does not report the error code."""
        self._page(uri, timeout_s, MaxKeys=1)

    def other_spelling(self, uri: str, timeout_s: float) -> str | None:
        """Return an existing object or prefix that a URI may mean (``spelling``), of the first thousand in a prefix."""
        bucket, key = bucket_and_key(uri)
        try:
            return other_spelling(f"s3://{bucket}", key, partial(self._names, timeout_s=timeout_s))
        except library_errors():  # listings may be forbidden
            return None

    def _names(self, folder: str, *, timeout_s: float) -> Mapping[str, str]:
        if folder not in self._listed:
            page = self._page(folder, timeout_s, Delimiter="/")
            prefixes = [one["Prefix"].rstrip("/") for one in page.get("CommonPrefixes", ())]
            keys = [one["Key"] for one in page.get("Contents", ())]
            if len(self._listed) >= MAX_LISTED:
                self._listed.clear()
            self._listed[folder] = by_fold(name(key) for key in [*prefixes, *keys])
        return self._listed[folder]

    def _put(self, uri: str, data: bytes | BinaryIO, timeout_s: float, **conditions: str) -> None:
        bucket, key = _bucket_and_key(uri)

        async def put() -> None:
            await self.fs.set_session()
            client = await self.fs.get_s3(bucket)
            try:
                await client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=_mime_type(key), **conditions)
            except ClientError as error:
                raise translate_boto_error(error) from error

        # Not fs._call_s3: it repeats a request from where its file is, at its end. with_retries opens the file anew.
        sync(self.fs.loop, put, timeout=timeout_s)

    async def _put_parts(self, uri: str, file: BinaryIO, part_bytes: int) -> None:
        """Upload a file in parts. If that fails, or is cancelled by a timeout, its parts are deleted."""
        bucket, key = _bucket_and_key(uri)
        where: dict[str, Any] = {"Bucket": bucket, "Key": key}
        # Not fs.put_file: it cuts a key at "?versionId=", and keeps the parts of a cancelled upload.
        begun = await self.fs._call_s3("create_multipart_upload", **where, ContentType=_mime_type(key))
        where["UploadId"] = begun["UploadId"]
        try:
            sent = await self.fs._upload_file_part_concurrent(
                bucket, key, begun, file, part_bytes, max_concurrency=PARTS_AT_ONCE
            )
            parts = [{"PartNumber": number, "ETag": one["ETag"]} for number, one in enumerate(sent, 1)]
            await self.fs._call_s3("complete_multipart_upload", **where, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(*library_errors()):
                await self.fs._call_s3("abort_multipart_upload", **where)
            raise

    def _pages(self, uri: str, timeout_s: float, **options: Any) -> Iterator[dict[str, Any]]:
        """Request the pages of a listing. Each page has its own retries."""
        while True:
            page = with_retries(uri, StorageError, partial(self._page, uri, **options), timeout_s)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, uri: str, timeout_s: float, /, **options: Any) -> dict[str, Any]:
        bucket, key = bucket_and_key(uri)
        return self._call("list_objects_v2", timeout_s, Bucket=bucket, Prefix=f"{key.rstrip('/')}/" if key else "", **options)

    def _call(self, method: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        response: dict[str, Any] = sync(self.fs.loop, self.fs._call_s3, method, timeout=timeout_s, **arguments)
        return response


def _parse_time(value: Any) -> datetime:
    """Parse a time of a response. botocore's own parser takes three quarters of the time of a listing."""
    if isinstance(value, str) and value[10:11] == "T":
        return datetime.fromisoformat(value)
    parsed: datetime = parse_timestamp(value)
    return parsed


def _mime_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise FileNotFoundError("the URI names a bucket and no object; add a key: s3://bucket/key")
    return bucket, key


def _s3_filesystem(storage: Storage) -> Any:
    def reveal(name: str) -> str | None:
        secret = getattr(storage, name)
        return None if secret is None else secret.get_secret_value()

    session = AioSession(profile=storage.profile)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return s3fs.S3FileSystem(
        anon=storage.anonymous,
        endpoint_url=storage.endpoint_url,
        key=reveal("key"),
        secret=reveal("secret"),
        token=reveal("token"),
        client_kwargs={} if storage.region is None else {"region_name": storage.region},
        # botocore makes 4 attempts within seconds; with_retries continues until its deadline.
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": 3},
            "connect_timeout": 5,
            "read_timeout": 30,
            "max_pool_connections": CONNECTIONS,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        session=session,
    )


def _response_info(uri: str, response: dict[str, Any]) -> FileInfo:
    return file_info(uri, {**response, "size": response["ContentLength"]})

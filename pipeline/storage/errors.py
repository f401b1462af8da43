"""Classify the exceptions of storage libraries and describe them to users.

Descriptions never quote the text of a library's exception, since it may contain keys, signatures or complete addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from typing import Any, Literal

from pipeline.storage.uris import NOT_UTF8, bucket_and_key, redact, scheme

Errors = tuple[type[Exception], ...]
Kind = Literal["ANY", "CONNECTION", "CERTIFICATE", "NO_CREDENTIALS", "NO_PROFILE"]


def library_errors() -> Errors:
    """Return the exceptions that storage libraries raise for any reason but a bug of this package, to use in ``except``."""
    return (OSError, ValueError, ImportError, *_of_clients("ANY"), *_of_httpx("HTTPError"))


def _of_clients(kind: Kind) -> Errors:
    """Return the S3 and HTTP clients' exceptions of a kind. A client that nobody imported has raised none."""
    if not {"aiohttp", "botocore", "urllib3"} & sys.modules.keys():
        return ()
    from pipeline.storage import client_errors

    return tuple(getattr(client_errors, kind))


def _of_httpx(name: str) -> Errors:
    """Return an exception of the client of the Hugging Face hub, if it was imported."""
    return _of_module("httpx", name)


def _of_module(module: str, name: str) -> Errors:
    """Return an exception of a module, if that was imported."""
    found = sys.modules.get(module)
    return (getattr(found, name),) if found is not None else ()


def _connection_errors() -> Errors:
    return (ConnectionError, TimeoutError, socket.gaierror, *_of_clients("CONNECTION"), *_of_httpx("TransportError"))


def _certificate_errors() -> Errors:
    return (ssl.SSLError, *_of_clients("CERTIFICATE"))


_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidSecurity", "NotSignedUp", "UnrecognizedClientException"),
}
_REGION = {
    *("PermanentRedirect", "TemporaryRedirect", "301", "IllegalLocationConstraintException", "AuthorizationHeaderMalformed"),
}
_BUSY = {
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling"),
    "NoSuchUpload",  # of a file in parts: joined already, and the answer was lost; or deleted by somebody
    *("ConditionalRequestConflict", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"),
    *("429", "500", "502", "503", "504"),
}
_REFUSED = "the credentials were refused ({code}); correct storage.key and storage.secret, the profile or the AWS variables"
_FORBIDDEN = "access was refused ({code}); these credentials need permission for it, or it does not exist"
_OTHER_REGION = "the bucket {bucket!r} is in another region; set storage.region"
_FAILING = "the storage kept failing ({code}); try again later or with fewer threads"

_S3 = {
    "NoSuchBucket": "there is no bucket {bucket!r}; create it, or correct the name or storage.endpoint_url",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "InvalidBucketName": "{bucket!r} is not a valid bucket name; correct the URI",
    **dict.fromkeys(("NoSuchKey", "404"), "it does not exist; correct the URI"),
    **dict.fromkeys(("AccessDenied", "403", "AllAccessDisabled", "AccountProblem"), _FORBIDDEN),
    **dict.fromkeys(_CREDENTIALS, _REFUSED),
    **dict.fromkeys(_REGION, _OTHER_REGION),
    **dict.fromkeys(_BUSY, _FAILING),
}

_HTTP = {
    **dict.fromkeys((404, 410), "it does not exist (HTTP {status}); correct the URI"),
    **dict.fromkeys((401, 403), "access was refused (HTTP {status}); the address may have expired"),
    **dict.fromkeys((408, 425, 429), "the server is overloaded (HTTP {status}); try again later or with fewer threads"),
    **dict.fromkeys(range(500, 600), "the server kept failing (HTTP {status}); try again later"),
}


class ChangedWhileRead(ConnectionError):
    """A file was rewritten in place while it was read, so that its bytes are a mixture of two versions."""


class NamesServer(OSError):
    """A scheme of fsspec whose addresses name a server."""


_LIBRARIES = {"hf": "huggingface_hub", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""fsspec's libraries by scheme, as they are called for pip."""


def _by_type(kind: str) -> tuple[tuple[Errors, str], ...]:
    """Return what is wrong by type of exception; the first that fits counts. ``kind`` is the scheme of the URI."""
    library = _LIBRARIES.get(kind, "its fsspec library")
    hub = "it does not exist, or it is private; correct the URI, or set HF_TOKEN"
    return (
        ((UnicodeEncodeError,), NOT_UTF8),
        (
            _of_clients("NO_CREDENTIALS"),
            "no credentials were found; set storage.key and storage.secret, a profile, or the AWS variables",
        ),
        (_of_clients("NO_PROFILE"), "the AWS profile does not exist; correct storage.profile"),
        (
            _certificate_errors(),
            "the server's TLS certificate is not trusted; check the address and the machine's certificates",
        ),
        (
            (ChangedWhileRead, *_of_module("s3fs.utils", "FileExpired")),
            "it changed while it was read; wait until it is written, then run again with --retry fetch",
        ),
        ((TimeoutError,), "the request timed out; check the address (on S3 storage.endpoint_url) and the network"),
        (_connection_errors(), "it can't be reached; check the address (on S3 storage.endpoint_url) and the network"),
        (
            (NamesServer,),
            f"{kind}:// names a server, and only buckets can be opened; mount its folder and give the path, or use s3://",
        ),
        ((ImportError,), f"no installed library supports {kind}://; install {library}, or use a path or s3://"),
        ((FileNotFoundError,), hub if kind == "hf" else "it does not exist; correct the path or URI"),
        ((PermissionError,), "access was refused; check its permissions"),
    )


_ERRNO = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ENOTDIR: "a component of the path is a file, not a folder",
    errno.EEXIST: "a file is where a folder of this name is needed; give the item another id or name",
    errno.EISDIR: "it is a folder, not a file",
    errno.ELOOP: "its symbolic links form a loop",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


class HttpStatusError(OSError):
    """An unexpected status of an HTTP response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def _http_status(error: BaseException) -> int | None:
    """Return the status of an HTTP response that an exception is about; None for other exceptions."""
    if isinstance(error, HttpStatusError):
        return error.status
    status = getattr(getattr(error, "response", None), "status_code", None)  # of the Hugging Face hub
    return status if isinstance(status, int) else None


def s3_code(error: BaseException) -> str | None:
    """Return the S3 error code of an exception or of its causes: ``NoSuchKey``, ``SlowDown``, ``403``."""
    response = _s3_response(error)
    return None if response is None else str(response.get("Error", {}).get("Code"))


def was_retried(error: BaseException) -> bool:
    """Check whether botocore has sent the request more than once."""
    response = _s3_response(error) or {}
    return bool(response.get("ResponseMetadata", {}).get("RetryAttempts"))


def _s3_response(error: BaseException | None) -> dict[str, Any] | None:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        error = error.__cause__
    return None


def is_missing(error: BaseException) -> bool:
    """Check whether the object or file does not exist. Its bucket may be missing as well."""
    return isinstance(error, FileNotFoundError) or s3_code(error) in {"NoSuchKey", "404"}


def is_corruption(error: BaseException) -> bool:
    """Check whether a reader rejected the content, as opposed to an error of the storage."""
    if isinstance(error, (OSError, *_of_clients("ANY"))):
        # Arrow reports damaged files as a plain OSError without errno.
        return type(error) is OSError and error.errno is None and s3_code(error) is None
    return True


def is_transient(error: BaseException) -> bool:
    """Check whether a retry may succeed."""
    code = s3_code(error)
    if code is not None:
        return code in _BUSY
    status = _http_status(error)
    if status is not None:
        return status >= 500 or status in (408, 425, 429)
    return isinstance(error, _connection_errors()) and not isinstance(error, _certificate_errors())


def describe_error(error: BaseException, uri: str) -> str:
    """Describe what is wrong with ``uri`` and how to fix it."""
    return f"{redact(uri)}: {_reason(error, uri)}"


def _reason(error: BaseException, uri: str) -> str:
    code = s3_code(error)
    if code is not None:
        text = _S3.get(code, "the storage refused the request ({code})")
        return text.format(code=code, bucket=bucket_and_key(uri)[0])
    status = _http_status(error)
    if status is not None:
        return _HTTP.get(status, "the server returned HTTP {status}").format(status=status)
    for types, text in _by_type(scheme(uri)):
        if isinstance(error, types):
            return text
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno, f"the operating system reports {os.strerror(error.errno).lower()!r}")
    if isinstance(error, ValueError):
        return "the path or address contains invalid characters; correct it, or storage.endpoint_url"
    return f"the storage failed ({type(error).__name__})"

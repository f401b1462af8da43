"""What libraries and kernels raise when bytes can't be had, told apart once and put into words once.

No sentence made here quotes a foreign message: those may repeat keys, signatures or whole addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any

import aiohttp
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError

from pipeline.storage.uris import bucket_and_key, shown

LIBRARY_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError, aiohttp.ClientError, HTTPError)
"""Everything that a filesystem library is known to raise on a fault that is not a bug of ours."""

_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidSecurity", "NotSignedUp", "UnrecognizedClientException"),
}
_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "301",
    "IllegalLocationConstraintException",
    "AuthorizationHeaderMalformed",
}
_BUSY = {
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling"),
    *("ConditionalRequestConflict", "BadDigest", "IncompleteBody", "429", "500", "502", "503", "504"),
}
_BREAKS = (
    *(BotoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError),
    *(HTTPError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError),
    *(ConnectionError, TimeoutError, socket.gaierror),
)
_CERTIFICATE = (SSLError, aiohttp.ClientSSLError, ssl.SSLError)

_REFUSED = "the credentials were refused ({code}); correct storage.key and storage.secret, the profile or the AWS variables"
_FORBIDDEN = "access was refused ({code}); these credentials need permission for it, or it does not exist"
_ELSEWHERE = "the bucket {bucket!r} is in another region; set storage.region"
_FAILING = "the storage kept failing ({code}); try again later or with fewer threads"

_S3 = {
    "NoSuchBucket": "there is no bucket {bucket!r}; create it, or correct the name or storage.endpoint_url",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "InvalidBucketName": "{bucket!r} is no valid bucket name; correct the URI",
    **dict.fromkeys(("NoSuchKey", "404"), "it does not exist; correct the URI"),
    **dict.fromkeys(("AccessDenied", "403", "AllAccessDisabled", "AccountProblem"), _FORBIDDEN),
    **dict.fromkeys(_CREDENTIALS, _REFUSED),
    **dict.fromkeys(_REGION, _ELSEWHERE),
    **dict.fromkeys(_BUSY, _FAILING),
}

_WEB = {
    **dict.fromkeys((404, 410), "it does not exist (HTTP {status}); correct the URI"),
    **dict.fromkeys((401, 403), "access was refused (HTTP {status}); the address may have expired"),
    **dict.fromkeys((408, 425, 429), "the server is overloaded (HTTP {status}); try again later or with fewer threads"),
    **dict.fromkeys(range(500, 600), "the server kept failing (HTTP {status}); try again later"),
}

_KINDS: tuple[tuple[Any, str], ...] = (
    (
        (NoCredentialsError, PartialCredentialsError),
        "no credentials were found; set storage.key and storage.secret, a profile, or the AWS variables",
    ),
    (ProfileNotFound, "the AWS profile of the storage settings does not exist; correct storage.profile"),
    (_CERTIFICATE, "the server's TLS certificate is not trusted; check the address and the machine's certificates"),
    (TimeoutError, "no answer came in time; check the address (on S3 storage.endpoint_url) and the network"),
    (_BREAKS, "it can't be reached; check the address (on S3 storage.endpoint_url) and the network"),
    (ImportError, "nothing here reads this kind of URI; install the fsspec library for it, or use a path or s3://"),
    (FileNotFoundError, "it does not exist; correct the path or URI"),
    (PermissionError, "access was refused; check its permissions"),
)

_NUMBERS = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ELOOP: "its symbolic links go round in a circle",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


def s3_code(error: BaseException) -> str | None:
    """The S3 error code behind an exception, through however many wrappers: ``NoSuchKey``, ``SlowDown``, ``403``."""
    answer = _s3_answer(error)
    return None if answer is None else str(answer.get("Error", {}).get("Code"))


def was_repeated(error: BaseException) -> bool:
    """The client had sent the request before, and lost the answer."""
    answer = _s3_answer(error) or {}
    return bool(answer.get("ResponseMetadata", {}).get("RetryAttempts"))


def _s3_answer(error: BaseException | None) -> dict[str, Any] | None:
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            return answer
        error = error.__cause__
    return None


def is_missing(error: BaseException) -> bool:
    """The object or file isn't there (its bucket or disk may still be at fault)."""
    return isinstance(error, FileNotFoundError) or s3_code(error) in {"NoSuchKey", "404"}


def is_damage(error: BaseException) -> bool:
    """A reader didn't like the bytes; the storage itself gave them without complaint."""
    if isinstance(error, (OSError, HTTPError, BotoCoreError, ClientError, aiohttp.ClientError)):
        # Arrow reports damage as an OSError of its own, with nothing but a text.
        return type(error) is OSError and error.errno is None and s3_code(error) is None
    return True


def is_transient(error: BaseException) -> bool:
    """Trying again may help."""
    code = s3_code(error)
    if code is not None:
        return code in _BUSY
    if isinstance(error, WebStatus):
        return error.status >= 500 or error.status in (408, 425, 429)
    return isinstance(error, _BREAKS) and not isinstance(error, _CERTIFICATE)


class WebStatus(OSError):
    """A web server's answer that is not 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def describe_error(error: BaseException, uri: str) -> str:
    """What is wrong with ``uri`` and how to mend it."""
    return f"{shown(uri)}: {_reason(error, uri)}"


def _reason(error: BaseException, uri: str) -> str:
    code = s3_code(error)
    if code is not None:
        text = _S3.get(code, "the storage refused the request ({code})")
        return text.format(code=code, bucket=bucket_and_key(uri)[0])
    if isinstance(error, WebStatus):
        return _WEB.get(error.status, "the server answered with HTTP {status}").format(status=error.status)
    for kind, text in _KINDS:
        if isinstance(error, kind):
            return text
    if isinstance(error, OSError) and error.errno is not None:
        return _NUMBERS.get(error.errno, f"the operating system says {os.strerror(error.errno).lower()!r}")
    if isinstance(error, ValueError):
        return "the path or address holds characters that it can't have; correct it, or storage.endpoint_url"
    return f"the storage failed ({type(error).__name__})"

"""Paths and URIs as text: nothing here touches a disk or the network.

A *URI* in this package is either a plain absolute local path or ``scheme://…``. S3 keys are taken literally: no percent
decoding, no folding of dots. Every function returns text without a trailing slash unless it was given one to keep.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pipeline.errors import ConfigError, ItemRefused

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
WEB = frozenset({"http", "https"})

# User and password before a bucket or host, also where the password, as AWS's often do, has a slash in it that ends the host
# by the letter of the standard. A colon may as well come before a port, or in an ARN.
_USER = re.compile(r"(?s)(?:[^/?#]*@|(?!arn:)[^/@:]*:(?!\d+(?:/|$)).*@)")

# Query parameters by which a web address proves that its bearer may read it (AWS, Google, Azure, CloudFront, plain tokens).
_SIGNING = re.compile(
    r"^(x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|sig|expires|policy|key-pair-id|"
    r"se|sp|sr|st|sv|spr|sip|skoid|sktid|skt|ske|sks|skv|.*token.*|.*secret.*|.*password.*|.*key)$",
    re.IGNORECASE,
)


def scheme(uri: str) -> str:
    """``s3``, ``https``, … in lower case; empty for a local path."""
    match = SCHEME.match(uri)
    return match[1].lower() if match else ""


def absolute(uri: str) -> str:
    """A path or URI from a setting, in its one form: local paths absolute (``~`` and ``file://`` too), schemes in lower case.

    Raises:
        ConfigError: it is empty, names another machine's file, or carries credentials.
    """
    if not uri.strip():
        raise ConfigError("a path or URI is empty; give a local path or one such as s3://bucket/folder")
    try:
        plain = _plain(uri)
    except ValueError as error:
        raise ConfigError(f"{shown(uri)} {error}") from None
    if scheme(plain):
        return plain.rstrip("/") if scheme(plain) not in WEB else plain
    return os.path.abspath(os.path.expanduser(plain))  # noqa: PTH100, PTH111  text only: no symbolic link is followed


def resolve(uri: str, base: str) -> str:
    """An image's URI as a manifest writes it: absolute ones stay, relative ones lie below ``base`` (absolute, a folder).

    Raises:
        ItemRefused: it is empty, climbs above its bucket, names another machine's file, or carries credentials.
    """
    if not uri:
        raise ItemRefused("image_uri is empty; give a path or URI")
    try:
        if scheme(uri):
            return _plain(uri)
        if uri.startswith("/"):
            return uri
        if not scheme(base):
            return os.path.normpath(join(base, uri))
        joined = join(base, uri)
        if not _has_dots(uri):
            return joined
        bucket, key = bucket_and_key(joined)
        key = posixpath.normpath(key)
        if key in (".", "..") or key.startswith("../"):
            raise ValueError("climbs above its bucket; correct the relative path")
        return f"{scheme(base)}://{bucket}/{key}"
    except ValueError as error:
        raise ItemRefused(f"image_uri {shown(uri)!r} {error}") from None


def join(base: str, *parts: str) -> str:
    """``base`` and the parts with one slash between them."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts if part)])


def parent(uri: str) -> str:
    """The folder or prefix that holds this."""
    head, _, rest = uri.rpartition("://")
    folder = posixpath.dirname(rest.rstrip("/"))
    return f"{head}://{folder}" if head else folder or "/"


def name(uri: str) -> str:
    """The last part."""
    return posixpath.basename(uri.rstrip("/"))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` in two."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def shown(uri: str) -> str:
    """As it may stand in a message: without user, password and query, which may be credentials."""
    found = scheme(uri)
    if not found:
        return uri
    rest = _USER.sub("", uri.partition("://")[2], count=1) if has_user(uri) else uri.partition("://")[2]
    if found in WEB:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{found}://{rest}"


def has_user(uri: str) -> bool:
    """A user name or password stands before the bucket or host, as far as that can be told."""
    return bool(scheme(uri) and _USER.match(uri.partition("://")[2]))


def unsigned(uri: str) -> str:
    """As it may be kept: without user and password, a web address without the query parameters that sign it.

    Such a parameter changes from one day to the next, so an identity made of a URI must not hold it either.
    """
    if scheme(uri) not in WEB:
        return shown(uri)
    try:
        parts = urlsplit(uri)
        kept = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNING.match(key)]
    except ValueError:
        return shown(uri)
    if parts.username is None and has_user(uri):
        return shown(uri)
    if parts.username is None and len(kept) == len(parse_qsl(parts.query, keep_blank_values=True)):
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(kept)))


def _plain(uri: str) -> str:
    found = scheme(uri)
    if not found:
        return uri
    host, slash, path = uri.partition("://")[2].partition("/")
    if found in ("file", "local"):  # fsspec knows both names
        if host not in ("", "localhost"):
            raise ValueError("names a file on another machine; use a path of this one")
        return unquote(f"/{path}")
    if not host:
        raise ValueError("has no bucket or host after the //; write for instance s3://bucket/folder")
    if has_user(uri) and found not in WEB:
        raise ValueError("carries credentials; give them in the storage settings or the AWS variables instead")
    return f"{'s3' if found == 's3a' else found}://{host}{slash}{path}"


def _has_dots(path: str) -> bool:
    return any(part in (".", "..") for part in path.split("/"))

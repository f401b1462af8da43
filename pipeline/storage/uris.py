"""Parse, normalize and redact paths and URIs as text, without access to a disk or the network.

A *URI* in this package is a plain absolute local path or ``scheme://…``. S3 keys are literal: they are not percent-decoded,
and dots in them are not folded. Functions return text without a trailing slash unless the input must keep one.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pipeline.errors import ConfigError, ItemRefused

HTTP_SCHEMES = frozenset({"http", "https"})

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")

# User and password before a bucket or host. AWS secrets often contain a slash, which by the standard would end the host.
# A colon before a port number or in an ARN is not a password.
_USER = re.compile(r"(?s)(?:[^/?#]*@|(?!arn:)[^/@:]*:(?!\d+(?:/|$)).*@)")

# Query parameters that sign a URL: AWS, Google, Azure, CloudFront, Alibaba and Huawei (x-oss-…, x-obs-…; x-oss-process changes
# the image and stays), Tencent (q-…), Akamai (hdnts, hdnea), and plain tokens.
_SIGNING = re.compile(
    r"^(x-(amz|goog)-.*|x-\w+-(signature|credential|date|expires|security|algorithm|signedheaders|additional).*|"
    r"googleaccessid|policy|key-pair-id|q-.*|hdn(ts|ea|tl)|__gda__|hmac|jwt|sig|exp|expiry|"
    r"se|sp|sr|st|sv|spr|sip|skoid|sktid|skt|ske|sks|skv|"
    r".*(signature|credential|expires|token|secret|password|access_?key).*|.*key)$",
    re.IGNORECASE,
)

# Parameters that sign a URL if their value looks like a secret, and name the image otherwise.
_MAY_SIGN = re.compile(r"^(auth.*|code|hash|h|s|session.*|sid)$", re.IGNORECASE)
_SECRET = re.compile(r"^(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/=_~.\-]{16,}$")


NOT_UTF8 = "a name in this path is not UTF-8; rename the file or folder"


def scheme(uri: str) -> str:
    """Return the scheme in lower case (``s3``, ``https``, …), or an empty string for a local path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def absolute(uri: str) -> str:
    """Normalize a path or URI from a setting: make local paths absolute (``~`` and ``file://`` too), schemes lower case.

    Raises:
        ConfigError: The URI is empty, names a file on another machine, or contains credentials.
    """
    if not uri.strip():
        raise ConfigError("a path or URI is empty; give a local path or a URI such as s3://bucket/folder")
    try:
        plain = _normalize(uri)
    except ValueError as error:
        raise ConfigError(f"{redact(uri)} {error}") from None
    if scheme(plain):
        return plain.rstrip("/") if scheme(plain) not in HTTP_SCHEMES else plain
    return os.path.abspath(os.path.expanduser(plain))  # noqa: PTH100, PTH111  Path.resolve() follows symbolic links


def check_utf8(uri: str) -> str:
    """Return a path or URI that a manifest or an index can hold.

    Raises:
        ConfigError: Its name on this disk is not UTF-8.
    """
    if printable(uri) != uri:
        raise ConfigError(f"{printable(redact(uri))}: {NOT_UTF8}")
    return uri


def printable(path: str) -> str:
    """Return a path with the bytes escaped that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def on_disk(path: str) -> str:
    """Return the path that ``printable`` has escaped."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), path)


def resolve(uri: str, base: str) -> str:
    """Resolve an image URI of a manifest: keep an absolute URI, join a relative one to the absolute folder ``base``.

    Raises:
        ItemRefused: The URI is empty, climbs above its bucket, names a file on another machine, or contains credentials.
    """
    if not uri:
        raise ItemRefused("image_uri is empty; give a path or URI")
    try:
        if scheme(uri):
            return _normalize(uri)
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
        raise ItemRefused(f"image_uri {redact(uri)!r} {error}") from None


def join(base: str, *parts: str) -> str:
    """Join ``base`` and the parts with one slash between them."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts if part)])


def parent(uri: str) -> str:
    """Return the folder or prefix that contains this URI."""
    head, _, rest = uri.rpartition("://")
    folder = posixpath.dirname(rest.rstrip("/"))
    return f"{head}://{folder}" if head else folder or "/"


def name(uri: str) -> str:
    """Return the last component of a path."""
    return posixpath.basename(uri.rstrip("/"))


def stem(uri: str) -> str:
    """Return the name of a file without its suffix, to name what is made from it; ``picture`` if there is none.

    The query, the fragment and the escapes of web addresses are not part of it. In keys of object stores they are.

    >>> stem("https://cdn.example.com/blue%20cup.jpg?w=800"), stem("s3://shop/take#2.jpg"), stem("https://cdn.example.com/")
    ('blue cup', 'take#2', 'picture')
    """
    kind, path = scheme(uri), uri
    if kind:
        path = uri.partition("://")[2].partition("/")[2]
    if kind in HTTP_SCHEMES:
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    if kind in HTTP_SCHEMES or kind == "file":
        path = "".join(one if one.isprintable() and one != "\\" else "_" for one in unquote(path))
    return re.sub(r"(?<=.)\.[^.]*$", "", name(path)).strip(".") or "picture"


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/some/key`` into bucket and key."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def redact(uri: str) -> str:
    """Remove user, password and the query of a web address, so that the URI can be logged."""
    kind, rest = scheme(uri), uri.partition("://")[2]
    if not kind:
        return uri
    if has_credentials(uri):
        rest = _USER.sub("", rest, count=1)
    if kind in HTTP_SCHEMES:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{kind}://{rest}"


def has_credentials(uri: str) -> bool:
    """Check for a user name or password before the bucket or host."""
    return bool(scheme(uri) and _USER.match(uri.partition("://")[2]))


def strip_signature(uri: str) -> str:
    """Remove user and password, and the query parameters that sign a web address, so that the URI can be stored.

    Signatures change over time, so ids that are derived from a URI must not contain them.
    """
    if scheme(uri) not in HTTP_SCHEMES:
        return redact(uri)
    try:
        parts = urlsplit(uri)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return redact(uri)
    kept = [(key, value) for key, value in query if not _signs(key, value)]
    if parts.username is None and has_credentials(uri):
        return redact(uri)
    if parts.username is None and len(kept) == len(query):
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(kept)))


def _signs(key: str, value: str) -> bool:
    return bool(_SIGNING.match(key) or (_MAY_SIGN.match(key) and _SECRET.match(value)))


def _normalize(uri: str) -> str:
    kind = scheme(uri)
    if not kind:
        return uri
    host, slash, path = uri.partition("://")[2].partition("/")
    if kind in ("file", "local"):  # the names that fsspec has for local files
        if host not in ("", "localhost"):
            raise ValueError("names a file on another machine; use a path on this machine")
        return unquote(f"/{path}")
    if not host:
        raise ValueError("has no bucket or host after the //; write for instance s3://bucket/folder")
    if has_credentials(uri) and kind not in HTTP_SCHEMES:
        raise ValueError("contains credentials; give them in the storage settings or the AWS variables instead")
    return f"{'s3' if kind == 's3a' else kind}://{host}{slash}{path}"


def _has_dots(path: str) -> bool:
    return any(part in (".", "..") for part in path.split("/"))

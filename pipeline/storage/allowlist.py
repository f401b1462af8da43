"""The allow-list of image locations, and messages about images outside it.

Manifests are untrusted input, so a run reads only below its allowed roots: the manifest's own folder and the entries of
``storage.allow_roots`` (folders, prefixes, web addresses). Three checks are made: of a row's URI (``outside``), of a path's
symbolic links just before it is opened (``real_path``), and of a web server's address when it is connected to (``http.py``).
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yarl

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, ItemRefused
from pipeline.storage import uris
from pipeline.storage.members import split_member

# Readers may interpret these differently: dots, doubled slashes, control characters, and in web addresses whatever may
# decode to them. URIs without any of them are compared as plain text.
_AMBIGUOUS = r"/\.{1,2}(?:/|$)|^/(?:.*/)?/|/$|[\x00-\x1f\x7f]|^https?://[^?#]*[\\%;]"
_HTTP = r"^https?://"
_DOT_SEGMENT = re.compile(r"(?:^|[/\\;])\.{1,2}(?:$|[/\\;])")
_QUERY = r"(?s)^(https?://[^?#]*).*$"
_FOLDER = r"(?s)([^/])/[^/]*$"
# URIs that repr() only puts in quotes, short enough to leave room for the rest of the message.
_SIMPLE = r"^(?:/|s3://[a-z0-9.-]{1,63}/)[ -&(-\[\]-~]{1,120}$"

MAX_SHOWN = 200
"""Characters of a URI in a message."""

MAX_ORIGINS = 1000
"""Buckets, hosts and top-level folders that ``OutsideRoots`` counts separately."""


RETRY_ITEM = "add --retry item, too, to process it again"
"""Further advice for items that have failed because they were outside the roots."""


@dataclass(frozen=True)
class AllowList:
    """The allowed roots. Can be pickled."""

    allowed: tuple[str, ...]
    """Absolute paths and URIs without a trailing slash, the manifest's folder first."""
    http: bool = False
    """Images on any public web server are allowed as well."""

    @classmethod
    def of(cls, storage: Storage, base: str | None = None) -> AllowList:
        """Build the allow-list from the settings and the manifest's folder ``base``.

        Raises:
            ConfigError: A root is not a path or URI, or it is a web address with credentials or a query.
        """
        roots = [_normalize_root(root) for root in storage.allow_roots]
        return cls(tuple(dict.fromkeys([base, *roots] if base else roots)), storage.http)

    def __str__(self) -> str:
        more = f" and {len(self.allowed) - 3} more" if len(self.allowed) > 3 else ""
        return (", ".join(self.allowed[:3]) or "none") + more

    def allows(self, uri: str) -> bool:
        """Check whether an absolute path or URI is below a root, by its text: ``/a/../b`` is ``/b``.

        Of a picture inside another file, this is checked of the file.
        """
        uri, _ = split_member(uri)
        if uris.scheme(uri) in uris.HTTP_SCHEMES:
            return self.http or self.names(uri)
        path = _normalize(uri)
        return path is not None and any(_is_below(path, root) for root in self.allowed)

    def names(self, uri: str) -> bool:
        """Check whether a root names the host of this web address, and the address is below it."""
        address = _origin_and_path(uri)
        roots = (_origin_and_path(root) for root in self.allowed if uris.scheme(root) in uris.HTTP_SCHEMES)
        return address is not None and any(
            root is not None and address[0] == root[0] and _is_below(address[1], root[1]) for root in roots
        )

    def outside(self, column: pa.Array) -> npt.NDArray[np.bool_]:
        """Return ``not allows(…)`` for a column of URIs; False for null."""
        texts = pc.fill_null(column, "")
        inside = _to_bools(pc.is_in(texts, value_set=pa.array(self.allowed, pa.string())))
        for root in self.allowed:
            inside |= _to_bools(pc.starts_with(texts, _prefix(root)))
        uncertain = _to_bools(pc.match_substring_regex(texts, _AMBIGUOUS))
        if not inside.all():
            web = _to_bools(pc.match_substring_regex(texts, _HTTP))
            inside, uncertain = (inside | web, uncertain & ~web) if self.http else (inside, uncertain | (web & ~inside))
        outside = ~inside
        for row in np.flatnonzero(uncertain).tolist():
            outside[row] = not self.allows(texts[row].as_py())
        return outside & _to_bools(column.is_valid())

    def refusal(self, uri: str, subject: str = "image_uri") -> str:
        """Describe why an image outside the roots is refused, and which root would allow it."""
        subject = f"{subject} {display_uri(uri)}"
        if _has_dot_segments(uri):
            return f"{subject} has . or .. between slashes, which servers interpret differently; give the URI without them"
        return f"{subject}{self._reason(_folder(uri))}"

    def refusals(self, outside_roots: pa.Array) -> pa.Array:
        """Return ``refusal(…)`` for a column of URIs outside the roots."""
        folders = pc.replace_substring_regex(outside_roots, _FOLDER, r"\1").dictionary_encode()
        reasons = pa.array([self._reason(folder) for folder in folders.dictionary.to_pylist()], pa.string())
        column = pc.binary_join_element_wise("image_uri '", outside_roots, "'", reasons.take(folders.indices), "")
        simple = pc.and_not(
            pc.match_substring_regex(outside_roots, _SIMPLE), pc.match_substring_regex(outside_roots, _AMBIGUOUS)
        )
        rest = np.flatnonzero(~_to_bools(simple)).tolist()
        if not rest:
            return column
        messages = column.to_pylist()
        for row in rest:
            messages[row] = self.refusal(outside_roots[row].as_py())
        return pa.array(messages, pa.string())

    def real_path(self, uri: str) -> str:
        """Return a local path without symbolic links, to be opened instead; any other URI unchanged.

        The checked path is the one that is opened, so no link is followed afterwards. Only a process that replaces folders
        below a root between the check and the open could still redirect it.

        Raises:
            ItemRefused: The symbolic links lead outside the roots.
        """
        if uris.scheme(uri):
            return uri
        path, fragment = split_member(uri)
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError):
            return uri  # opening it fails as well, with a better message
        if any(_is_below(real, os.path.realpath(root)) for root in self.allowed if not uris.scheme(root)):
            return real + fragment
        raise ItemRefused(
            f"image_uri {display_uri(uri)} leads through symbolic links to {display_uri(real)}, "
            f"which{self._reason(_folder(real))}"
        )

    def _reason(self, folder: str) -> str:
        if uris.scheme(folder) in uris.HTTP_SCHEMES:
            return f"{self._outside}; {suggest_allow_root(folder)}, or storage.http=true for every public web server"
        return f"{self._outside}; {suggest_allow_root(folder)} if it may be read"

    @cached_property
    def _outside(self) -> str:
        return f" lies outside the allowed roots ({_printable(str(self))})"


@dataclass
class OutsideRoots:
    """Counts the images of a manifest outside the allowed roots, by bucket, host or top-level folder."""

    rows: int = 0
    _origins: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, column: pa.Array) -> None:
        """Count these URIs."""
        self.rows += len(column)
        bare = pc.replace_substring_regex(column, _QUERY, r"\1")
        for entry in pc.replace_substring_regex(bare, _FOLDER, r"\1").value_counts().to_pylist():
            folder, origin = _folder_and_origin(entry["values"])
            count, common = self._origins.get(origin, (0, folder))
            if count or len(self._origins) < MAX_ORIGINS:
                self._origins[origin] = (count + entry["counts"], _common_folder(common, folder))

    def largest_group(self) -> tuple[str, int]:
        """Return the common folder and the number of the images of the most frequent origin."""
        count, folder = max(self._origins.values())
        return folder, count


def suggest_allow_root(root: str) -> str:
    """Return ``add --allow-root …`` for a message, quoted for a shell."""
    return f"add {allow_root(root)}"


def allow_root(root: str) -> str:
    """Return ``--allow-root …`` for a message, quoted for a shell."""
    copyable = root.isprintable() and len(root) <= MAX_SHOWN
    return f"--allow-root {shlex.quote(root)}" if copyable else "--allow-root with its folder"


def display_uri(uri: str, *, quoted: bool = True) -> str:
    """Prepare a URI for a message: remove secrets, shorten it, escape control and bidirectional characters."""
    return _printable(uris.redact(uri), quoted=quoted)


def _printable(text: str, *, quoted: bool = False) -> str:
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return repr(text) if quoted or not text.isprintable() else text


def parse_url(uri: str) -> yarl.URL:
    """Parse a web address without quoting it again if it is already percent-encoded, as signed addresses are.

    Raises:
        ValueError: It is not a web address.
    """
    return yarl.URL(uri, encoded="%" in uri)


def _normalize_root(root: str) -> str:
    uri = uris.check_utf8(uris.absolute(root))
    if uris.scheme(uri) in uris.HTTP_SCHEMES:
        if uris.redact(uri) != uri or _origin_and_path(uri) is None:
            raise ConfigError(
                f"the allowed root {uris.redact(uri)} must be a web address without user, password, query and dot segments"
            )
    elif _has_dot_segments(uri):
        raise ConfigError(f"the allowed root {uris.redact(uri)} has . or .. between slashes; give the URI without them")
    return uri.rstrip("/") or "/"


def _normalize(uri: str) -> str | None:
    """Remove dots and doubled slashes from an absolute path; None for relative paths and for URIs with dot segments."""
    if not uris.scheme(uri):
        return "/" + os.path.normpath(uri).lstrip("/") if uri.startswith("/") else None
    return None if _has_dot_segments(uri) else uri


def _has_dot_segments(uri: str) -> bool:
    """Check a URI of an object store: keys are literal, but a server or proxy may still fold dots."""
    return bool(uris.scheme(uri) and uris.scheme(uri) not in uris.HTTP_SCHEMES and _DOT_SEGMENT.search(uri.partition("://")[2]))


def _origin_and_path(uri: str) -> tuple[str, str] | None:
    """Split a web address into ``https://host:443`` and the decoded path; None if it is invalid or has dot segments."""
    try:
        address = parse_url(uri)
        path, host = unquote(address.raw_path), address.raw_host
        origin = f"{address.scheme}://{host.lower() if host else ''}:{address.port}"
    except ValueError:
        return None
    return None if not host or _DOT_SEGMENT.search(path) else (origin, path.rstrip("/") or "/")


def _prefix(root: str) -> str:
    return root.rstrip("/") + "/"


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(_prefix(root))


def _folder(uri: str) -> str:
    return re.sub(_FOLDER, r"\1", uris.redact(_normalize(uri) or uri))


@lru_cache(50_000)
def _folder_and_origin(uri: str) -> tuple[str, str]:
    """Return a folder without secrets, and its bucket, host or top-level folder."""
    folder = uris.redact(_normalize(uri) or uri)
    head, _, rest = folder.partition("://")
    return folder, f"{head}://{rest.partition('/')[0]}" if rest else "/" + folder.lstrip("/").partition("/")[0]


def _common_folder(first: str, second: str) -> str:
    """Return the folder that contains both of two folders with the same origin."""
    if _is_below(second, first):
        return first
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    return "/".join(left for left, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _to_bools(column: pa.Array) -> npt.NDArray[np.bool_]:
    return np.array(column, dtype=np.bool_)

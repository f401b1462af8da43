"""Where images may come from: anybody may have written a manifest, so a run reads below its allowed roots and nowhere else.

A root is a folder, a prefix or a web folder: the manifest's own, and what ``storage.allow_roots`` names. There are three
looks, each at the first moment when the answer is known: at a row's text (``outside``), at a path's symbolic links right
before it is opened (``real_path``), and at a web server's address when it is connected to (``web.py``).
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yarl

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, ItemRefused
from pipeline.storage import uris

# What two readers may take for two places: dots, doubled slashes, control characters, and in a web address whatever may
# decode to them. Texts without any of it are compared letter by letter.
_KNOTTY = r"/\.{1,2}(?:/|$)|^/(?:.*/)?/|/$|[\x00-\x1f\x7f]|^https?://[^?#]*[\\%;]"
_WEB = r"^https?://"
_DOTS = re.compile(r"(?:^|[/\\;])\.{1,2}(?:$|[/\\;])")
_QUERY = r"(?s)^(https?://[^?#]*).*$"
_FOLDER = r"(?s)([^/])/[^/]*$"
# Texts that Python's repr would leave as they are, of a length that leaves room for the rest of the sentence.
_PLAIN = r"^(?:/|s3://[a-z0-9.-]{1,63}/)[ -&(-\[\]-~]{1,120}$"

LONGEST_SHOWN = 200
ORIGINS = 1000
"""Buckets, hosts and top folders that are counted apart; a manifest that names more is hostile or hopeless."""


@dataclass(frozen=True)
class AllowList:
    """The allowed roots. Travels to the workers."""

    allowed: tuple[str, ...]
    """Absolute paths and URIs without a trailing slash; the manifest's folder comes first."""
    http: bool = False
    """Images on any public web server are allowed as well."""

    @classmethod
    def of(cls, storage: Storage, base: str | None = None) -> AllowList:
        """The manifest's folder ``base`` and what the settings name.

        Raises:
            ConfigError: a root is no path or URI, or a web address with credentials or a query.
        """
        named = [_settled(root) for root in storage.allow_roots]
        return cls(tuple(dict.fromkeys([base, *named] if base else named)), storage.http)

    def __str__(self) -> str:
        more = f" and {len(self.allowed) - 3} more" if len(self.allowed) > 3 else ""
        return (", ".join(self.allowed[:3]) or "none") + more

    def allows(self, uri: str) -> bool:
        """An absolute path or URI lies below a root, by its text: ``a/../b`` is ``b``, and ``cats`` isn't below ``cat``."""
        if uris.scheme(uri) in uris.WEB:
            return self.http or self.names(uri)
        backend = _folded(uri)
        return backend is not None and any(_lies_below(backend, root) for root in self.allowed)

    def names(self, uri: str) -> bool:
        """A root names this web address' host, and the address lies below it."""
        asked = _web_place(uri)
        allowlist = (_web_place(root) for root in self.allowed if uris.scheme(root) in uris.WEB)
        return asked is not None and any(
            root is not None and asked[0] == root[0] and _lies_below(asked[1], root[1]) for root in allowlist
        )

    def outside(self, places: pa.Array) -> npt.NDArray[np.bool_]:
        """``not admits`` for a column of strings; false where null."""
        texts = pc.fill_null(places, "")
        inside = _flags(pc.is_in(texts, value_set=pa.array(self.allowed, pa.string())))
        for root in self.allowed:
            inside |= _flags(pc.starts_with(texts, _prefix(root)))
        knotty = _flags(pc.match_substring_regex(texts, _KNOTTY))
        doubtful = knotty.copy()
        if not inside.all():
            web = _flags(pc.match_substring_regex(texts, _WEB))
            inside, doubtful = (inside | web, doubtful & ~web) if self.http else (inside, doubtful | (web & ~inside))
        outside = ~inside
        for row in np.flatnonzero(doubtful).tolist():
            outside[row] = not self.allows(texts[row].as_py())
        return outside & _flags(places.is_valid())

    def refusal(self, uri: str, what: str = "image_uri") -> str:
        """Why an image that lies outside can't be had, and what to do, in one sentence."""
        named = f"{what} {shortened(uri)}"
        if _dotted(uri):
            return f"{named} holds . or .. between slashes, which servers read differently; write the plain address"
        return f"{named}{self._verdict(_folder(uri))}"

    def refusals(self, outside_roots: pa.Array) -> pa.Array:
        """``refusal`` for a column of URIs that lie outside."""
        folders = pc.replace_substring_regex(outside_roots, _FOLDER, r"\1").dictionary_encode()
        verdicts = pa.array([self._verdict(folder) for folder in folders.dictionary.to_pylist()], pa.string())
        made = pc.binary_join_element_wise("image_uri '", outside_roots, "'", verdicts.take(folders.indices), "")
        plain = pc.and_not(pc.match_substring_regex(outside_roots, _PLAIN), pc.match_substring_regex(outside_roots, _KNOTTY))
        odd = np.flatnonzero(~_flags(plain)).tolist()
        if not odd:
            return made
        sentences = made.to_pylist()
        for row in odd:
            sentences[row] = self.refusal(outside_roots[row].as_py())
        return pa.array(sentences, pa.string())

    def real_path(self, uri: str) -> str:
        """A local path without symbolic links, to be opened in its place; any other URI as it is.

        What is opened is the very path that was judged, and it has no links left to follow. Only who can exchange folders
        below a root between the two steps, while the run is at work, could still lead it elsewhere.

        Raises:
            ItemRefused: the links lead out of the roots.
        """
        if uris.scheme(uri):
            return uri
        try:
            real = os.path.realpath(uri)
        except (OSError, ValueError):
            return uri  # it can't be opened either, and the attempt says why
        if any(_lies_below(real, os.path.realpath(root)) for root in self.allowed if not uris.scheme(root)):
            return real
        raise ItemRefused(
            f"image_uri {shortened(uri)} leads through symbolic links to {shortened(real)}, which{self._verdict(_folder(real))}"
        )

    def _verdict(self, folder: str) -> str:
        if uris.scheme(folder) in uris.WEB:
            return f"{self._outside}; {mended(folder)}, or storage.http=true for every public web server"
        return f"{self._outside}; {mended(folder)} if it may be read"

    @cached_property
    def _outside(self) -> str:
        return f" lies outside the allowed roots ({_clipped(str(self))})"


@dataclass
class OutsideRoots:
    """What a manifest asks for outside the allowed roots: how many rows, and below which folders most of them lie."""

    rows: int = 0
    _origins: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, outside_roots: pa.Array) -> None:
        """Count these URIs."""
        self.rows += len(outside_roots)
        bare = pc.replace_substring_regex(outside_roots, _QUERY, r"\1")
        for entry in pc.replace_substring_regex(bare, _FOLDER, r"\1").value_counts().to_pylist():
            folder, origin = _shown_folder(entry["values"])
            count, common = self._origins.get(origin, (0, folder))
            if count or len(self._origins) < ORIGINS:
                self._origins[origin] = (count + entry["counts"], _common(common, folder))

    def most(self) -> tuple[str, int]:
        """The folder that holds all strays of the most frequent bucket, host or top folder, and their number."""
        count, folder = max(self._origins.values())
        return folder, count


def mended(root: str) -> str:
    """``add --allow-root …`` for a person to copy."""
    copyable = root.isprintable() and len(root) <= LONGEST_SHOWN
    return f"add --allow-root {shlex.quote(root)}" if copyable else "add --allow-root with its folder"


def shortened(uri: str, *, quoted: bool = True) -> str:
    """For a message: without secrets, not endless, and nothing in it that moves a cursor or turns the text around."""
    return _clipped(uris.shown(uri), quoted=quoted)


def _clipped(text: str, *, quoted: bool = False) -> str:
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    return repr(text) if quoted or not text.isprintable() else text


def web_address(uri: str) -> yarl.URL:
    """A web address as it is sent. What is quoted already, a signed one above all, must not be quoted anew.

    Raises:
        ValueError: it is none.
    """
    return yarl.URL(uri, encoded="%" in uri)


def _settled(root: str) -> str:
    backend = uris.absolute(root)
    if uris.scheme(backend) in uris.WEB:
        if uris.shown(backend) != backend or _web_place(backend) is None:
            raise ConfigError(
                f"the allowed root {uris.shown(backend)} must be a plain web address, without user, password, query and dots"
            )
    elif _dotted(backend):
        raise ConfigError(f"the allowed root {uris.shown(backend)} holds . or .. between slashes; write the plain address")
    return backend.rstrip("/") or "/"


def _folded(uri: str) -> str | None:
    """An absolute path without dots and doubled slashes; a URI as it is. None: it is relative, or has dots to climb with."""
    if not uris.scheme(uri):
        return "/" + os.path.normpath(uri).lstrip("/") if uri.startswith("/") else None
    return None if _dotted(uri) else uri


def _dotted(uri: str) -> bool:
    """Keys are literal, but whether a store, or what stands in front of it, folds dots is known only to itself."""
    return bool(uris.scheme(uri)) and uris.scheme(uri) not in uris.WEB and bool(_DOTS.search(uri.partition("://")[2]))


def _web_place(uri: str) -> tuple[str, str] | None:
    """``https://host:443`` and the decoded path; None where it has none, or one that a server may take for another."""
    try:
        address = web_address(uri)
        path, host = unquote(address.raw_path), address.raw_host
        origin = f"{address.scheme}://{host.lower() if host else ''}:{address.port}"
    except ValueError:
        return None
    return None if not host or _DOTS.search(path) else (origin, path.rstrip("/") or "/")


def _prefix(root: str) -> str:
    return root.rstrip("/") + "/"


def _lies_below(backend: str, root: str) -> bool:
    return backend == root or backend.startswith(_prefix(root))


def _folder(uri: str) -> str:
    return re.sub(_FOLDER, r"\1", uris.shown(_folded(uri) or uri))


@lru_cache(50_000)
def _shown_folder(written: str) -> tuple[str, str]:
    """A folder as it may be shown, and its bucket, host or top folder."""
    folder = uris.shown(_folded(written) or written)
    head, _, rest = folder.partition("://")
    return folder, f"{head}://{rest.partition('/')[0]}" if rest else "/" + folder.lstrip("/").partition("/")[0]


def _common(one: str, other: str) -> str:
    """The folder that holds both; they have an origin in common."""
    if _lies_below(other, one):
        return one
    shared: list[str] = []
    for left, right in zip(one.split("/"), other.split("/"), strict=False):
        if left != right:
            break
        shared.append(left)
    return "/".join(shared)


def _flags(column: pa.Array) -> npt.NDArray[np.bool_]:
    return np.array(column, dtype=np.bool_)

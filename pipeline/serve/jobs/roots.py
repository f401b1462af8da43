"""Check where a job reads and writes: below the roots that the service was started with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, ItemRefused
from pipeline.serve.refusals import RequestRefused
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList

RECORDS = "_matteline-jobs"
"""Folder of the jobs' records, directly below a root for writing."""

_ODD = re.compile(r"[*?\[\]#\\\x00-\x1f\x7f]")
"""Patterns, pictures inside other files, and what storages interpret differently: an address of a job has none of them."""


@dataclass(frozen=True)
class Place:
    """An address that may be used.

    Attributes:
        uri: Absolute, and without symbolic links.
        root: The root that allows it.
    """

    uri: str
    root: str


@dataclass(frozen=True)
class Roots:
    """Folders and prefixes below which requests may name addresses. Web addresses allow pictures only."""

    allowed: tuple[str, ...]

    @classmethod
    def of(cls, roots: tuple[str, ...]) -> Roots:
        """Make the roots absolute.

        Raises:
            ConfigError: One of them is not a path or URI.
        """
        return cls(tuple(root for root in AllowList.of(Storage(allow_roots=roots)).allowed if not _is_web(root)))

    def find(self, given: str, what: str, option: str) -> Place:
        """Return where an address of a request leads.

        Args:
            given: The address.
            what: Its name in messages.
            option: The option of ``matteline serve`` that allows addresses.

        Raises:
            RequestRefused: 400 or 403: it is not an address, or below no root.
        """
        odd = RequestRefused(400, "request", f"{what}: an address has none of * ? [ ] # \\ and no control characters")
        if _ODD.search(given):
            raise odd
        try:
            uri = uris.absolute(given)
        except (ConfigError, ValueError):
            raise RequestRefused(400, "request", f"{what}: not a path or URI that can be used") from None
        for root in self.allowed:
            within = AllowList((root,))
            try:
                real = within.real_path(uri) if within.allows(uri) else None
            except ItemRefused:  # symbolic links lead out of this root
                continue
            if real is not None:
                if _ODD.search(real):  # decoded from %2A in file://…, or the name of a link's target
                    raise odd
                return Place(real, root)
        raise RequestRefused(403, "address", f"{what}: this address is not below a root of the service ({option})")


def check_inside(place: Place) -> None:
    """Refuse an output that is a root itself, or that would mix with the records of jobs.

    Raises:
        RequestRefused: 403.
    """
    names = place.uri.removeprefix(_real_root(place)).strip("/").split("/")
    if not names[0] or RECORDS in names:  # deeper ones are those of a root below this one
        raise RequestRefused(403, "address", "output: name a folder below the root, such as …/spring")


def _real_root(place: Place) -> str:
    return AllowList((place.root,)).real_path(place.root)


def _is_web(root: str) -> bool:
    return uris.scheme(root) in uris.HTTP_SCHEMES

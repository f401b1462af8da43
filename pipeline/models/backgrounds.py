"""Fetch and check the background pictures of renditions before a run. They then travel with the work.

So a picture that changes during a run has no effect, and workers need not reach it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.job import Limits
from pipeline.config.rendition import Rendition
from pipeline.errors import ConfigError, DecodeError, FetchError
from pipeline.imaging.decode import decode
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

Backgrounds = dict[str, bytes]
"""Files by their SHA-256."""


def pin_backgrounds(renditions: Sequence[Rendition], files: Files, limits: Limits) -> tuple[tuple[Rendition, ...], Backgrounds]:
    """Return the renditions with the hashes of their pictures, and the pictures.

    Raises:
        ConfigError: A background cannot be read, is no picture, exceeds the limits, or has another hash.
    """
    pinned, pictures = [], Backgrounds()
    for rendition in renditions:
        if rendition.picture is None:
            pinned.append(rendition)
            continue
        data = _fetched(rendition.name, rendition.picture, files, limits)
        sha256 = hashlib.sha256(data).hexdigest()
        if rendition.background_sha256 not in {None, sha256}:
            raise ConfigError(
                f"the background of rendition {rendition.name} hashes to {sha256}, but its background_sha256 is "
                f"{rendition.background_sha256}; correct the hash or the file"
            )
        pictures[sha256] = data
        pinned.append(rendition.model_copy(update={"background_sha256": sha256}))
    return tuple(pinned), pictures


def _fetched(name: str, picture: str, files: Files, limits: Limits) -> bytes:
    try:
        uri = files.absolute(picture)
        # Recipes are trusted, unlike manifests: what a recipe names may be read.
        allowlist = (
            (*files.storage.allow_roots, redact(uri)) if uri.startswith(("http://", "https://")) else files.storage.allow_roots
        )
        trusted = replace(files, storage=files.storage.model_copy(update={"allow_roots": allowlist}))
        data = trusted.read(uri, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
        decode(data, limits)
    except (FetchError, DecodeError) as error:
        raise ConfigError(f"the background of rendition {name} cannot be used: {redact(picture)}: {error}") from error
    return data

"""Fetch and check the background pictures of renditions and videos before a run. They then travel with the work.

So a picture that changes during a run has no effect, and workers need not reach it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.job import Limits
from pipeline.config.recipe import Recipe
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
        what = f"the background of rendition {rendition.name}"
        data = _fetched(what, rendition.picture, files, limits)
        sha256 = _hashed(what, data, rendition.background_sha256, "its background_sha256")
        pictures[sha256] = data
        pinned.append(rendition.model_copy(update={"background_sha256": sha256}))
    return tuple(pinned), pictures


def pin_video_background(
    recipe: Recipe, files: Files, limits: Limits, what: str = "recipe.video_background"
) -> tuple[Recipe, Backgrounds]:
    """Return the recipe with the hash of the picture behind videos, and the picture; no picture for a colour.

    Args:
        recipe: The recipe.
        files: Access to storage.
        limits: Limits of the picture.
        what: The setting or option that names it, for errors.

    Raises:
        ConfigError: The picture cannot be read, is none, exceeds the limits, or has another hash.
    """
    if recipe.video_picture is None:
        return recipe, {}
    try:
        data = _fetched(what, recipe.video_picture, files, limits)
    except ConfigError as error:
        raise ConfigError(f'{error}, or give a colour such as "#f4f1ea", white or black') from error.__cause__
    sha256 = _hashed(what, data, recipe.video_background_sha256, f"{what}_sha256")
    return recipe.model_copy(update={"video_background_sha256": sha256}), {sha256: data}


def _fetched(what: str, picture: str, files: Files, limits: Limits) -> bytes:
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
        raise ConfigError(f"{what} cannot be used: {redact(picture)}: {error}") from error
    return data


def _hashed(what: str, data: bytes, expected: str | None, setting: str) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in {None, sha256}:
        raise ConfigError(f"{what} hashes to {sha256}, but {setting} is {expected}; correct the hash or the file")
    return sha256

"""Locate the photos of an output, and allow reading them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import StorageError
from pipeline.manifest.listing import is_pattern, split_pattern
from pipeline.output.output import Output
from pipeline.output.run_record import last_run
from pipeline.storage.allowlist import AllowList
from pipeline.storage.uris import parent


def manifest_folder(output: Output) -> str | None:
    """Return the folder of the last run's manifest, below which relative paths of that manifest are; None without a run.

    Raises:
        StorageError: The run records cannot be listed.
    """
    manifest = (last_run(output) or {}).get("manifest")
    if not isinstance(manifest, str) or not manifest:
        return None
    try:
        if output.files.is_folder(manifest):
            return manifest
        if is_pattern(manifest, output.files):
            return split_pattern(manifest, output.files)[0]
    except StorageError:
        pass
    return parent(manifest)


def photo_roots(output: Output, allow_roots: Sequence[str]) -> AllowList:
    """Return the roots from which photos may be read: the folder of the last run's manifest, the settings and the options.

    Raises:
        ConfigError: A root is not a path or URI.
        StorageError: The run records cannot be listed.
    """
    files = output.files
    storage = files.storage.model_copy(update={"allow_roots": (*files.storage.allow_roots, *allow_roots)})
    return AllowList.of(storage, manifest_folder(output))

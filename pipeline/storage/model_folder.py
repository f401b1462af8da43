"""Fetch the files of a model that is stored as a folder, as on the Hugging Face hub, and pin them by one hash.

Only the named files are used, whatever else the folder holds. They are linked into a folder of their own in the cache.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import PipelineError, WeightsError
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name, redact, scheme
from pipeline.storage.weights_cache import baked_hub_cache, cache_folder, fetch_weights, file_sha256, hub_cache, hub_errors

HUB_FORM = "hf://owner/repository@revision"


def fetch_folder(uri: str, names: Sequence[str], required: Sequence[str], sha256: str | None, files: Files) -> tuple[Path, str]:
    """Return a local folder with the named files of a model, and their common hash.

    Args:
        uri: A local folder, ``s3://…`` (or another fsspec scheme), or ``hf://owner/repository@revision``.
        names: The files that may be used.
        required: Those that must be there.
        sha256: The expected hash, see ``folder_sha256``.
        files: Settings of the storage.

    Raises:
        WeightsError: A file is missing or unreachable, or the hash differs.
    """
    kind = scheme(uri)
    if kind in ("http", "https"):
        raise WeightsError(f"{redact(uri)}: a web address has no folders; give a local folder, s3://… or {HUB_FORM}")
    if kind == "hf":
        found = _from_hub(uri, names, required)
    elif kind in ("", "file"):
        found = _in_folder(Path(files.absolute(uri)), names)
    else:
        found = _from_store(uri, names, files)
    if missing := [one for one in required if one not in found]:
        raise WeightsError(f"{redact(uri)} has no {' and no '.join(missing)}; give a folder as the Hugging Face hub has it")
    actual = folder_sha256({one: file_sha256(path) for one, path in found.items()})
    if sha256 is not None and actual != sha256:
        raise WeightsError(f"the files in {redact(uri)} hash to {actual}, not to the expected {sha256}; download them again")
    return _linked(found, actual), actual


def folder_sha256(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of a folder: that of the output of ``sha256sum`` for its files, sorted by name."""
    lines = "".join(f"{digest}  {one}\n" for one, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _in_folder(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder; give the folder that holds config.json and model.safetensors")
    return {one: (folder / one).resolve() for one in names if (folder / one).is_file()}


def _from_store(uri: str, names: Sequence[str], files: Files) -> dict[str, Path]:
    """Download the named files below a prefix into the cache of weights."""
    try:
        listed = {name(one.uri) for one in files.list(uri) if one.uri == join(uri, name(one.uri))}
    except PipelineError as error:
        raise WeightsError(f"{redact(uri)} can't be listed: {error}") from error
    return {one: fetch_weights(join(uri, one), None, files)[0] for one in names if one in listed}


def _from_hub(uri: str, names: Sequence[str], required: Sequence[str]) -> dict[str, Path]:
    """Download the named files of a repository into the hub's cache. A cached commit needs no network."""
    repository, revision = _hub_names(uri)
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    baked = baked_hub_cache()
    is_commit = re.fullmatch("[0-9a-f]{40}", revision) is not None  # a branch may have moved since it was cached
    for cache in [*([baked] if baked is not None else []), *([hub_cache()] if is_commit else [])]:
        try:
            cached = snapshot_download(repository, revision=revision, cache_dir=cache, local_files_only=True)
        except (hub.LocalEntryNotFoundError, OSError, ValueError):
            continue
        found = _in_folder(Path(cached), names)
        if all(one in found for one in required):
            return found
    with hub_errors(f"the detector {uri}", revision, HUB_FORM, _without_hub(repository, revision)):
        folder = snapshot_download(repository, revision=revision, cache_dir=hub_cache(), allow_patterns=list(names))
    return _in_folder(Path(folder), names)


def _without_hub(repository: str, revision: str) -> str:
    return (
        f"; where there is access, run: hf download {repository} --revision {revision} --local-dir FOLDER, copy the folder "
        "here, and add --set recipe.detector.weights=FOLDER"
    )


def _hub_names(uri: str) -> tuple[str, str]:
    """Split ``hf://owner/repository@revision`` into repository and revision."""
    repository, _, revision = uri.partition("://")[2].partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise WeightsError(f"{redact(uri)} is not of the form {HUB_FORM}")
    return repository, revision or "main"


def _linked(found: Mapping[str, Path], sha256: str) -> Path:
    """Return a folder of links to these files in the cache. Its name is their hash."""
    folder = cache_folder("models") / sha256
    if all((folder / one).exists() for one in found):
        return folder
    temporary = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        for one, path in found.items():
            try:
                (temporary / one).symlink_to(path)
            except OSError:  # Windows allows links to administrators only
                shutil.copyfile(path, temporary / one)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            if not all((folder / one).exists() for one in found):
                raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"{folder} can't be written ({reason}); set MATTELINE_CACHE to a writable folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder

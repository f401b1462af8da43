"""Download weights files once per machine, verify their hashes, and return local paths.

Downloads are stored as ``<cache>/weights/<sha256>/<name>``, where ``<cache>`` is ``$MATTELINE_CACHE`` or
``~/.cache/matteline``. Local files are used in place, and files of the Hugging Face hub in the hub's own cache. A read-only
cache of a container image, ``$MATTELINE_BAKED``, is searched first for files with a known hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import FetchError, StorageError, WeightsError
from pipeline.log import Waiting, waiting_for
from pipeline.storage.files import Files
from pipeline.storage.retry import with_retries
from pipeline.storage.uris import HTTP_SCHEMES, name, redact, scheme, strip_signature

MEGABYTE = 10**6

CHUNK_BYTES = 8 * 1024 * 1024

DOWNLOAD_TIMEOUT_S = 1800.0
"""Seconds for one file, with retries and the wait for another process that downloads it."""

_HUB_FORM = "hf://owner/repository/file@revision"


def fetch_weights(uri: str, sha256: str | None, files: Files) -> tuple[Path, str]:
    """Return the local path of a weights file and its SHA-256.

    Args:
        uri: A local path, ``s3://…`` (or another fsspec scheme), ``https://…``, ``http://…`` (only with a hash), or
            ``hf://owner/repository/file@revision`` (default revision: ``main``).
        sha256: The expected hash. With it, a cached file needs no network.
        files: Settings of the storage.

    Raises:
        WeightsError: The file is missing, forbidden or unreachable, or it has another hash.
    """
    kind = scheme(uri)
    if kind == "http" and sha256 is None:
        raise WeightsError(f"{redact(uri)} could be modified in transit; use https:// or give recipe.weights_sha256")
    if kind in ("", "file"):
        path = Path(files.absolute(uri))
    else:
        path = _baked(uri, sha256) or (_from_hub(uri) if kind == "hf" else _from_cache(uri, sha256, files))
    actual = file_sha256(path)
    if sha256 is not None and actual != sha256:
        raise _mismatch(uri, actual, sha256)
    return path, actual


def is_cached(uri: str, sha256: str | None, files: Files) -> bool:
    """Check whether ``fetch_weights`` finds the file on this machine, without network access."""
    kind = scheme(uri)
    if kind in ("", "file"):
        return Path(files.absolute(uri)).is_file()
    if _baked(uri, sha256) is not None:
        return True
    cached = _in_hub_cache(uri, hub_cache()) if kind == "hf" else _cached(cache_folder(), sha256, uri)
    return cached is not None


def cache_folder(kind: str = "weights") -> Path:
    """Return the cache folder for downloads (``weights``) or for files derived from them (``graphs``)."""
    chosen = os.environ.get("MATTELINE_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "matteline") / kind


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex, cached until its size, inode, or time of modification or change differs.

    The time of modification can be set by anyone who may write the file. The time of change cannot.

    Raises:
        WeightsError: The file is missing, a folder or unreadable.
    """
    try:
        status = path.stat()
        version = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        record = cache_folder() / "hashes" / f"{_key(str(path.absolute()))}.json"
        known = _read_record(record)
        if known.get("mark") == version:
            return str(known["sha256"])
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except IsADirectoryError:
        raise WeightsError(f"weights {path} is a folder; name the file in it") from None
    except FileNotFoundError:
        raise WeightsError(f"weights {path} does not exist; correct recipe.weights") from None
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read: {error.strerror or type(error).__name__}") from error
    # A recent file could change again within the resolution of its modification time.
    if time.time() - max(status.st_mtime, status.st_ctime) > 2:
        with contextlib.suppress(OSError):
            _write_record(record, {"mark": version, "sha256": sha256})
    return sha256


def _from_cache(uri: str, sha256: str | None, files: Files) -> Path:
    folder, key = cache_folder(), _key(strip_signature(uri))
    cached = _cached(folder, sha256, uri)
    if cached is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_new = _cached(folder, _read_record(folder / f"{key}.json").get("sha256"), uri) is None
        with (
            waiting_for(f"downloading {name(redact(uri))}", at_once=is_new) as waiting,
            FileLock(folder / f"{key}.lock", timeout=DOWNLOAD_TIMEOUT_S),
        ):
            # Another process may have downloaded it in the meantime.
            return _cached(folder, sha256, uri) or _download(uri, sha256, files, folder, folder / f"{key}.json", waiting)
    except Timeout:
        raise WeightsError(
            f"another process has been downloading {redact(uri)} for {DOWNLOAD_TIMEOUT_S:g} s; check that process"
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(
            f"weights can't be stored in {folder} ({reason}); set MATTELINE_CACHE to a writable folder with free space"
        ) from error


def _baked(uri: str, sha256: str | None) -> Path | None:
    """Find a file with this hash in the read-only cache of the container image."""
    baked = os.environ.get("MATTELINE_BAKED")
    if not baked or sha256 is None:
        return None
    if scheme(uri) != "hf":
        return _cached(Path(baked) / "weights", sha256, uri)
    path = _in_hub_cache(uri, Path(baked) / "huggingface")
    return path if path is not None and file_sha256(path) == sha256 else None


def _cached(folder: Path, sha256: str | None, uri: str) -> Path | None:
    """Find an undamaged file with this hash in a cache."""
    if sha256 is None:
        return None
    path = folder / sha256 / name(redact(uri))
    return path if path.is_file() and file_sha256(path) == sha256 else None


def _download(uri: str, sha256: str | None, files: Files, folder: Path, record: Path, waiting: Waiting) -> Path:
    """Download a file into the cache, unless the cached file is current. The hash is computed while it arrives."""
    last = _read_record(record)
    cached = _cached(folder, last.get("sha256"), uri)
    known_etag = str(last.get("etag", "")) if cached is not None and sha256 is None else ""
    temporary = folder / f".{secrets.token_hex(8)}.tmp"

    def attempt(left: float) -> tuple[str, str] | None:
        hasher, counter = hashlib.sha256(), _Counter(waiting)
        with temporary.open("wb") as file:

            def write(chunk: bytes) -> None:
                hasher.update(chunk)
                file.write(chunk)
                counter.add(len(chunk))

            if scheme(uri) in HTTP_SCHEMES:
                from pipeline.storage.http import download

                allow_http = sha256 is not None or scheme(uri) == "http"
                etag = download(uri, known_etag, write, left, allow_http=allow_http, expect=counter.expect)
            else:
                etag = _copy_object(uri, known_etag, write, files, counter.expect)
        return None if etag is None else (hasher.hexdigest(), etag)

    try:
        downloaded = with_retries(uri, WeightsError, attempt, DOWNLOAD_TIMEOUT_S, tries=4)
        if downloaded is None:
            assert cached is not None
            return cached
        actual, etag = downloaded
        if sha256 is not None and actual != sha256:
            raise _mismatch(uri, actual, sha256)
        path = folder / actual / name(redact(uri))
        path.parent.mkdir(exist_ok=True)
        temporary.replace(path)
    except (StorageError, FetchError) as error:
        raise WeightsError(f"weights can't be downloaded: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    _write_record(record, {"uri": strip_signature(uri), "etag": etag, "sha256": actual})
    return path


class _Counter:
    """Says how much of a file has arrived, in megabytes."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting, self.done = waiting, 0
        self.total: int | None = None

    def expect(self, size: int | None) -> None:
        """Take note of the file's size in bytes, if it is known."""
        self.total = size

    def add(self, count: int) -> None:
        """Count bytes that have arrived."""
        self.done += count
        self.waiting.count(self.done // MEGABYTE, "MB", None if self.total is None else self.total // MEGABYTE)


def _copy_object(
    uri: str, known_etag: str, write: Callable[[bytes], None], files: Files, expect: Callable[[int | None], None]
) -> str | None:
    """Pass an object to ``write`` in chunks and return its ETag; None if it still has ``known_etag``."""
    found = files.stat(uri)
    etag = found.etag
    if known_etag and etag == known_etag:
        return None
    expect(found.size)
    with files.open_input(uri, sequential=True) as file:
        while chunk := file.read(CHUNK_BYTES):
            write(chunk)
    return etag


def _from_hub(uri: str) -> Path:
    """Download a file of the Hugging Face hub into the hub's own cache. A cached commit needs no network."""
    repository, file, revision = _hub_names(uri)
    from huggingface_hub import hf_hub_download

    is_new = _in_hub_cache(uri, hub_cache()) is None
    with hub_errors(f"weights {uri}", revision, _HUB_FORM), waiting_for(f"downloading {file}", at_once=is_new) as waiting:
        settings: dict[str, Any] = {"revision": revision, "cache_dir": hub_cache()}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # older clients show their own bar
            settings["tqdm_class"] = _counting_bar(_Counter(waiting))
        return Path(hf_hub_download(repository, file, **settings))


def _counting_bar(counter: _Counter) -> type:
    """Return a progress bar for the hub's client that shows nothing, and counts what arrives."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # the hub's client needs it, too

    class CountingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *given: Any, **settings: Any) -> None:
            super().__init__(*given, **(settings | {"disable": True}))
            counter.expect(settings.get("total"))
            counter.add(settings.get("initial") or 0)

        def update(self, n: float | None = 1) -> Any:
            counter.add(int(n or 0))
            return super().update(n)

    return CountingBar


@contextlib.contextmanager
def hub_errors(subject: str, revision: str, form: str, without_hub: str = "") -> Iterator[None]:
    """Map the errors of a download from the Hugging Face hub.

    Args:
        subject: What is downloaded.
        revision: Its revision.
        form: The form of such addresses.
        without_hub: What to do if the hub cannot be reached, after a semicolon.

    Raises:
        WeightsError: In one sentence.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError:
        raise WeightsError(f"{subject}: its owner must grant access; request it on its page and set HF_TOKEN") from None
    except hub.LocalEntryNotFoundError:
        raise WeightsError(
            f"{subject}: the Hugging Face hub can't be reached, and the file isn't cached{without_hub}"
        ) from None
    except hub.RepositoryNotFoundError:
        raise WeightsError(
            f"{subject}: the repository does not exist or is private; correct recipe.weights or set HF_TOKEN"
        ) from None
    except (hub.RevisionNotFoundError, hub.EntryNotFoundError):
        raise WeightsError(f"{subject}: no such file at revision {revision!r}; correct recipe.weights") from None
    except (OSError, ValueError, hub.HTTPError) as error:  # type: ignore[attr-defined]  # of the hub's own httpx
        raise WeightsError(
            f"{subject} can't be downloaded ({type(error).__name__}); the form is {form}{without_hub}"
        ) from error


def _in_hub_cache(uri: str, folder: Path | None) -> Path | None:
    """Find a file in a cache of the Hugging Face hub, without network access."""
    from huggingface_hub import try_to_load_from_cache

    repository, file, revision = _hub_names(uri)
    path = try_to_load_from_cache(repository, file, cache_dir=folder, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _hub_names(uri: str) -> tuple[str, str, str]:
    """Split a hub URI into repository, file and revision."""
    path, _, revision = uri.partition("://")[2].partition("@")
    parts = path.split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise WeightsError(f"{redact(uri)} is not of the form {_HUB_FORM}")
    return f"{parts[0]}/{parts[1]}", parts[2], revision or "main"


def hub_cache() -> Path | None:
    """Return the cache of files of the Hugging Face hub; None for the hub's own default."""
    chosen = os.environ.get("MATTELINE_CACHE")
    return Path(chosen) / "huggingface" if chosen else None


def baked_hub_cache() -> Path | None:
    """Return the read-only cache of files of the hub in a container image; None if there is none."""
    baked = os.environ.get("MATTELINE_BAKED")
    return Path(baked) / "huggingface" if baked else None


def _mismatch(uri: str, actual: str, expected: str) -> WeightsError:
    return WeightsError(
        f"weights {redact(uri)} hash to {actual}, but recipe.weights_sha256 is {expected}; "
        "correct recipe.weights or recipe.weights_sha256, or replace the damaged file"
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_record(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)

"""Weights files: from wherever they are to a local path, once a machine, and never without their hash.

``<cache>/weights/<sha256>/<name>`` holds what was downloaded; ``<cache>`` is ``$MATTELINE_CACHE`` or ``~/.cache/matteline``.
Local files are used where they are, and files of the Hugging Face hub in its own cache. A cache that a container image has
brought along, ``$MATTELINE_BAKED``, is looked at first for what is pinned, and never written.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import StorageError, WeightsError
from pipeline.storage.errors import WebStatus
from pipeline.storage.files import Files
from pipeline.storage.retry import with_retries
from pipeline.storage.uris import WEB, name, scheme, shown, unsigned

CHUNK = 8 * 1024 * 1024
DOWNLOAD_S = 1800.0
"""How long one file may take, faults and waiting for another process included."""
SOCKET_S = 60.0

_HUB_FORM = "hf://owner/repository/file@revision"


def fetch_weights(uri: str, sha256: str | None, files: Files) -> tuple[Path, str]:
    """The file as a local path, and its SHA-256.

    Args:
        uri: a local path, ``s3://…`` (or another fsspec scheme), ``hf://owner/repository/file@revision`` (revision
            ``main`` if absent), ``https://…``; ``http://…`` only together with a hash.
        sha256: what it must hash to; with it, a file that is here already needs no network.

    Raises:
        WeightsError: missing, forbidden, unreachable, or of another hash.
    """
    kind = scheme(uri)
    if kind == "http" and sha256 is None:
        raise WeightsError(f"{shown(uri)} could be changed on its way; use https:// or give recipe.weights_sha256")
    if kind in ("", "file"):
        path = Path(files.absolute(uri))
    else:
        path = _baked(uri, sha256) or (_from_hub(uri) if kind == "hf" else _from_cache(uri, sha256, files))
    found = file_sha256(path)
    if sha256 is not None and found != sha256:
        raise _mismatch(uri, found, sha256)
    return path, found


def at_hand(uri: str, sha256: str | None, files: Files) -> bool:
    """Whether ``fetch_weights`` finds the file on this machine, without asking anybody."""
    kind = scheme(uri)
    if kind in ("", "file"):
        return Path(files.absolute(uri)).is_file()
    if _baked(uri, sha256) is not None:
        return True
    return _in_hub_cache(uri, _hub_cache()) is not None if kind == "hf" else _kept(cache_folder(), sha256, uri) is not None


def cache_folder(kind: str = "weights") -> Path:
    """Where downloads are kept, or (``graphs``) what is made of them."""
    chosen = os.environ.get("MATTELINE_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "matteline") / kind


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hex; remembered for as long as its size, time and inode stay the same.

    Raises:
        WeightsError: it is missing, a folder or unreadable.
    """
    try:
        status = path.stat()
        mark = [status.st_size, status.st_mtime_ns, status.st_ino]
        note = cache_folder() / "hashes" / f"{_key(str(path.absolute()))}.json"
        known = _recall(note)
        if known.get("mark") == mark:
            return str(known["sha256"])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except IsADirectoryError:
        raise WeightsError(f"weights {path} is a folder; name the file in it") from None
    except FileNotFoundError:
        raise WeightsError(f"weights {path} does not exist; correct recipe.weights") from None
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read: {error.strerror or type(error).__name__}") from error
    # A file written within the clock's grain could change again without a new time.
    if time.time() - status.st_mtime > 2:
        with contextlib.suppress(OSError):
            _remember(note, {"mark": mark, "sha256": found})
    return found


def _from_cache(uri: str, sha256: str | None, files: Files) -> Path:
    folder, key = cache_folder(), _key(unsigned(uri))
    kept = _kept(folder, sha256, uri)
    if kept is not None:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock", timeout=DOWNLOAD_S):
            # Another process may have fetched it while this one waited.
            return _kept(folder, sha256, uri) or _download(uri, sha256, files, folder, folder / f"{key}.json")
    except Timeout:
        raise WeightsError(f"another process has been fetching {shown(uri)} for {DOWNLOAD_S:g} s; look after it") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(
            f"weights can't be kept in {folder} ({reason}); set MATTELINE_CACHE to a folder with room"
        ) from error


def _baked(uri: str, sha256: str | None) -> Path | None:
    """A pinned file that came with the machine's image, unharmed."""
    backend = os.environ.get("MATTELINE_BAKED")
    if not backend or sha256 is None:
        return None
    if scheme(uri) != "hf":
        return _kept(Path(backend) / "weights", sha256, uri)
    path = _in_hub_cache(uri, Path(backend) / "huggingface")
    return path if path is not None and file_sha256(path) == sha256 else None


def _kept(folder: Path, sha256: str | None, uri: str) -> Path | None:
    """A pinned file that is here and unharmed."""
    if sha256 is None:
        return None
    path = folder / sha256 / name(shown(uri))
    if path.is_file() and file_sha256(path) == sha256:
        return path
    return None


def _download(uri: str, sha256: str | None, files: Files, folder: Path, note: Path) -> Path:
    """Fetch a file, unless what was fetched last time still is the file; hashed while it arrives, never in memory whole."""
    before = _recall(note)
    kept = _kept(folder, before.get("sha256"), uri)
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    source = _web_source if scheme(uri) in WEB else _store_source

    def attempt(_: float) -> tuple[str, str] | None:
        known = str(before.get("etag", "")) if kept is not None and sha256 is None else ""
        with source(uri, known, files) as (etag, read):
            if read is None:
                return None
            hash_ids = hashlib.sha256()
            with temporary.open("wb") as file:
                while chunk := read(CHUNK):
                    hash_ids.update(chunk)
                    file.write(chunk)
            return hash_ids.hexdigest(), etag

    try:
        fetched = with_retries(uri, WeightsError, attempt, DOWNLOAD_S, tries=4)
        if fetched is None:
            assert kept is not None
            return kept
        found, etag = fetched
        if sha256 is not None and found != sha256:
            raise _mismatch(uri, found, sha256)
        path = folder / found / name(shown(uri))
        path.parent.mkdir(exist_ok=True)
        temporary.replace(path)
    except StorageError as error:
        raise WeightsError(f"weights can't be fetched: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    _remember(note, {"uri": unsigned(uri), "etag": etag, "sha256": found})
    return path


@contextlib.contextmanager
def _store_source(uri: str, known: str, files: Files) -> Iterator[tuple[str, Callable[[int], bytes] | None]]:
    """A reader of the object, or None if its etag is the known one."""
    etag = files.stat(uri).etag
    if known and etag == known:
        yield etag, None
        return
    with files.open_input(uri, sequential=True) as file:
        yield etag, file.read


@contextlib.contextmanager
def _web_source(uri: str, known: str, files: Files) -> Iterator[tuple[str, Callable[[int], bytes] | None]]:
    """A reader of the address, or None if the server says that nothing changed."""
    request = urllib.request.Request(uri, headers={"User-Agent": "matteline"} | ({"If-None-Match": known} if known else {}))
    try:
        with urllib.request.urlopen(request, timeout=SOCKET_S) as answer:
            whole = answer.headers.get("Content-Length")
            left = int(whole) if whole else None

            def read(size: int) -> bytes:
                nonlocal left
                chunk: bytes = answer.read(size)
                left = None if left is None else left - len(chunk)
                if not chunk and left:
                    raise ConnectionError("the server closed the connection early")
                return chunk

            yield answer.headers.get("ETag") or "", read
    except urllib.error.HTTPError as error:
        if error.code != 304:
            raise WebStatus(error.code) from None
        yield known, None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else ConnectionError("no connection") from None
    except http.client.HTTPException:
        raise ConnectionError("the server broke off") from None


def _from_hub(uri: str) -> Path:
    """A file of the Hugging Face hub, in the hub's own cache; known revisions need no network."""
    repository, file, revision = _hub_names(uri)
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    said = f"weights {uri}"
    try:
        return Path(hf_hub_download(repository, file, revision=revision, cache_dir=_hub_cache()))
    except hub.GatedRepoError:
        raise WeightsError(f"{said}: its owner must grant access; ask on its page and set HF_TOKEN") from None
    except hub.LocalEntryNotFoundError:
        raise WeightsError(f"{said}: the Hugging Face hub can't be reached, and the file isn't cached") from None
    except hub.RepositoryNotFoundError:
        raise WeightsError(f"{said}: no such repository, or a private one; correct it, or set HF_TOKEN") from None
    except (hub.RevisionNotFoundError, hub.EntryNotFoundError):
        raise WeightsError(f"{said}: no such file at revision {revision!r}; correct recipe.weights") from None
    except (OSError, ValueError, hub.HTTPError) as error:  # type: ignore[attr-defined]  # of whichever httpx the hub uses
        raise WeightsError(f"{said} can't be fetched ({type(error).__name__}); the form is {_HUB_FORM}") from error


def _in_hub_cache(uri: str, folder: Path | None) -> Path | None:
    """The file where the hub's client would look for it; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    repository, file, revision = _hub_names(uri)
    found = try_to_load_from_cache(repository, file, cache_dir=folder, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _hub_names(uri: str) -> tuple[str, str, str]:
    """Repository, file and revision."""
    backend, _, revision = uri.partition("://")[2].partition("@")
    parts = backend.split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise WeightsError(f"{shown(uri)} is not of the form {_HUB_FORM}")
    return f"{parts[0]}/{parts[1]}", parts[2], revision or "main"


def _hub_cache() -> Path | None:
    chosen = os.environ.get("MATTELINE_CACHE")
    return Path(chosen) / "huggingface" if chosen else None


def _mismatch(uri: str, found: str, wanted: str) -> WeightsError:
    return WeightsError(
        f"weights {shown(uri)} hash to {found}, but recipe.weights_sha256 is {wanted}; "
        "the file is damaged or another one: correct whichever is wrong"
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _recall(note: Path) -> dict[str, Any]:
    try:
        content = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(note: Path, content: dict[str, Any]) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f".{note.name}.{secrets.token_hex(8)}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(note)

"""The weights cache: local files, object stores, web servers and the Hugging Face hub's protocol."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import WeightsError
from pipeline.log import Waiting
from pipeline.storage import weights_cache as weights_module
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights, file_sha256, is_cached

DATA = os.urandom(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
OFFLINE = Files(Storage(endpoint_url="http://127.0.0.1:9"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(DATA)
    return path


def temporary_files(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*.tmp")]


def test_local_files_are_used_in_place(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_cached(str(model.with_name("other.onnx")), None, Files()) and is_cached(str(model), None, Files())
    assert fetch_weights(str(model), None, Files()) == (model, SHA)
    assert fetch_weights(f"file://{model}", SHA, Files()) == (model, SHA)
    monkeypatch.chdir(model.parent)
    assert fetch_weights("model.onnx", SHA, Files()) == (model, SHA)
    with pytest.raises(WeightsError, match=f"hash to {SHA}, but recipe.weights_sha256 is {OTHER}"):
        fetch_weights(str(model), OTHER, Files())


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing.onnx does not exist; correct recipe.weights"):
        fetch_weights(str(tmp_path / "nothing.onnx"), None, Files())
    with pytest.raises(WeightsError, match="is a folder"):
        fetch_weights(str(tmp_path), None, Files())


def test_hashes_are_cached_until_the_file_changes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(model, (1_700_000_000, 1_700_000_000))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # its inode was changed a moment ago
    assert file_sha256(model) == SHA
    with monkeypatch.context() as patched:
        patched.setattr(weights_module.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
        assert file_sha256(model) == SHA
    model.write_bytes(b"other")
    os.utime(model, (1_700_000_000, 1_700_000_000))
    assert file_sha256(model) == OTHER  # another size
    os.utime(model, (1_700_000_001, 1_700_000_001))
    assert file_sha256(model) == OTHER
    replacement = tmp_path / "new"
    replacement.write_bytes(b"OTHER")
    os.utime(replacement, (1_700_000_001, 1_700_000_001))
    replacement.replace(model)
    assert file_sha256(model) != OTHER  # another inode


def test_a_file_that_is_changed_in_place_with_its_times_kept_is_hashed_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(model, (1, 1))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # nothing is recent
    before = file_sha256(model)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    time.sleep(0.05)
    with model.open("r+b") as file:
        file.write(content)
    os.utime(model, (1, 1))
    assert file_sha256(model) != before


def test_hashes_of_recent_files_are_not_cached(model: Path) -> None:
    status = model.stat()
    first = file_sha256(model)
    model.write_bytes(bytes(len(DATA)))
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_sha256(model) != first


def test_objects_are_downloaded_once(remote: Any, cache: Path) -> None:
    uri = remote.put("models/model.onnx", DATA)
    assert not is_cached(uri, SHA, remote.files)
    path, sha256 = fetch_weights(uri, None, remote.files)
    assert is_cached(uri, SHA, remote.files) and not is_cached(uri, OTHER, remote.files)
    assert (path, sha256) == (cache / "weights" / SHA / "model.onnx", SHA)
    assert path.read_bytes() == DATA
    written = path.stat().st_mtime_ns
    assert fetch_weights(uri, None, remote.files) == (path, SHA)
    assert path.stat().st_mtime_ns == written
    remote.files.delete(uri)
    assert fetch_weights(uri, SHA, OFFLINE) == (path, SHA)
    with pytest.raises(WeightsError, match="can't be downloaded: .*model.onnx: it does not exist"):
        fetch_weights(uri, None, remote.files)
    remote.put("models/model.onnx", b"other")
    newer, sha256 = fetch_weights(uri, None, remote.files)
    assert (newer.read_bytes(), sha256) == (b"other", OTHER)
    assert path.read_bytes() == DATA
    assert not temporary_files(cache)


def test_objects_with_another_hash_are_refused_and_not_stored(remote: Any, cache: Path) -> None:
    uri = remote.put("model.onnx", DATA)
    with pytest.raises(WeightsError, match=f"hash to {SHA}, but recipe.weights_sha256 is {OTHER}"):
        fetch_weights(uri, OTHER, remote.files)
    assert not list(cache.rglob("model.onnx"))
    assert not temporary_files(cache)


def test_a_damaged_file_in_the_cache_is_downloaded_again(remote: Any) -> None:
    uri = remote.put("model.onnx", DATA)
    path, _ = fetch_weights(uri, SHA, remote.files)
    path.write_bytes(DATA[:-1])
    assert fetch_weights(uri, SHA, remote.files) == (path, SHA)
    assert path.read_bytes() == DATA


def test_wrong_credentials(s3: Any, remote: Any) -> None:
    uri = remote.put("model.onnx", DATA)
    wrong = Files(Storage(**(s3.settings | {"secret": "wrong-secret-value"})))
    with pytest.raises(WeightsError, match="refused") as refused:
        fetch_weights(uri, None, wrong)
    assert "wrong-secret-value" not in str(refused.value)


def test_concurrent_callers_download_once(web: Any, cache: Path) -> None:
    web.say((200, {}, DATA))
    barrier = threading.Barrier(6)

    def fetch(_: int) -> tuple[Path, str]:
        barrier.wait()
        return fetch_weights(f"{web.url}/model.onnx?token=s3cr3t", SHA, Files())

    with ThreadPoolExecutor(6) as pool:
        results = set(pool.map(fetch, range(6)))
    assert results == {(cache / "weights" / SHA / "model.onnx", SHA)}
    assert len(web.seen) == 1
    assert not any("s3cr3t" in path.read_text(errors="replace") for path in cache.rglob("*.json"))


def test_unpinned_downloads_are_revalidated_by_etag(web: Any) -> None:
    uri = f"{web.url}/releases/model.onnx"
    web.say((200, {"ETag": '"1"'}, DATA))
    path = weights_module._from_cache(uri, None, Files())  # fetch_weights accepts only https without a hash
    assert (path.name, file_sha256(path)) == ("model.onnx", SHA)
    web.say((304, {"ETag": '"1"'}, b""))
    assert weights_module._from_cache(uri, None, Files()) == path
    assert [headers.get("If-None-Match") for _, _, headers in web.seen] == ['"1"']
    web.say((200, {"ETag": '"2"'}, b"other"))
    assert file_sha256(weights_module._from_cache(uri, None, Files())) == OTHER


def test_interrupted_downloads_and_redirects(web: Any) -> None:
    truncated = (200, {"Content-Length": str(len(DATA))}, DATA[:1_000_000])
    web.say(truncated, (503, {}, b""), (302, {"Location": "/mirror/model.onnx"}, b""), (200, {}, DATA))
    path, sha256 = fetch_weights(f"{web.url}/model.onnx", SHA, Files())
    assert (path.read_bytes() == DATA, sha256) == (True, SHA)
    assert [path for _, path, _ in web.seen] == ["/model.onnx"] * 3 + ["/mirror/model.onnx"]


@pytest.mark.parametrize(("status", "words"), [(404, "does not exist"), (403, "access was refused"), (418, "HTTP 418")])
def test_http_errors(web: Any, cache: Path, status: int, words: str) -> None:
    web.say((status, {}, b""))
    with pytest.raises(WeightsError, match=words) as refused:
        fetch_weights(f"{web.url}/model.onnx?token=s3cr3t", SHA, Files())
    assert "s3cr3t" not in str(refused.value)
    assert not temporary_files(cache)


def test_endless_redirects(web: Any) -> None:
    web.say((302, {"Location": "/model.onnx"}, b""))
    with pytest.raises(WeightsError, match="redirected more than 10 times"):
        fetch_weights(f"{web.url}/model.onnx", SHA, Files())


def test_unreachable_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "DOWNLOAD_TIMEOUT_S", 1.0)
    with pytest.raises(WeightsError, match="can't be reached"):
        fetch_weights("http://127.0.0.1:9/model.onnx", SHA, Files())


def test_plain_http_needs_a_hash(web: Any) -> None:
    with pytest.raises(WeightsError, match="use https:// or give recipe.weights_sha256"):
        fetch_weights(f"{web.url}/model.onnx", None, Files())


def test_a_cache_that_cannot_be_written(web: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path / "file" / "cache"))
    web.say((200, {}, DATA))
    with pytest.raises(WeightsError, match="set MATTELINE_CACHE to a writable folder"):
        fetch_weights(f"{web.url}/model.onnx", SHA, Files())
    assert fetch_weights(str(model), SHA, Files()) == (model, SHA)


HUB = "hf://someone/some-model/onnx/model.onnx"
PINNED = f"{HUB}@{'a' * 40}"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What downloads have counted: done, unit, total."""
    counts: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Waiting, "count", lambda _, *given: counts.append(given))
    return counts


def test_a_download_says_its_name_and_how_much_has_arrived(
    web: Any, remote: Any, counted: list[tuple[Any, ...]], logged: list[logging.LogRecord]
) -> None:
    web.say((200, {"ETag": '"1"'}, DATA))
    fetch_weights(f"{web.url}/model.onnx?token=secret", SHA, Files())
    assert [record.getMessage() for record in logged] == ["downloading model.onnx"]
    assert counted[-1] == (3, "MB", 3)
    counted.clear()
    fetch_weights(remote.put("models/other.onnx", DATA), None, remote.files)
    assert logged[-1].getMessage() == "downloading other.onnx" and counted[-1] == (3, "MB", 3)
    count = len(logged)
    fetch_weights(f"{web.url}/model.onnx", SHA, Files())
    assert len(logged) == count, "nothing is said of a file in the cache"


@pytest.fixture
def hub(web: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A server with the Hugging Face hub's protocol: metadata in the headers, then the file."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", web.url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", web.url + "/{repo_id}/resolve/{revision}/{filename}"
    )

    def say(status: int = 200, **headers: str) -> None:
        commit = {"X-Repo-Commit": "a" * 40, "ETag": f'"{SHA}"'}
        web.say((status, commit | {name.replace("_", "-"): value for name, value in headers.items()}, DATA))

    return say


def test_the_hub(hub: Callable[..., None], web: Any, cache: Path, counted: list[tuple[Any, ...]]) -> None:
    def requests() -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in web.seen if path.startswith("/someone")]

    hub()
    assert not is_cached(PINNED, SHA, Files()) and not requests()
    path, sha256 = fetch_weights(PINNED, SHA, Files())
    assert (path.name, sha256) == ("model.onnx", SHA)
    assert path.is_relative_to(cache / "huggingface")
    assert counted[-1] == (3, "MB", 3)
    url = f"/someone/some-model/resolve/{'a' * 40}/onnx/model.onnx"
    assert requests() == [("HEAD", url), ("GET", url)]
    web.seen.clear()
    assert is_cached(PINNED, SHA, Files())
    assert fetch_weights(PINNED, SHA, Files()) == (path, SHA)
    assert not requests()
    fetch_weights(HUB, None, Files())
    assert requests()[0] == ("HEAD", "/someone/some-model/resolve/main/onnx/model.onnx")


@pytest.mark.parametrize("source", ["store", "hub"])
def test_baked_files_need_no_network(
    source: str, hub: Callable[..., None], remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked = tmp_path / "baked"
    hub()
    uri = remote.put("models/model.onnx", DATA) if source == "store" else PINNED
    with monkeypatch.context() as building:
        building.setenv("MATTELINE_CACHE", str(baked))
        path, _ = fetch_weights(uri, SHA, remote.files)
    assert path.is_relative_to(baked) and not is_cached(uri, SHA, remote.files)
    monkeypatch.setenv("MATTELINE_BAKED", str(baked))
    before = {file: file.stat().st_mtime_ns for file in baked.rglob("*")}
    monkeypatch.setattr("pipeline.storage.weights_cache._from_hub", lambda _: pytest.fail("the hub was requested"))
    assert is_cached(uri, SHA, OFFLINE)
    assert fetch_weights(uri, SHA, OFFLINE) == (path, SHA)
    assert {file: file.stat().st_mtime_ns for file in baked.rglob("*")} == before
    assert not is_cached(uri, OTHER, OFFLINE)  # another hash


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("EntryNotFound", 404, "no such file at revision 'v1'"),
        ("RevisionNotFound", 404, "no such file at revision 'v1'"),
        ("RepoNotFound", 401, "the repository does not exist or is private"),
        ("GatedRepo", 403, "its owner must grant access"),
    ],
)
def test_errors_of_the_hub(hub: Callable[..., None], code: str, status: int, words: str) -> None:
    hub(status, X_Error_Code=code)
    with pytest.raises(WeightsError, match=words):
        fetch_weights(f"{HUB}@v1", None, Files())


def test_an_offline_hub_and_invalid_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="can't be reached, and the file isn't cached"):
        fetch_weights(HUB, None, Files())
    for name in ("hf://someone", "hf://someone/model", "hf://a//b"):
        with pytest.raises(WeightsError, match="hf://owner/repository/file@revision"):
            fetch_weights(name, None, Files())

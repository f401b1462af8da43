"""Weights from a disk, a store, the web and the hub's own protocol; fetched once, and never the wrong ones."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import WeightsError
from pipeline.storage import weights_cache as weights_module
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import at_hand, fetch_weights, file_sha256

DATA = os.urandom(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rests(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*.tmp")]


def test_a_local_file_is_used_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(DATA)
    assert not at_hand(str(path.with_name("other.onnx")), None, Files()) and at_hand(str(path), None, Files())
    assert fetch_weights(str(path), None, Files()) == (path, SHA)
    assert fetch_weights(f"file://{path}", SHA, Files()) == (path, SHA)
    monkeypatch.chdir(tmp_path)
    assert fetch_weights("model.onnx", SHA, Files()) == (path, SHA)
    with pytest.raises(WeightsError, match=f"hash to {SHA}, but recipe.weights_sha256 is {OTHER}"):
        fetch_weights(str(path), OTHER, Files())


def test_what_is_no_local_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing.onnx does not exist; correct recipe.weights"):
        fetch_weights(str(tmp_path / "nothing.onnx"), None, Files())
    with pytest.raises(WeightsError, match="is a folder"):
        fetch_weights(str(tmp_path), None, Files())


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(DATA)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert file_sha256(path) == SHA
    with monkeypatch.context() as patched:
        patched.setattr(weights_module.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
        assert file_sha256(path) == SHA
    path.write_bytes(b"other")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert file_sha256(path) == OTHER  # another size
    os.utime(path, (1_700_000_001, 1_700_000_001))
    assert file_sha256(path) == OTHER
    replacement = tmp_path / "new"
    replacement.write_bytes(b"OTHER")
    os.utime(replacement, (1_700_000_001, 1_700_000_001))
    replacement.replace(path)
    assert file_sha256(path) != OTHER  # another inode


def test_a_young_file_is_not_trusted_to_its_time(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"one")
    status = path.stat()
    first = file_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_sha256(path) != first


def test_an_object_is_fetched_once(s3: Any, remote: Any, cache: Path) -> None:
    uri = remote.put("models/model.onnx", DATA)
    assert not at_hand(uri, SHA, remote.files)
    path, found = fetch_weights(uri, None, remote.files)
    assert at_hand(uri, SHA, remote.files) and not at_hand(uri, OTHER, remote.files)
    assert (path, found) == (cache / "weights" / SHA / "model.onnx", SHA)
    assert path.read_bytes() == DATA
    written = path.stat().st_mtime_ns
    assert fetch_weights(uri, None, remote.files) == (path, SHA)
    assert path.stat().st_mtime_ns == written
    remote.files.delete(uri)
    assert fetch_weights(uri, SHA, Files(Storage(endpoint_url="http://127.0.0.1:9"))) == (path, SHA)
    with pytest.raises(WeightsError, match="can't be fetched: .*model.onnx: it does not exist"):
        fetch_weights(uri, None, remote.files)
    remote.put("models/model.onnx", b"other")
    newer, found = fetch_weights(uri, None, remote.files)
    assert (newer.read_bytes(), found) == (b"other", OTHER)
    assert path.read_bytes() == DATA
    assert not rests(cache)


def test_a_pinned_object_that_is_another_is_refused_and_not_kept(remote: Any, cache: Path) -> None:
    uri = remote.put("model.onnx", DATA)
    with pytest.raises(WeightsError, match=f"hash to {SHA}, but recipe.weights_sha256 is {OTHER}"):
        fetch_weights(uri, OTHER, remote.files)
    assert not list(cache.rglob("model.onnx"))
    assert not rests(cache)


def test_a_damaged_copy_is_fetched_anew(remote: Any, cache: Path) -> None:
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


def test_processes_that_start_together_fetch_once(web: Any, cache: Path) -> None:
    web.say((200, {}, DATA))
    start = threading.Barrier(6)

    def fetch(_: int) -> tuple[Path, str]:
        start.wait()
        return fetch_weights(f"{web.url}/model.onnx?token=s3cr3t", SHA, Files())

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(fetch, range(6)))
    assert set(found) == {(cache / "weights" / SHA / "model.onnx", SHA)}
    assert len(web.seen) == 1
    assert not any("s3cr3t" in path.read_text(errors="replace") for path in cache.rglob("*.json"))


def test_the_web_is_asked_only_whether_anything_changed(web: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "scheme", lambda uri: "https" if uri.startswith(web.url) else "")
    uri = f"{web.url}/releases/model.onnx"
    web.say((200, {"ETag": '"1"'}, DATA))
    path, found = fetch_weights(uri, None, Files())
    assert (path.name, found) == ("model.onnx", SHA)
    web.say((304, {"ETag": '"1"'}, b""))
    assert fetch_weights(uri, None, Files()) == (path, SHA)
    assert [headers.get("If-None-Match") for _, _, headers in web.seen] == ['"1"']
    web.say((200, {"ETag": '"2"'}, b"other"))
    assert fetch_weights(uri, None, Files())[1] == OTHER


def test_a_download_that_breaks_off_is_begun_again(web: Any, cache: Path) -> None:
    web.say((200, {"Content-Length": str(len(DATA))}, DATA[:1_000_000]), (503, {}, b""), (200, {}, DATA))
    path, found = fetch_weights(f"{web.url}/model.onnx", SHA, Files())
    assert (path.read_bytes() == DATA, found) == (True, SHA)
    assert len(web.seen) == 3


@pytest.mark.parametrize(("status", "words"), [(404, "does not exist"), (403, "access was refused"), (418, "HTTP 418")])
def test_what_the_web_refuses(web: Any, cache: Path, status: int, words: str) -> None:
    web.say((status, {}, b""))
    with pytest.raises(WeightsError, match=words) as refused:
        fetch_weights(f"{web.url}/model.onnx?token=s3cr3t", SHA, Files())
    assert "s3cr3t" not in str(refused.value)
    assert not rests(cache)


def test_an_address_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "DOWNLOAD_S", 1.0)
    with pytest.raises(WeightsError, match="can't be reached"):
        fetch_weights("http://127.0.0.1:9/model.onnx", SHA, Files())


def test_plain_http_needs_a_hash(web: Any) -> None:
    with pytest.raises(WeightsError, match="use https:// or give recipe.weights_sha256"):
        fetch_weights(f"{web.url}/model.onnx", None, Files())


def test_a_cache_that_cannot_be_written(web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path / "file" / "cache"))
    web.say((200, {}, DATA))
    with pytest.raises(WeightsError, match="set MATTELINE_CACHE to a folder with room"):
        fetch_weights(f"{web.url}/model.onnx", SHA, Files())
    path = tmp_path / "model.onnx"
    path.write_bytes(DATA)
    assert fetch_weights(str(path), SHA, Files()) == (path, SHA)


HUB = "hf://someone/some-model/onnx/model.onnx"


@pytest.fixture
def hub(web: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Speaks as the Hugging Face hub does: metadata in the headers, then the file."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", web.url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", web.url + "/{repo_id}/resolve/{revision}/{filename}"
    )

    def say(status: int = 200, **headers: str) -> None:
        commit = {"X-Repo-Commit": "a" * 40, "ETag": f'"{SHA}"'}
        web.say((status, commit | {name.replace("_", "-"): value for name, value in headers.items()}, DATA))

    return say


def test_the_hub(hub: Callable[..., None], web: Any, cache: Path) -> None:
    def asked() -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in web.seen if path.startswith("/someone")]

    hub()
    assert not at_hand(f"{HUB}@{'a' * 40}", SHA, Files()) and not asked()
    path, found = fetch_weights(f"{HUB}@{'a' * 40}", SHA, Files())
    assert (path.name, found) == ("model.onnx", SHA)
    assert path.is_relative_to(cache / "huggingface")
    where = f"/someone/some-model/resolve/{'a' * 40}/onnx/model.onnx"
    assert asked() == [("HEAD", where), ("GET", where)]
    web.seen.clear()
    assert at_hand(f"{HUB}@{'a' * 40}", SHA, Files())
    assert fetch_weights(f"{HUB}@{'a' * 40}", SHA, Files()) == (path, SHA)
    assert not asked()
    fetch_weights(HUB, None, Files())
    assert asked()[0] == ("HEAD", "/someone/some-model/resolve/main/onnx/model.onnx")


@pytest.mark.parametrize("where", ["store", "hub"])
def test_what_an_image_has_brought_needs_nobody(
    where: str, hub: Callable[..., None], remote: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked = tmp_path / "baked"
    hub()
    uri = remote.put("models/model.onnx", DATA) if where == "store" else f"{HUB}@{'a' * 40}"
    with monkeypatch.context() as building:
        building.setenv("MATTELINE_CACHE", str(baked))
        path, _ = fetch_weights(uri, SHA, remote.files)
    assert path.is_relative_to(baked) and not at_hand(uri, SHA, remote.files)
    monkeypatch.setenv("MATTELINE_BAKED", str(baked))
    before = {file: file.stat().st_mtime_ns for file in baked.rglob("*")}
    nowhere = Files(Storage(endpoint_url="http://127.0.0.1:9"))
    monkeypatch.setattr("pipeline.storage.weights_cache._from_hub", lambda _: pytest.fail("the hub was asked"))
    assert at_hand(uri, SHA, nowhere)
    assert fetch_weights(uri, SHA, nowhere) == (path, SHA)
    assert {file: file.stat().st_mtime_ns for file in baked.rglob("*")} == before
    assert not at_hand(uri, OTHER, nowhere)  # of another hash, it isn't what is wanted


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("EntryNotFound", 404, "no such file at revision 'v1'"),
        ("RevisionNotFound", 404, "no such file at revision 'v1'"),
        ("RepoNotFound", 401, "no such repository, or a private one"),
        ("GatedRepo", 403, "its owner must grant access"),
    ],
)
def test_what_the_hub_refuses(hub: Callable[..., None], code: str, status: int, words: str) -> None:
    hub(status, X_Error_Code=code)
    with pytest.raises(WeightsError, match=words):
        fetch_weights(f"{HUB}@v1", None, Files())


def test_a_hub_out_of_reach_and_names_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="can't be reached, and the file isn't cached"):
        fetch_weights(HUB, None, Files())
    for name in ("hf://someone", "hf://someone/model", "hf://a//b"):
        with pytest.raises(WeightsError, match="hf://owner/repository/file@revision"):
            fetch_weights(name, None, Files())

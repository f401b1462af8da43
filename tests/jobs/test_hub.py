"""``hf://`` manifests: runs against a stand-in for the Hugging Face hub on loopback, through huggingface_hub's file system."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError
from pipeline.storage.files import Files

REPOSITORY = "shop/photos"


class Hub:
    """The files of one data set, by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = ""

    def entries(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found = {}
        for path in self.files:
            if path.startswith(prefix):
                parts = path[len(prefix) :].split("/")
                for depth in range(1, len(parts)) if recursive else [1] * (len(parts) > 1):
                    name = prefix + "/".join(parts[:depth])
                    found[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                if recursive or len(parts) == 1:
                    found[path] = self.entry(path)
        return list(found.values())

    def entry(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        return {"type": "file", "path": path, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}

    def answer(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        api = f"/api/datasets/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            return 200, {"id": REPOSITORY, "sha": "1" * 40, "private": False, "siblings": [], "tags": []}
        if path.startswith(f"{api}/tree/main"):
            folder = path.removeprefix(f"{api}/tree/main").strip("/")
            entries = self.entries(folder, recursive="recursive=true" in query.lower())
            return (200, entries) if entries or not folder else (404, {"error": "Entry not found"})
        if path == f"{api}/paths-info/main":
            asked = json.loads(body)["paths"]
            return 200, [self.entry(one) for one in ([asked] if isinstance(asked, str) else asked) if one in self.files]
        found = re.fullmatch(f"/datasets/{REPOSITORY}/resolve/main/(.*)", path)
        if found and found[1] in self.files:
            return 200, self.files[found[1]]
        return 404, {"error": "Repository not found"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = state.answer(self.command, unquote(parts.path), parts.query, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if status == 200 and isinstance(content, bytes) and wanted:
                status, data = 206, data[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound" if b"Repository" in data else "EntryNotFound")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()


def parquet(photos: list[bytes]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": one, "path": None} for one in photos]}), sink, row_group_size=2)
    return sink.getvalue()


def metadata(names: list[str]) -> bytes:
    return b"".join(json.dumps({"file_name": name, "text": "a shoe"}).encode() + b"\n" for name in names)


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_a_run_over_a_data_set_on_the_hub(
    form: str, hub: Hub, own_process: Any, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str
) -> None:
    photos = make_photos(tmp_path / "photos", 3)
    if form == "parquet":
        hub.files["data/train-0.parquet"] = parquet([photo.read_bytes() for photo in photos])
        ids = [f"data/train-0-00000{number}" for number in range(3)]
    else:
        hub.files |= {f"train/{photo.name}": photo.read_bytes() for photo in photos}
        hub.files["train/metadata.jsonl"] = metadata([photo.name for photo in photos])
        ids = [f"train/{photo.name}" for photo in photos]
    hub.files["README.md"] = b"about"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = ("run", "-m", f"hf://datasets/{REPOSITORY}", "-o", "out", "-p", fake_preset)
    done = own_process(*command, env=env)
    assert done.returncode == 0, done.stderr
    index = ds.dataset(tmp_path / "out" / "index", format="parquet").to_table(["item_id", "image_uri", "status"])
    assert sorted(index["item_id"].to_pylist()) == ids
    assert "failed" not in index["status"].to_pylist()
    assert all(uri.startswith(f"hf://datasets/{REPOSITORY}/") for uri in index["image_uri"].to_pylist())
    assert "0 of 3 items to do" in own_process(*command, env=env).stderr
    hub.asked.clear()
    assert "0 of 3 items to do" in own_process(*command, "--changed", env=env).stderr
    assert not [one for one in hub.asked if one.endswith(".jpg")]  # versions are those of the listing
    verified = own_process("verify", "out", env=env)
    assert verified.returncode == 0, verified.stderr


def test_what_is_not_on_the_hub(hub: Hub, own_process: Any, tmp_path: Path, fake_preset: str) -> None:
    hub.files["a.csv"] = b"image_uri\na.jpg\n"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    for manifest in ("hf://datasets/shop/other/a.csv", f"hf://datasets/{REPOSITORY}/b.csv"):
        refused = own_process("run", "-m", manifest, "-o", "out", "-p", fake_preset, env=env)
        assert refused.returncode == 2, refused.stderr
        assert f"{manifest}: it does not exist, or it is private; correct the URI, or set HF_TOKEN" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_without_the_library_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "hf", raising=False)
    words = r"hf://datasets/a/b: no installed library supports hf://; install huggingface_hub, or use a path or s3://"
    with pytest.raises(StorageError, match=words):
        Files().exists("hf://datasets/a/b")

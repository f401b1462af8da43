"""Manifests that try to make a run read forbidden locations: each row fails, and nothing outside the roots is touched.

All opens and connections of this process are recorded while the rows are read as a worker reads them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.job import Storage, load_job
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.run.preflight import make_plan
from pipeline.run.stages.decode import decode_batch
from pipeline.schema import MAX_DETAIL
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
Decode = Callable[[str, Files], pa.Table]


class Recorder:
    """Records opens and connections. An audit hook can't be removed, so there is one, which is idle most of the time."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] | None = None
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is not None and event in ("open", "socket.connect"):
            self.events.append((event, arguments[0] if event == "open" else arguments[1]))

    @contextmanager
    def recording(self) -> Iterator[list[tuple[str, Any]]]:
        self.events = events = []
        try:
            yield events
        finally:
            self.events = None


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


def write_manifest(folder: Path, name: str, addresses: list[str]) -> str:
    (folder / name).write_bytes(manifest_bytes(addresses))
    return str(folder / name)


def manifest_bytes(addresses: list[str]) -> bytes:
    return "\n".join(json.dumps({"item_id": str(row), "image_uri": uri}) for row, uri in enumerate(addresses)).encode()


@pytest.fixture
def decode_all(stage_context: Callable[..., Any]) -> Decode:
    """Return a manifest's items with their pixels, as the workers decode them."""

    def decode(manifest_uri: str, files: Files) -> pa.Table:
        manifest = open_manifest(manifest_uri, files)
        context = stage_context(["limits.fetch_s=5", "compute.fetch_threads=4"], files=files, allowlist=manifest.allowlist)
        tables = [
            table
            for fragment in manifest.fragments
            for items in read(manifest, fragment, files)
            for table in decode_batch(items, context=context)
        ]
        return pa.concat_tables(tables)

    return decode


@pytest.fixture
def folder(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """A folder ``set`` with one photo and links that lead out of it; photos in ``set2`` and in the parent folder."""
    for name in ("set", "set2", "."):
        make_photos(tmp_path / name, 1)
    base = tmp_path / "set"
    (base / "link.jpg").symlink_to(tmp_path / "photo-000.jpg")
    (base / "chain.jpg").symlink_to("link.jpg")
    (base / "relative.jpg").symlink_to("../set2/photo-000.jpg")
    (base / "linked").symlink_to(tmp_path / "set2")
    (base / "loop.jpg").symlink_to("loop.jpg")
    (base / "proc").symlink_to("/proc/self")
    (base / "inside.jpg").symlink_to("photo-000.jpg")
    return tmp_path


def on_disk(folder: Path) -> list[str]:
    top, base, photo = str(folder), f"{folder}/set", "photo-000.jpg"
    return [
        *(
            f"../{photo}",
            f"x/../../{photo}",
            f"./.././{photo}",
            f"..//{photo}",
            f"../set2/{photo}",
            "../" * 5000 + "etc/passwd",
        ),
        *(f"{top}/{photo}", f"//{top}/{photo}", f"{top}/set2/{photo}", f"{base}/../{photo}", f"{base}//..//{photo}"),
        *(f"file://{top}/{photo}", f"file://localhost{top}/{photo}", f"FILE://{top}/{photo}", f"local://{top}/{photo}"),
        *(f"file://{base}/%2e%2e/{photo}", f"file://{base}/%2E%2E%2F{photo}", f"file://{base}/..%2f{photo}"),
        *(f"file://elsewhere{top}/{photo}", f"file:{top}/{photo}", f"%2e%2e/{photo}", f"..%2f{photo}", f"..\\{photo}"),
        *("link.jpg", "chain.jpg", "relative.jpg", f"linked/{photo}", f"{base}/linked/{photo}", f"linked/../../{photo}"),
        *(f"{base}/linked/../{photo}/../../{photo}", f"{base}/linked/../{photo}", "loop.jpg"),
        *("proc/environ", "proc/root/etc/passwd", "/etc/passwd", "file:///etc/passwd", "/proc/self/environ"),
        *(f"/proc/self/root{top}/{photo}", "/dev/zero", "/dev/stdin", "/dev/fd/0", "~/.ssh/id_rsa", "$HOME/.ssh/id_rsa"),
        *(" /etc/passwd", "/etc/passwd\0.jpg", f"\0{top}/{photo}", f"{top}/{photo}\0", f"{base}/\0"),
        *("a" * 100_000, "/" + "a/" * 5000, f"\u202e{photo}", f"{top}\n/{photo}", "\r\n", "\x1b[31m.jpg"),
        *("", " ", ".", "..", "/", "//", base, f"{base}/", "．．/photo-000.jpg", f"{base}/․․/{photo}"),
    ]


ELSEWHERE = [
    *("s3://other/x.jpg", "s3://other", "S3://other/x.jpg", "s3a://other/x.jpg", "s3://key:pass-word@other/x.jpg"),
    *("s3:///x", "s3://", "gs://other/x.jpg", "ftp://127.0.0.1/x.jpg", "sftp://127.0.0.1/etc/passwd", "hdfs://127.0.0.1/x"),
    *("smb://127.0.0.1/x", "gopher://127.0.0.1:70/x", "data:image/png;base64,iVBORw0KGgo=", "data://x", "memory://x.jpg"),
    *("github://a:pass-word@b/x", "simplecache::file:///etc/passwd", "zip://x::file:///etc/passwd", "zip://etc/passwd"),
    *("reference://x", "dir://etc/passwd", "jar:file:///etc/passwd", "nosuchscheme://x", "://x", "a://", "\u0130://x"),
    "javascript:alert(1)",
]


def on_the_web(url: str) -> list[str]:
    port = url.rpartition(":")[2]
    hosts = [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "localhost", "[::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[::]", "[64:ff9b::7f00:1]", "[fe80::1%25lo]"),
        *("me:pass-word@127.0.0.1", "169.254.169.254@127.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "[::1", "127.0.0.1\\@x"),
        *("a b", "%00"),
    ]
    return [
        *(f"http://{host}:{port}/photo.jpg?token=pass-word" for host in hosts),
        *("http://169.254.169.254/latest/meta-data/", "http://2852039166/", "https://169.254.169.254/"),
        *("HTTP://169.254.169.254/", "http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://10.0.0.1/"),
        *("http://224.0.0.1/", "https://[::1]/", "http://", "http:///x", "https://:80/", f"http://127.0.0.1:{port}0000/"),
        *("http://127.0.0.1:x/", "http:127.0.0.1", "//127.0.0.1/x", f"http://127.0.0.1:{port}/\r\nX: y"),
        "http://127.0.0.1/" + "a" * 100_000,
    ]


def check(rows: list[dict[str, Any]], addresses: list[str], good: int) -> None:
    """Check that all rows but the first ``good`` failed, with a printable message without secrets."""
    assert [row["item_id"] for row in rows] == [str(row) for row in range(len(addresses))]
    assert [row["error_code"] for row in rows[:good]] == [None] * good
    for address, row in zip(addresses[good:], rows[good:], strict=True):
        assert row["error_code"] in ("item", "fetch"), (address[:200], row["error_code"])
        assert row["pixels"] is None and row["image_sha256"] is None
        assert 0 < len(row["error_detail"]) <= MAX_DETAIL
        assert "pass-word" not in row["error_detail"]


@pytest.mark.parametrize("http", [False, True])
def test_nothing_outside_the_roots_is_read(
    folder: Path, web: Any, recorder: Recorder, decode_all: Decode, http: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    web.say((200, {}, (folder / "photo-000.jpg").read_bytes()))
    good = ["photo-000.jpg", "inside.jpg", f"{folder}/set/./photo-000.jpg", f"FILE://{folder}/set/photo%2D000.jpg"]
    addresses = [*good, *on_disk(folder), *ELSEWHERE, *on_the_web(web.url)]
    manifest = write_manifest(folder / "set", "m.jsonl", addresses)
    with recorder.recording() as events:
        rows = decode_all(manifest, Files(Storage(http=http))).to_pylist()
    check(rows, addresses, len(good))
    opened = {
        os.path.realpath(path) for event, path in events if event == "open" and isinstance(path, str) and "\0" not in path
    }
    below = {path for path in opened if path.startswith(f"{folder}/")}
    assert {path for path in below if not f"{path}/".startswith(f"{folder}/set/")} == set()
    assert f"{folder}/set/photo-000.jpg" in below, "the recorder must record what is read"
    assert not opened & {"/etc/passwd", f"/proc/{os.getpid()}/environ", "/dev/zero", "/dev/null"}
    assert [address for event, address in events if event == "socket.connect"] == []
    assert web.seen == []


def test_other_buckets_and_prefixes_are_not_read(
    remote: Any, s3: Any, make_photos: MakePhotos, decode_all: Decode, tmp_path: Path
) -> None:
    (photo,) = make_photos(tmp_path, 1)
    other = s3.make_bucket()
    secret = s3.put(other, "x.jpg", photo.read_bytes())
    for name in ("cat/a.jpg", "cat/%2e%2e/a.jpg", "catalog2/x.jpg", "x.jpg"):
        remote.put(name, photo.read_bytes())
    root, bucket = remote.root, remote.root.partition("/root")[0]
    good = ["a.jpg", f"{root}/cat/a.jpg", f"S3A{root[2:]}/cat/a.jpg", "b/../a.jpg", "%2e%2e/a.jpg"]
    bad = [
        *("../x.jpg", "../catalog2/x.jpg", f"{root}/catalog2/x.jpg", f"{root}/x.jpg", f"{root}/cat/../x.jpg"),
        *(f"{root}/cat/../cat/a.jpg", secret, f"s3a://{other}/x.jpg", f"s3://{s3.key}:{s3.secret}@{other}/x.jpg"),
        *("../" * 20 + f"{other}/x.jpg", f"{bucket}/../x", f"{photo}", f"file://{photo}", "/etc/passwd"),
    ]
    manifest = remote.put("cat/m.jsonl", manifest_bytes(good + bad))
    rows = decode_all(manifest, remote.files).to_pylist()
    check(rows, good + bad, len(good))
    assert {row["error_code"] for row in rows[len(good) :]} == {"item"}
    assert s3.secret not in str(rows)
    allowed = Files(remote.files.storage.model_copy(update={"allow_roots": (f"s3://{other}", str(tmp_path), root)}))
    assert [row["error_code"] for row in decode_all(manifest, allowed).to_pylist()].count(None) == len(good) + 8


def test_a_run_that_lacks_a_root_is_refused_and_the_root_is_named(folder: Path, fake_preset: str) -> None:
    photo = f"{folder}/photo-000.jpg"
    rows = [f"{folder}/set2/photo-000.jpg"] * 3 + ["photo-000.jpg"] * 16 + ["/etc/passwd"]
    manifest = write_manifest(folder / "set", "m.jsonl", rows)

    def plan(*settings: str, uri: str = manifest) -> Any:
        job = load_job(manifest=uri, output=f"{folder}/out", preset=fake_preset, overrides=settings)
        return make_plan(job, Files(job.storage))

    assert plan().refused == 4, "up to budget.allowed_failed items may fail"
    with pytest.raises(ConfigError) as refused:
        plan("budget.allowed_failed=3")
    message = str(refused.value)
    assert "4 of 20 rows" in message and "3 of them below" in message and f"add --allow-root {folder}/set2 if" in message
    assert plan(f"storage.allow_roots=[{folder}/set2]", "budget.allowed_failed=0").refused == 1
    assert plan("budget.allowed_failed=0", "budget.max_failed_share=0.2").refused == 4
    apart = write_manifest(folder / "set2", "m.jsonl", [photo, f"{folder}/set/photo-000.jpg"])
    with pytest.raises(ConfigError, match=rf"2 of 2 rows .*, all below {folder}; add --allow-root {folder} if"):
        plan(uri=apart)
    assert plan(f"storage.allow_roots=[{folder}]", uri=apart).refused == 0
    signed = [f"https://cdn.example.com/photos/{row}.jpg?sig=pass-word" for row in range(3)]
    web = write_manifest(folder / "set", "web.jsonl", signed)
    with pytest.raises(ConfigError, match="add --allow-root https://cdn.example.com/photos if") as refused:
        plan(uri=web)
    assert "pass-word" not in str(refused.value)
    assert plan("storage.allow_roots=['https://cdn.example.com/photos']", uri=web).refused == 0
    assert plan("storage.http=true", uri=web).refused == 0


def test_a_folder_of_images_is_its_own_root(folder: Path, decode_all: Decode) -> None:
    (folder / "set" / "loop.jpg").unlink()
    uri, files = str(folder / "set"), Files()
    assert scan(open_manifest(uri, files), files).refused == 0
    codes = {row["item_id"]: row["error_code"] for row in decode_all(uri, files).to_pylist()}
    assert codes == {"photo-000.jpg": None, "inside.jpg": None, "link.jpg": "item", "chain.jpg": "item", "relative.jpg": "item"}
    allowed = Files(Storage(allow_roots=(str(folder),)))
    assert set(decode_all(uri, allowed)["error_code"].to_pylist()) == {None}

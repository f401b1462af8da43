"""Manifests written to make the run read what it must not: one row an item, refused or failed, and nothing outside is touched.

Every open and every connection of this process is watched while the rows are read as a worker reads them.
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

from pipeline.config.job import Limits, Storage, load_job
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.run.preflight import make_plan
from pipeline.run.stages.decode import decode_batch
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


class Watch:
    """What is opened and connected to. An audit hook can't be taken away again, so there is one, idle most of the time."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and event in ("open", "socket.connect"):
            self.seen.append((event, arguments[0] if event == "open" else arguments[1]))

    @contextmanager
    def on(self) -> Iterator[list[tuple[str, Any]]]:
        self.seen = seen = []
        try:
            yield seen
        finally:
            self.seen = None


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def table(folder: Path, name: str, addresses: list[str]) -> str:
    path = folder / name
    lines = [json.dumps({"item_id": str(row), "image_uri": address}) for row, address in enumerate(addresses)]
    path.write_text("\n".join(lines))
    return str(path)


def work(manifest_uri: str, files: Files) -> pa.Table:
    """The manifest's items with their pixels, as the workers get them."""
    manifest, limits = open_manifest(manifest_uri, files), Limits(fetch_s=5)
    made = [
        part
        for fragment in manifest.fragments
        for items in read(manifest, fragment, files)
        for part in decode_batch(items, files=files, allowlist=manifest.allowlist, limits=limits, threads=4, block_mib=64)
    ]
    return pa.concat_tables(made)


@pytest.fixture
def place(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """A folder ``set`` with one photo, ``set2`` and ``top`` beside it with others, and links that lead out."""
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


def on_disk(place: Path) -> list[str]:
    base, photo = f"{place}/set", "photo-000.jpg"
    return [
        *(
            f"../{photo}",
            f"x/../../{photo}",
            f"./.././{photo}",
            f"..//{photo}",
            f"../set2/{photo}",
            "../" * 5000 + "etc/passwd",
        ),
        *(f"{place}/{photo}", f"//{place}/{photo}", f"{place}/set2/{photo}", f"{base}/../{photo}", f"{base}//..//{photo}"),
        *(f"file://{place}/{photo}", f"file://localhost{place}/{photo}", f"FILE://{place}/{photo}", f"local://{place}/{photo}"),
        *(f"file://{base}/%2e%2e/{photo}", f"file://{base}/%2E%2E%2F{photo}", f"file://{base}/..%2f{photo}"),
        *(f"file://elsewhere{place}/{photo}", f"file:{place}/{photo}", f"%2e%2e/{photo}", f"..%2f{photo}", f"..\\{photo}"),
        *("link.jpg", "chain.jpg", "relative.jpg", f"linked/{photo}", f"{base}/linked/{photo}", f"linked/../../{photo}"),
        *(
            f"{base}/linked/../{photo}/../../{photo}",
            f"{base}/linked/../{photo}",
            "loop.jpg",
            "proc/environ",
            "proc/root/etc/passwd",
        ),
        *(
            "/etc/passwd",
            "file:///etc/passwd",
            "/proc/self/environ",
            f"/proc/self/root{place}/{photo}",
            "/dev/zero",
            "/dev/stdin",
        ),
        *("/dev/fd/0", "~/.ssh/id_rsa", "$HOME/.ssh/id_rsa", " /etc/passwd", "/etc/passwd\0.jpg", f"\0{place}/{photo}"),
        *(f"{place}/{photo}\0", f"{base}/\0", "a" * 100_000, "/" + "a/" * 5000, f"\u202e{photo}", f"{place}\n/{photo}", "\r\n"),
        *("\x1b[31m.jpg", "", " ", ".", "..", "/", "//", base, f"{base}/", "．．/photo-000.jpg", f"{base}/․․/{photo}"),
    ]


ELSEWHERE = [
    *(
        "s3://other/x.jpg",
        "s3://other",
        "S3://other/x.jpg",
        "s3a://other/x.jpg",
        "s3://key:pass-word@other/x.jpg",
        "s3:///x",
        "s3://",
    ),
    *("gs://other/x.jpg", "ftp://127.0.0.1/x.jpg", "sftp://127.0.0.1/etc/passwd", "hdfs://127.0.0.1/x", "smb://127.0.0.1/x"),
    *(
        "gopher://127.0.0.1:70/x",
        "data:image/png;base64,iVBORw0KGgo=",
        "data://x",
        "memory://x.jpg",
        "github://a:pass-word@b/x",
    ),
    *(
        "simplecache::file:///etc/passwd",
        "zip://x::file:///etc/passwd",
        "zip://etc/passwd",
        "reference://x",
        "dir://etc/passwd",
    ),
    *("jar:file:///etc/passwd", "nosuchscheme://x", "://x", "a://", "\u0130://x", "javascript:alert(1)"),
]


def on_the_web(url: str) -> list[str]:
    port = url.rpartition(":")[2]
    hosts = [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "localhost", "[::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[::]", "[64:ff9b::7f00:1]", "[fe80::1%25lo]"),
        *(
            "me:pass-word@127.0.0.1",
            "169.254.169.254@127.0.0.1",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "[::1",
            "127.0.0.1\\@x",
            "a b",
            "%00",
        ),
    ]
    return [
        *(f"http://{host}:{port}/photo.jpg?token=pass-word" for host in hosts),
        *(
            "http://169.254.169.254/latest/meta-data/",
            "http://2852039166/",
            "https://169.254.169.254/",
            "HTTP://169.254.169.254/",
        ),
        *("http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://10.0.0.1/", "http://224.0.0.1/", "https://[::1]/"),
        *(
            "http://",
            "http:///x",
            "https://:80/",
            f"http://127.0.0.1:{port}0000/",
            "http://127.0.0.1:x/",
            "http:127.0.0.1",
            "//127.0.0.1/x",
        ),
        *(f"http://127.0.0.1:{port}/\r\nX: y", "http://127.0.0.1/" + "a" * 100_000),
    ]


def check(found: list[dict[str, Any]], addresses: list[str], good: int) -> None:
    """One row an item; all but the first ``good`` failed, with a sentence that can be printed and tells no secret."""
    assert [row["item_id"] for row in found] == [str(row) for row in range(len(addresses))]
    assert [row["error_code"] for row in found[:good]] == [None] * good
    for address, row in zip(addresses[good:], found[good:], strict=True):
        assert row["error_code"] in ("item", "fetch"), (address[:200], row["error_code"])
        assert row["pixels"] is None and row["image_sha256"] is None
        assert 0 < len(row["error_detail"]) <= 500
        assert "pass-word" not in row["error_detail"]


@pytest.mark.parametrize("http", [False, True])
def test_nothing_outside_is_read(place: Path, web: Any, watch: Watch, http: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    web.say((200, {}, (place / "photo-000.jpg").read_bytes()))
    addresses = ["photo-000.jpg", "inside.jpg", f"{place}/set/./photo-000.jpg", f"FILE://{place}/set/photo%2D000.jpg"]
    good = len(addresses)
    addresses += [*on_disk(place), *ELSEWHERE, *on_the_web(web.url)]
    manifest = table(place / "set", "m.jsonl", addresses)
    files = Files(Storage(http=http))
    with watch.on() as seen:
        found = work(manifest, files).to_pylist()
    check(found, addresses, good)
    opened = {os.path.realpath(path) for event, path in seen if event == "open" and isinstance(path, str) and "\0" not in path}
    inside = {path for path in opened if path.startswith(f"{place}/")}
    assert {path for path in inside if not f"{path}/".startswith(f"{place}/set/")} == set()
    assert f"{place}/set/photo-000.jpg" in inside, "the watch must see what is read"
    assert not opened & {"/etc/passwd", f"/proc/{os.getpid()}/environ", "/dev/zero", "/dev/null"}
    assert [address for event, address in seen if event == "socket.connect"] == []
    assert web.seen == []


def test_other_buckets_and_prefixes_are_not_read(remote: Any, s3: Any, make_photos: MakePhotos, tmp_path: Path) -> None:
    (photo,) = make_photos(tmp_path, 1)
    other = s3.make_bucket()
    secret = s3.put(other, "x.jpg", photo.read_bytes())
    for name in ("cat/a.jpg", "cat/%2e%2e/a.jpg", "catalog2/x.jpg", "x.jpg"):
        remote.put(name, photo.read_bytes())
    root, bucket = remote.root, remote.root.partition("/root")[0]
    good = ["a.jpg", f"{root}/cat/a.jpg", f"S3A{root[2:]}/cat/a.jpg", "b/../a.jpg", "%2e%2e/a.jpg"]
    bad = [
        *(
            "../x.jpg",
            "../catalog2/x.jpg",
            f"{root}/catalog2/x.jpg",
            f"{root}/x.jpg",
            f"{root}/cat/../x.jpg",
            f"{root}/cat/../cat/a.jpg",
        ),
        *(
            secret,
            f"s3a://{other}/x.jpg",
            f"s3://{s3.key}:{s3.secret}@{other}/x.jpg",
            "../" * 20 + f"{other}/x.jpg",
            f"{bucket}/../x",
        ),
        *(f"{photo}", f"file://{photo}", "/etc/passwd"),
    ]
    lines = [json.dumps({"item_id": str(row), "image_uri": address}) for row, address in enumerate(good + bad)]
    manifest = remote.put("cat/m.jsonl", "\n".join(lines).encode())
    found = work(manifest, remote.files).to_pylist()
    check(found, good + bad, len(good))
    assert {row["error_code"] for row in found[len(good) :]} == {"item"}
    assert s3.secret not in str(found)
    opened = Files(remote.files.storage.model_copy(update={"allow_roots": (f"s3://{other}", str(tmp_path), root)}))
    assert [row["error_code"] for row in work(manifest, opened).to_pylist()].count(None) == len(good) + 8


def test_a_run_that_lacks_a_root_is_refused_before_work_and_told_which(place: Path, fake_preset: str) -> None:
    photo = f"{place}/photo-000.jpg"
    rows = [f"{place}/set2/photo-000.jpg"] * 3 + ["photo-000.jpg"] * 16 + ["/etc/passwd"]
    manifest = table(place / "set", "m.jsonl", rows)

    def plan(*settings: str, uri: str = manifest) -> Any:
        job = load_job(manifest=uri, output=f"{place}/out", preset=fake_preset, overrides=settings)
        return make_plan(job, Files(job.storage))

    with pytest.raises(ConfigError) as refused:
        plan()
    said = str(refused.value)
    assert "4 of 20 rows" in said and "3 of them below" in said and f"add --allow-root {place}/set2 if" in said
    assert plan(f"storage.allow_roots=[{place}/set2]").refused == 1
    assert plan("budget.max_failed_share=0.2").refused == 4
    apart = table(place / "set2", "m.jsonl", [photo, f"{place}/set/photo-000.jpg"])
    with pytest.raises(ConfigError, match=rf"2 of 2 rows .*, all below {place}; add --allow-root {place} if"):
        plan(uri=apart)
    assert plan(f"storage.allow_roots=[{place}]", uri=apart).refused == 0
    web = table(place / "set", "web.jsonl", [f"https://cdn.example.com/photos/{row}.jpg?sig=pass-word" for row in range(3)])
    with pytest.raises(ConfigError, match="add --allow-root https://cdn.example.com/photos if") as refused:
        plan(uri=web)
    assert "pass-word" not in str(refused.value)
    assert plan("storage.allow_roots=['https://cdn.example.com/photos']", uri=web).refused == 0
    assert plan("storage.http=true", uri=web).refused == 0


def test_a_folder_of_images_has_itself_as_root(place: Path) -> None:
    (place / "set" / "loop.jpg").unlink()
    files = Files()
    manifest = open_manifest(str(place / "set"), files)
    assert scan(manifest, files).refused == 0
    found = {row["item_id"]: row["error_code"] for row in work(str(place / "set"), files).to_pylist()}
    assert found == {"photo-000.jpg": None, "inside.jpg": None, "link.jpg": "item", "chain.jpg": "item", "relative.jpg": "item"}
    allowed = Files(Storage(allow_roots=(str(place),)))
    assert set(work(str(place / "set"), allowed)["error_code"].to_pylist()) == {None}

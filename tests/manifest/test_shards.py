"""WebDataset shards as manifests: tar archives of samples. They come from strangers."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.columns import Columns
from pipeline.config.job import load_job
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.manifest.names import NameTemplate
from pipeline.manifest.shards import MAX_FIELD_BYTES, split_key
from pipeline.run.driver import run_job
from pipeline.storage.files import Files


def tar(*members: tuple[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def sample(key: str, /, **fields: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.jpg", f"picture {key}".encode()),
        (f"{key}.json", json.dumps(fields).encode()),
        (f"{key}.txt", b"a shoe\n"),
    ]


def rows_of(uri: str, files: Files, **chosen: str) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, files, chosen=Columns(**chosen))
    assert scan(manifest, files).rows
    return [row for one in manifest.fragments for table in read(manifest, one, files) for row in table.to_pylist()]


def test_samples_are_items(where: Any) -> None:
    for shard in range(2):
        keys = [f"{shard}/{number}" for number in range(3)]
        where.put(
            f"shards/{shard:05}.tar", tar(*(one for key in keys for one in sample(key, sku=f"s-{key}", width=30, tags=["a"])))
        )
    for manifest in (f"{where.root}/shards", f"{where.root}/shards/*.tar", f"{where.root}/shards/00000.tar"):
        rows = rows_of(manifest, where.files)
        expected = [f"{shard}/{number}" for shard in range(1 + (not manifest.endswith("0.tar"))) for number in range(3)]
        assert [row["item_id"] for row in rows] == expected
        assert [where.files.read(row["image_uri"]) for row in rows] == [f"picture {key}".encode() for key in expected]
        assert rows[1]["sku"] == "s-0/1"
        assert (rows[1]["manifest_width"], rows[1]["tags"], rows[1]["txt"]) == ("30", '["a"]', "a shoe")


def test_columns_are_chosen_from_the_fields(local: Any) -> None:
    members = [*sample("a", uid="u1", bbox=[1, 2, 30, 40]), ("a.seg.png", b"mask"), *sample("b", uid="u2", bbox=None)]
    uri = local.put("a.tar", tar(*members, ("b.seg.png", b"mask b")))
    rows = rows_of(uri, local.files, id="uid", box="bbox", image="seg.png")
    assert [(row["item_id"], row["uid"], row["manifest_item_id"]) for row in rows] == [("u1", "u1", "a"), ("u2", "u2", "b")]
    assert [row["box"] for row in rows] == [[1, 2, 30, 40], None]
    assert [local.files.read(row["image_uri"]) for row in rows] == [b"mask", b"mask b"]
    assert local.files.read(rows_of(uri, local.files)[0]["image_uri"]) == b"picture a"
    with pytest.raises(ConfigError, match="no column 'ean' \\(--id-column\\); its columns are 'image_uri', 'item_id', 'uid'"):
        open_manifest(uri, local.files, chosen=Columns(id="ean"))


def test_the_first_picture_of_a_sample(local: Any) -> None:
    uri = local.put("a.tar", tar(("a.seg.png", b"1"), ("a.webp", b"2"), ("a.png", b"3"), ("b.left.jpg", b"4"), ("C.JPG", b"5")))
    assert [local.files.read(row["image_uri"]) for row in rows_of(uri, local.files)] == [b"2", b"4", b"5"]


def test_a_sample_without_a_picture_fails(local: Any) -> None:
    uri = local.put("a.tar", tar(*sample("a")[1:], *sample("b")))
    rows = rows_of(uri, local.files)
    assert [(row["item_id"], row["error_code"]) for row in rows] == [("a", "item"), ("b", None)]


def test_keys_that_collide_are_told(local: Any) -> None:
    for name in ("0.tar", "1.tar"):
        local.put(f"shards/{name}", tar(*sample("000")))
    with pytest.raises(ConfigError, match="1 item id occurs more than once.*'000'"):
        rows_of(f"{local.root}/shards", local.files)
    uri = local.put("twice.tar", tar(("a.jpg", b"1"), ("a.jpg", b"2")))
    with pytest.raises(ConfigError, match="1 item id occurs more than once.*'a'"):
        rows_of(uri, local.files)


def test_hostile_names_and_fields(local: Any) -> None:
    names = ["../../etc/passwd.jpg", "/etc/shadow.jpg", "a\nb.jpg", "..\\x.jpg", "\udcff.jpg", "long" * 500 + ".jpg"]
    fields = {"image_uri": "/etc/passwd", "Item_ID": "x", "box": [0, 0, 9, 9], "x" * 200: 1, "\n": 2, "half": "\ud83d", "ok": 1}
    members = [(name, b"picture") for name in names] + sample("last", **fields)
    uri = local.put(
        "a.tar", tar(*members, ("bad.jpg", b"x"), ("bad.json", b"[1]"), ("deep.jpg", b"x"), ("deep.json", b"[" * 9000))
    )
    rows = rows_of(uri, local.files)
    assert len(rows) == len(names) - 2 + 3  # names that begin with a dot are left out, those of hidden files and of parents
    for row in rows:
        assert row["image_uri"] is None or row["image_uri"].startswith(f"{uri}#offset=")
        assert local.files.read(row["image_uri"])
        assert not row["output_name"].startswith("/")
        assert ".." not in row["output_name"].split("/")
    last = next(row for row in rows if row["item_id"] == "last")
    assert last["box"] == [0, 0, 9, 9]
    assert (last["half"], last["ok"]) == ("\ufffd", "1")
    assert {"x" * 200, "\n", "Item_ID", "manifest_image_uri"}.isdisjoint(last)


def test_long_names_are_not_kept(local: Any) -> None:
    """A name in a PAX header may have a megabyte, and a sample a thousand members."""
    uri = local.put("a.tar", tar(("x" * 8_193 + ".jpg", b"x"), *sample("a"), (f"a.{'y' * 9_000}.png", b"x")))
    assert [row["item_id"] for row in rows_of(uri, local.files)] == ["a"]
    uri = local.put("b.tar", tar(*((f"{'x' * 8_000}{number}.jpg", b"x") for number in range(700))))
    manifest = open_manifest(uri, local.files)
    assert max(table.num_rows for one in manifest.fragments for table in read(manifest, one, local.files)) < 600


def test_a_large_field_is_left_out(local: Any) -> None:
    uri = local.put(
        "a.tar",
        tar(("a.jpg", b"x"), ("a.json", b"{}"), ("a.txt", b"x" * (MAX_FIELD_BYTES + 1)), ("b.jpg", b"x"), ("b.txt", b"y")),
    )
    assert [row["txt"] for row in rows_of(uri, local.files)] == [None, "y"]


@pytest.mark.parametrize("data", [b"", b"x" * 2000, tar(*sample("a"))[:700], os.urandom(3000)])
def test_damaged_shards_are_refused(where: Any, data: bytes) -> None:
    uri = where.put("a.tar", data)
    with pytest.raises(ConfigError, match=r"a.tar is damaged, or not a tar archive \(WebDataset\)"):
        scan(open_manifest(uri, where.files), where.files)


def test_a_shard_that_is_damaged_at_its_end_is_refused(local: Any) -> None:
    whole = tar(*(one for number in range(200) for one in sample(str(number))))
    uri = local.put("a.tar", whole[: len(whole) // 2 + 100])
    with pytest.raises(ConfigError, match="a.tar is damaged"):
        scan(open_manifest(uri, local.files), local.files)


def test_compressed_shards_are_refused(local: Any) -> None:
    with pytest.raises(ConfigError, match="decompress it to .tar"):
        open_manifest(local.put("a.tar.gz", b""), local.files)
    with pytest.raises(ConfigError, match="damaged, or not a tar archive"):
        open_manifest(local.put("b.tar", b"\x1f\x8b" + b"x" * 600), local.files)


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=12), st.binary(max_size=40)), max_size=6),
    st.binary(max_size=60),
    st.integers(0, 8000),
)
def test_any_archive_is_read_or_refused(tmp_path_factory: Any, members: list[tuple[str, bytes]], noise: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    whole = tar(*((name.replace("\0", "") or "x", data) for name, data in members), *sample("zzz"))
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    files = Files()
    try:
        rows = rows_of(str(path), files)
    except ConfigError:
        return
    for row in rows:
        if row["error_code"] is None:
            files.read(row["image_uri"])


def test_folders_with_shards_and_more(local: Any, logged: list[logging.LogRecord]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"], "status": ["success"], "url": ["http://shop.example"]}), sink)
    local.put("i2d/00000.tar", tar(*sample("a", key="a", status="success")))
    local.put("i2d/00000.parquet", sink.getvalue())
    assert [row["key"] for row in rows_of(f"{local.root}/i2d", local.files)] == ["a"]
    local.put("photos/a.jpg", b"x")
    local.put("photos/backup.tar", tar(*sample("a")))
    assert [row["item_id"] for row in rows_of(f"{local.root}/photos", local.files)] == ["a.jpg"]
    assert any("its images are the items; left out: 1 archive, such as --manifest" in record.getMessage() for record in logged)


def test_names_of_files_from_members(local: Any) -> None:
    local.put("shards/0.tar", tar(*sample("dir/a")))
    manifest = open_manifest(f"{local.root}/shards", local.files, NameTemplate("{image}.{suffix}"))
    (rows,) = read(manifest, manifest.fragments[0], local.files)
    assert rows["output_name"].to_pylist() == ["0/dir/a.jpg"]


@pytest.mark.parametrize(
    ("name", "key", "extension"), [("a/b.c/d.e.F", "a/b.c/d", "e.f"), ("x", "x", ""), (".x", "", "x"), ("a/.b", "", "b")]
)
def test_keys(name: str, key: str, extension: str) -> None:
    assert split_key(name) == (key, extension)


def test_a_run_on_ray_from_s3_and_a_changed_shard(
    ray_session: None, remote: Any, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, s3: Any
) -> None:
    photos = [path.read_bytes() for path in make_photos(tmp_path / "photos", 4)]
    for shard in range(2):
        pair = [(f"{shard}-{number}.jpg", photos[2 * shard + number]) for number in range(2)]
        remote.put(f"shards/{shard}.tar", tar(*pair))
    settings = [f"storage.{name}={value}" for name, value in s3.settings.items()]
    where = {"manifest": f"{remote.root}/shards", "output": f"{remote.root}/out", "preset": fake_preset}
    job = load_job(**where, overrides=["compute.local_items=0", *settings])
    _, record = run_job(job)
    assert (record.ok + record.review, record.failed) == (4, 0)
    assert run_job(job)[1].done_before == 4
    remote.put("shards/1.tar", tar(("readme.txt", b"new"), ("1-0.jpg", photos[2]), ("1-1.jpg", photos[0])))
    _, record = run_job(job.with_run(changed=True))
    assert record.done_before == 2  # both have another place; the text is one more sample, and fails

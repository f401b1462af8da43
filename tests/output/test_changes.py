"""Changed rows and images are found; what cannot be read counts as unchanged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import load_job
from pipeline.errors import StorageError
from pipeline.manifest.id_set import contains, hash_ids
from pipeline.manifest.manifest import open_manifest
from pipeline.manifest.snapshot import take_snapshot
from pipeline.output import changes
from pipeline.output.changes import changed
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.schema import INDEX
from pipeline.storage.files import Files
from pipeline.storage.uris import strip_signature

URIS = [
    *("a.jpg", None, "/p/a?b", "x:y", "s3://b/k", "S3://b/k", "s3://k:s@b/x", "gs://b/a@b.jpg", "aBc://x", "1a://x"),
    *("http://x/y", "http://x/y?sig=1&v=2", "HTTP://x/y", "http://u:p@h/x", "http://[bad/x", "http://[bad#x"),
    *("https://h/a?b=c#d", "http://h:80/x", "https://h/a?X-Amz-Signature=0", "a\nB://x"),
]


def test_signatures_are_removed_from_columns_as_from_single_uris() -> None:
    wanted = [uri and strip_signature(uri) for uri in URIS]
    assert changes._without_signatures(pa.chunked_array([URIS[:7], URIS[7:]], pa.string())).to_pylist() == wanted
    for uri, stripped in zip(URIS, wanted, strict=True):
        assert changes._without_signatures(pa.chunked_array([[uri]], pa.string())).to_pylist() == [stripped]


def test_requests_differ_by_id_uri_and_box() -> None:
    boxes = [None, [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.5]]
    rows = [{"item_id": item, "image_uri": uri, "box": box} for item in "ab" for uri in ("u", None) for box in boxes]
    table = pa.Table.from_pylist(rows, pa.schema([INDEX.field(name) for name in ("item_id", "image_uri", "box")]))
    hashes = changes._hash_requests(table)
    assert len(set(hashes.tolist())) == len(rows)
    assert (hashes[5:] == changes._hash_requests(table.slice(5))).all()


def test_a_point_is_a_part_of_the_request_in_whatever_form() -> None:
    plain = pa.table({"item_id": ["a"] * 3, "image_uri": ["u"] * 3, "box": pa.nulls(3, pa.list_(pa.float64()))})
    texts = changes._hash_requests(plain.append_column("point", pa.array(["3,4", "3,4.5", None])))
    lists = changes._hash_requests(plain.append_column("point", pa.array([[3, 4], [3, 4.5], None])))
    assert texts.tolist() == lists.tolist()
    assert len(set(texts.tolist())) == 3
    assert texts[2] == changes._hash_requests(plain)[2], "without a point it is the request of before"


def test_what_has_changed(tmp_path: Path) -> None:
    """Each item is named for what differs; ``index`` has the row of the former run."""
    files = Files()
    kinds = {
        "same": {},
        "touched": {"image_version": "other"},
        "unknown": {"image_version": ""},
        "image": {"image_version": "other", "image_sha256": "0" * 64},
        "uri": {"image_uri": "/elsewhere/photo.jpg"},
        "box": {"box": [0.0, 0.0, 1.0, 1.0]},
        "never-read": {"image_version": None, "image_sha256": None},
        "gone": {},
    }
    rows = []
    for name, facts in kinds.items():
        photo = tmp_path / f"{name}.jpg"
        photo.write_bytes(name.encode())
        known = {"image_version": files.version(str(photo)), "image_sha256": hashlib.sha256(name.encode()).hexdigest()}
        row = {"item_id": name, "output_name": name, "status": "ok", "image_uri": str(photo)}
        rows.append(row | known | facts)
    pq.write_table(
        pa.table({"item_id": [*kinds, "new"], "image_uri": [f"{name}.jpg" for name in [*kinds, "new"]]}), tmp_path / "m.parquet"
    )
    output = Output.at(str(tmp_path / "out"), files)
    write_part(output, pa.Table.from_pylist(rows[:3], INDEX))
    write_part(output, pa.Table.from_pylist(rows[3:], INDEX))
    (tmp_path / "gone.jpg").unlink()
    settings = {"manifest": str(tmp_path / "m.parquet"), "output": output.folder}
    manifest = open_manifest(settings["manifest"], files)
    found = changed(manifest, output, load_job(**settings, overrides=["budget.max_failed_share=0.5"]))
    assert found.tolist() == np.sort(found).tolist()
    names = [*kinds, "new"]
    assert [name for name, hit in zip(names, contains(found, hash_ids(pa.array(names))), strict=True) if hit] == [
        *("image", "uri", "box"),
    ]
    with pytest.raises(StorageError, match="1 of 5 images cannot be checked for changes"):
        changed(manifest, output, load_job(**settings, overrides=["budget.max_failed_share=0.1"]))


def test_only_failed_items_are_looked_at(tmp_path: Path) -> None:
    """Their images may be gone, which is no reason to stop."""
    rows = []
    for name in ("failed", "fixed", "gone", "ok"):
        photo = tmp_path / f"{name}.jpg"
        photo.write_bytes(name.encode())
        row = {"item_id": name, "output_name": name, "status": "ok" if name == "ok" else "failed", "image_uri": str(photo)}
        facts = {"image_version": Files().version(str(photo)), "image_sha256": hashlib.sha256(name.encode()).hexdigest()}
        rows.append(row | facts)
    for name in ("fixed", "ok"):
        (tmp_path / f"{name}.jpg").write_bytes(b"another image")
    (tmp_path / "gone.jpg").unlink()
    output = Output.at(str(tmp_path / "out"), Files())
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    pq.write_table(
        pa.table({"item_id": [row["item_id"] for row in rows], "image_uri": [row["image_uri"] for row in rows]}),
        tmp_path / "m.parquet",
    )
    manifest = open_manifest(str(tmp_path / "m.parquet"), Files())
    job = load_job(manifest=manifest.uri, output=output.folder)
    found = changed(manifest, output, job, failed_only=True)
    assert found.tolist() == hash_ids(pa.array(["fixed"])).tolist()


def test_images_that_were_just_listed_need_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, asked = Files(), list[str]()
    rows = []
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
        uri = str(tmp_path / "in" / name)
        facts = {
            "image_uri": uri,
            "image_version": files.version(uri),
            "image_sha256": hashlib.sha256(name.encode()).hexdigest(),
        }
        rows.append({"item_id": name, "output_name": name, "status": "ok"} | facts)
    output = Output.at(str(tmp_path / "out"), files)
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    (tmp_path / "in" / "b.jpg").write_bytes(b"another image")
    manifest = open_manifest(str(tmp_path / "in"), files)
    ready = take_snapshot(files.list(manifest.uri))
    version = Files.version
    monkeypatch.setattr(Files, "version", lambda self, uri: asked.append(Path(uri).name) or version(self, uri))
    found = changed(manifest, output, load_job(manifest=manifest.uri, output=output.folder), ready=ready)
    assert found.tolist() == hash_ids(pa.array(["b.jpg"])).tolist()
    assert asked == ["b.jpg"]

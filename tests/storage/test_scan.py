"""A scan lists every file, and a scan that begins behind a file lists what a whole one lists after it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.storage import local as local_module
from pipeline.storage.backend import LISTED
from pipeline.storage.files import Files

NAMES = ("a/x.png", "a-1.png", "a.png", "a/y.png", "b/c/d.png", ".hidden.png", "a/.x.png.0123456789abcdef.tmp", "é.png")


def paths(files: Files, uri: str, after: str = "") -> list[str]:
    tables = list(files.scan(uri, after))
    assert all(table.schema == LISTED for table in tables)
    return [path.decode() for table in tables for path in table["path"].to_pylist()]


def test_a_scan_lists_every_file_once(where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "SCANNED_ROWS", 3)
    for name in NAMES:
        where.put(name, name.encode())
    where.files.write(f"{where.root}-other/x.png", b"beside it")
    assert sorted(paths(where.files, where.root)) == sorted(NAMES)
    rows = [row for table in where.files.scan(where.root) for row in table.to_pylist()]
    known = {info.uri: info for info in where.files.list(where.root)}
    for row in rows:
        info = known.get(f"{where.root}/{row['path'].decode()}")
        assert row["size"] == len(row["path"])
        assert info is None or row["modified"] == pytest.approx(info.modified)
        assert abs(row["modified"] - time.time()) < 3600
    assert sorted(paths(where.files, f"{where.root}/a")) == [".x.png.0123456789abcdef.tmp", "x.png", "y.png"]
    assert paths(where.files, f"{where.root}/missing") == []


def test_a_scan_that_begins_behind_a_file_continues_in_the_order_of_the_store(remote: Any) -> None:
    for name in NAMES:
        remote.put(name, b"x")
    whole = paths(remote.files, remote.root)
    assert remote.files.can_scan_after(remote.root)
    for number, name in enumerate(whole):
        assert paths(remote.files, remote.root, name) == whole[number + 1 :]


def test_a_scan_of_other_stores_lists_every_file() -> None:
    files = Files()
    for name in NAMES:
        files.write(f"memory://scan/root/{name}", b"x")
    assert sorted(paths(files, "memory://scan/root")) == sorted(NAMES)
    assert not files.can_scan_after("memory://scan/root")


def test_names_of_any_bytes_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(b"x")
    (table,) = Files().scan(str(tmp_path))
    assert table["path"].to_pylist() == [b"\xff.png"]
    assert not Files().can_scan_after(str(tmp_path))


def test_a_bucket_that_is_missing_is_refused(remote: Any) -> None:
    with pytest.raises(StorageError):
        list(remote.files.scan("s3://no-such-bucket-here/x"))

"""Which files of a manifest are ready, and which are its files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StorageError
from pipeline.manifest import snapshot as module
from pipeline.manifest.id_set import hash_ids
from pipeline.manifest.listing import list_sources
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.manifest.snapshot import NO_FILES, only_ready, take_snapshot, unchanged
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files


def names(uri: str) -> list[str]:
    return [Path(info.uri).name for info in list_sources(uri, Files())]


def test_a_file_is_ready_once_size_and_time_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)  # more files than are compared at a time
    before = [FileInfo(f"/in/{number}.jpg", 10, f"etag-{number}", 1.0) for number in range(5)]
    now = [before[4], before[2]._replace(etag="other"), *before[:2], FileInfo("/in/new.jpg", 1, "", 2.0)]
    ready = unchanged(take_snapshot(before), take_snapshot(now))
    assert [info.uri for info in only_ready(now, ready)] == ["/in/4.jpg", "/in/0.jpg", "/in/1.jpg"]
    assert list(only_ready(now, None)) == now
    assert not list(only_ready(now, NO_FILES))
    assert ready.tolist() == sorted(ready.tolist())


def test_without_an_etag_size_and_time_are_the_version() -> None:
    info = FileInfo("memory://in/a.jpg", 10, "", 1.0)
    for other in (info._replace(size=11), info._replace(modified=2.0)):
        assert not len(unchanged(take_snapshot([info]), take_snapshot([other])))
    assert len(unchanged(take_snapshot([info]), take_snapshot([info]))) == 1


def test_hashes_are_those_of_the_index() -> None:
    """``output.changes`` looks images of the index up in a snapshot."""
    info = FileInfo("/in/ä.jpg", 10, "version", 1.0)
    assert take_snapshot([info]).tolist() == hash_ids(pa.array(["/in/ä.jpg\0version"])).tolist()
    assert len(take_snapshot([info._replace(uri="/in/\udcff.jpg")])) == 1, "a name that is not UTF-8"


def test_the_files_of_a_manifest(tmp_path: Path) -> None:
    for path in ("a.jpg", "sub/b.png", ".hidden.jpg", "Thumbs.db", "@eaDir/a.jpg", "[1].csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert names(str(tmp_path)) == ["[1].csv", "a.jpg", "b.png"]
    assert names(f"{tmp_path}/[1].csv") == ["[1].csv"]
    assert names(f"{tmp_path}/*.jpg") == ["a.jpg"]
    assert names(f"{tmp_path}/a.jpg") == ["a.jpg"]
    with pytest.raises(StorageError, match="nowhere does not exist"):
        names(f"{tmp_path}/nowhere")


@pytest.mark.parametrize("manifest", ["photos", "one.csv", "tables", "tables/*.csv"])
def test_only_ready_files_are_opened(tmp_path: Path, manifest: str) -> None:
    files, uri = Files(), str(tmp_path / manifest)
    for path in ("photos/a.jpg", "photos/b.jpg", "one.csv", "tables/1.csv", "tables/2.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"image_uri\n{path}.jpg\n")
    sources = list(list_sources(uri, files))
    assert scan(open_manifest(uri, files), files).rows == len(sources)
    one = open_manifest(uri, files, ready=take_snapshot(sources[:1]))
    rows = [row for fragment in one.fragments for table in read(one, fragment, files) for row in table.to_pylist()]
    assert len(rows) == 1 and one.is_watched
    nothing = open_manifest(uri, files, ready=NO_FILES)
    assert (nothing.fragments, scan(nothing, files).rows) == ((), 0)

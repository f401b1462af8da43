"""Pictures inside tar archives and Parquet files: their URIs, and how they are read. No archive is trusted."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.concurrency import map_ahead
from pipeline.config.job import Storage
from pipeline.errors import FetchError, ItemRefused
from pipeline.storage import parquet_cells
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.storage.members import Cell, TarMember, parse_member, split_member
from pipeline.storage.tar_members import MAX_READ_BYTES, tar_members

PLACES = st.sampled_from(["/data/a.tar", "s3://shop/shards/0#1.tar", "/x/[a] b.parquet", "/blobs/0123"])
NUMBERS = st.integers(0, 10**15 - 1)


@given(PLACES, NUMBERS, NUMBERS, st.text(min_size=1))
def test_uris_of_members_are_parsed_as_they_were_written(place: str, one: int, other: int, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()  # texts of Arrow have no halves of surrogates
    for member in (TarMember(place, one, other, text), Cell(place, one, text)):
        uri = str(member)
        assert parse_member(uri) == member
        assert split_member(uri) == (place, uri[len(place) :])
        assert "/" not in uri[len(place) :]
        assert uri[len(place) :].isprintable()


@pytest.mark.parametrize(
    "uri",
    [
        "/a/1#Bag#2.jpg",
        "/a.tar",
        "/a.tar#",
        "/a.tar#name=x",
        "/a.tar#offset=-1&size=2&name=x",
        "/a.tar#offset=1&size=2&name=a/b",
        f"/a.tar#offset={'9' * 16}&size=1&name=x",
        "/a.parquet#row=1",
        "/a.parquet#row=1e3&column=a",
        "#row=1&column=a",
    ],
)
def test_other_uris_stay_what_they_are(uri: str) -> None:
    assert parse_member(uri) is None
    assert split_member(uri) == (uri, "")


def tar_of(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def listed(data: bytes, uri: str = "/a.tar") -> list[TarMember]:
    return [member for member, _ in tar_members(uri, pa.BufferReader(data))]


def test_every_member_is_read_by_its_uri(where: Any) -> None:
    contents = {"a.jpg": b"one", "größe/" + "long" * 60 + ".jpg": os.urandom(70_000), "empty.txt": b"", "b.jpg": b"three"}
    uri = where.put("shard #1.tar", tar_of(**contents))
    members = listed(tar_of(**contents), uri)
    assert [member.name for member in members] == list(contents)
    for member, data in zip(members, contents.values(), strict=True):
        content = where.files.fetch(str(member))
        assert content.data == data
        assert content.etag == where.files.stat(uri).etag == where.files.version(str(member))


def test_a_member_that_is_not_there_is_no_other_picture(where: Any) -> None:
    data = tar_of(**{"a.jpg": b"one" * 500, "b.jpg": b"two"})
    uri = where.put("a.tar", data)
    first = listed(data, uri)[0]
    for offset in (first.offset + 512, 100, len(data), len(data) + 512, 10**14):
        with pytest.raises(FetchError, match=r"no member at this offset \('a.jpg'\); it has changed"):
            where.files.fetch(str(TarMember(uri, offset, first.size, "a.jpg")))
    with pytest.raises(FetchError, match="another member at this offset"):
        where.files.fetch(str(TarMember(uri, first.offset, 5, "a.jpg")))
    with pytest.raises(FetchError, match="limits.max_bytes is 1000"):
        where.files.fetch(str(first), max_bytes=1000)
    where.files.write(uri, data[:1000])
    with pytest.raises(FetchError, match="it ends within 'a.jpg'; it is truncated"):
        where.files.fetch(str(first))
    where.files.delete(uri)
    with pytest.raises(FetchError, match="it does not exist"):
        where.files.fetch(str(first))


def test_members_are_read_only_from_allowed_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.tar").write_bytes(tar_of(**{"a.jpg": b"secret"}))
    (tmp_path / "in" / "link.tar").symlink_to(tmp_path / "secret.tar")
    (tmp_path / "in" / "blob").write_bytes(tar_of(**{"a.jpg": b"public"}))
    (tmp_path / "in" / "inside.tar").symlink_to(tmp_path / "in" / "blob")
    roots = AllowList((str(tmp_path / "in"),))
    fragment = "#offset=0&size=6&name=a.jpg"
    outside = [f"{tmp_path}/secret.tar{fragment}", f"{tmp_path}/in/../secret.tar{fragment}"]
    inside = [f"{tmp_path}/in/link.tar{fragment}", f"{tmp_path}/in/x.tar#offset=0&size=6&name=..%2F..%2Fa.jpg"]
    assert roots.outside(pa.array([*outside, *inside])).tolist() == [True, True, False, False]
    with pytest.raises(ItemRefused, match="symbolic links"):
        roots.real_path(inside[0])
    linked = roots.real_path(f"{tmp_path}/in/inside.tar{fragment}")
    assert linked == f"{tmp_path}/in/blob{fragment}"
    assert Files().read(linked) == b"public"


# Hostile archives.


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def global_header(key: str, size: int) -> bytes:
    return tarfile.TarInfo.create_pax_global_header({key: "x" * size})


def with_size(block: bytes, field: bytes) -> bytes:
    """Replace the size in a header, and mend its checksum."""
    block = block[:124] + field + block[136:]
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + f"{total:06o}\0 ".encode() + block[156:]


END = bytes(1024)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_left_out(kind: bytes) -> None:
    data = header("../../evil.jpg", 0, kind, "/etc/passwd") + header("ok.jpg", 3) + b"abc".ljust(512, b"\0") + END
    (member,) = listed(data)
    assert (member.name, member.offset, member.size) == ("ok.jpg", 512, 3)


def test_names_are_only_names() -> None:
    names = ["../../etc/passwd", "/etc/passwd", "a\nb.jpg", "x#row=1&column=a.jpg", "\udcff.jpg", "same.jpg", "same.jpg"]
    data = b"".join(header(name, 3) + b"abc".ljust(512, b"\0") for name in names) + END
    members = listed(data)
    assert [member.name for member in members] == names
    for member in members:
        assert parse_member(str(member)) is not None
        assert split_member(str(member))[0] == "/a.tar"
    assert len({str(member) for member in members}) == len(names)  # duplicates have a place of their own


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"not a tar archive", "truncated header"),
        (os.urandom(2048), "header"),
        (with_size(header("a.jpg", 0), b"\xff" * 12) + END, "negative|invalid"),
        (with_size(header("a.jpg", 0), b"\x80" + b"\x00" * 3 + b"\x7f" + b"\xff" * 7) + END, "longer than the archive"),
        (header("a.jpg", 10**9) + END, "longer than the archive"),
        (with_size(header("x", 0, tarfile.XHDTYPE), f"{2**30:011o}\0".encode()) + END, f"it may have {MAX_READ_BYTES}"),
        (with_size(header("x", 0, tarfile.GNUTYPE_LONGNAME), f"{2**33 - 1:011o}\0".encode()) + END, "it may have"),
        (header("a.jpg", 3) + b"abc".ljust(512, b"\0") + b"damaged".ljust(512, b"x") + END, "header at offset 1024 is invalid"),
        (header("a.jpg", 3) + b"abc".ljust(512, b"\0") + header("b.jpg", 3)[:300], "header at offset 1024 is invalid"),
        (header("x", 0, tarfile.XHDTYPE) * 3000 + END, "."),
        (b"".join(global_header(f"k{number}", 500_000) + header("a", 0) for number in range(3)) + END, "global headers"),
    ],
)
def test_damaged_and_hostile_archives_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        listed(data)


def test_an_archive_without_an_end_is_read() -> None:
    assert len(listed(header("a.jpg", 3) + b"abc".ljust(512, b"\0"))) == 1


@given(st.binary(max_size=3000), st.integers(0, 6000))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    whole = tar_of(**{"a.jpg": b"x" * 700, "dir/" + "n" * 120 + ".json": b"{}", "b.jpg": b"y"})
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :], whole[:at]):
        try:
            for member in listed(data):
                assert 0 <= member.offset <= len(data) - 512 - member.size
        except ValueError:
            pass


# Parquet.


def parquet_of(pictures: list[bytes | None], *, struct: bool = True, **options: Any) -> bytes:
    sink = io.BytesIO()
    column = [None if one is None else {"bytes": one, "path": "a.jpg"} for one in pictures] if struct else pictures
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({"label": range(len(pictures)), "a picture/1": pa.array(column, kind)})
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("struct", [True, False])
def test_every_cell_is_read_by_its_uri(where: Any, struct: bool) -> None:
    pictures = [os.urandom(size) for size in range(1, 3001, 37)]
    uri = where.put("a.parquet", parquet_of(pictures, struct=struct, row_group_size=30))
    uris = [str(Cell(uri, row, "a picture/1")) for row in range(len(pictures))]
    with ThreadPoolExecutor(8) as pool:
        assert [content.data for content in pool.map(where.files.fetch, uris)] == pictures
    for row in (70, 3, 69, 40, 2):
        content = where.files.fetch(uris[row])
        assert (content.data, content.etag) == (pictures[row], where.files.stat(uri).etag)
    where.files.write(uri, parquet_of(pictures[::-1], struct=struct))
    assert where.files.read(uris[0]) == pictures[-1]


def test_a_row_group_is_read_once_and_not_held(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_cells, "KEPT_BYTES", 1_000_000)
    pictures = [os.urandom(10_000) for _ in range(600)]
    uri = local.put("a.parquet", parquet_of(pictures, row_group_size=600, compression="none", data_page_size=50_000))
    starts = []
    start = parquet_cells._Reader._start
    monkeypatch.setattr(parquet_cells._Reader, "_start", lambda self, group: (starts.append(group), start(self, group))[1])
    with ThreadPoolExecutor(8) as pool:
        found = list(map_ahead(pool, lambda row: local.files.read(str(Cell(uri, row, "a picture/1"))), range(600), 16))
    assert found == pictures
    assert starts == [0]
    reader = next(reversed(parquet_cells._readers.values()))
    assert sum(len(one or b"") for one in reader._kept.values()) < 1_000_000 + 64 * 10_000


def test_a_reader_begins_anew_after_a_failed_request(tmp_path: Path) -> None:
    """A thread that waits for the reader while another one's request fails must not take it for the end of the rows."""
    pictures = [os.urandom(50_000) for _ in range(300)]
    (tmp_path / "a.parquet").write_bytes(parquet_of(pictures, compression="none", use_dictionary=False, write_batch_size=10))
    fails = [False]

    class Source(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if fails[0]:
                raise ConnectionResetError("reset by peer")
            return super().readinto(buffer)

        def read(self, count: int = -1) -> bytes:
            if fails[0]:
                raise ConnectionResetError("reset by peer")
            return super().read(count)

    first, last = (Cell("/a.parquet", row, "a picture/1") for row in (0, 299))
    reader = parquet_cells._Reader(first, lambda: pa.PythonFile(Source(tmp_path / "a.parquet"), mode="r"))
    assert reader.read(first) == pictures[0]
    fails[0] = True
    with pytest.raises(ConnectionResetError):
        reader.read(last)
    fails[0] = False
    assert reader.read(last) == pictures[299]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ((3, "a picture/1"), "row 3 of the column 'a picture/1': the file has 3 rows"),
        ((0, "label"), "no such column of bytes; its columns are label, a picture/1"),
        ((0, "other"), "no such column of bytes"),
        ((1, "a picture/1"), "it is empty; store the picture's bytes"),
        ((2, "a picture/1"), "limits.max_bytes is 5"),
    ],
)
def test_a_cell_that_cannot_be_read(where: Any, cell: tuple[int, str], words: str) -> None:
    uri = where.put("a.parquet", parquet_of([b"one", None, b"larger"]))
    with pytest.raises(FetchError, match=words):
        where.files.fetch(str(Cell(uri, *cell)), max_bytes=5)


def test_a_damaged_parquet_file(where: Any) -> None:
    whole = parquet_of([os.urandom(5000) for _ in range(50)])
    for number, data in enumerate((whole[:-30], whole[:4] + bytes(400) + whole[404:], b"", b"x" * 50)):
        uri = where.put(f"{number}.parquet", data)
        with pytest.raises(FetchError, match="the file is damaged, or not a Parquet file|it is empty"):
            for row in range(50):
                where.files.fetch(str(Cell(uri, row, "a picture/1")))


def test_a_missing_file_and_wrong_credentials(s3: Any, remote: Any) -> None:
    uri = remote.put("a.parquet", parquet_of([b"one"]))
    member = str(Cell(uri, 0, "a picture/1"))
    wrong = Files(Storage(**(s3.settings | {"secret": "wrong-secret-value"})))
    assert remote.files.read(member) == b"one"
    with pytest.raises(FetchError, match="refused"):
        wrong.read(member)
    remote.files.delete(uri)
    with pytest.raises(FetchError, match="it does not exist"):
        remote.files.read(member)

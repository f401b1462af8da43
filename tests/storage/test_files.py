"""``Files`` on a local disk, on a real S3 server, and on servers that fail."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.config.job import Storage
from pipeline.errors import FetchError, StorageError, WriteError
from pipeline.storage import local as local_module
from pipeline.storage import s3 as s3_module
from pipeline.storage.files import Files
from pipeline.storage.fsspec_backend import file_info

MakeFiles = Callable[[], Files]

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def test_written_objects_can_be_read_and_deleted(where: Any) -> None:
    uri = f"{where.root}/deep/er/ünï cøde #1%20?.bin"
    for data in (b"first", b"", b"second, longer"):
        where.files.write(uri, data)
        assert where.files.read(uri) == data
        assert where.files.stat(uri).size == len(data)
    before = where.files.stat(uri)
    where.files.write(uri, b"third")
    assert where.files.stat(uri).etag != before.etag
    assert abs(before.modified - time.time()) < 120
    assert where.files.exists(uri)
    assert not where.files.exists(f"{where.root}/deep")
    assert where.files.is_folder(f"{where.root}/deep")
    assert not where.files.is_folder(f"{where.root}/dee")
    with where.files.open_input(uri) as file:
        assert file.read() == b"third"
    where.files.delete(uri)
    where.files.delete(uri)
    assert not where.files.exists(uri)


def test_a_read_stops_at_the_limit(where: Any) -> None:
    uri = where.put("big", b"x" * 1000)
    assert len(where.files.read(uri, max_bytes=1000)) == 1000
    with pytest.raises(FetchError, match="1000 bytes.*999"):
        where.files.read(uri, max_bytes=999)


def test_missing_objects(where: Any) -> None:
    missing = f"{where.root}/nothing/here"
    with pytest.raises(FetchError, match="nothing/here: it does not exist"):
        where.files.read(missing)
    for call in (where.files.stat, where.files.open_input, where.files.check_readable):
        with pytest.raises(StorageError, match="nothing/here: it does not exist"):
            call(missing)
    assert not where.files.exists(missing)
    assert not where.files.is_folder(missing)
    assert list(where.files.list(missing)) == []
    assert where.files.folders(missing) == ()


def test_listings_are_recursive_and_sorted_and_skip_hidden_files(where: Any) -> None:
    names = ["b/1.png", "b/2.PNG", "b.png", "a.jpg", "b/.x.0a.tmp", ".git/c.png", "b/c/d.png", "b/c.txt"]
    for name in names:
        where.put(name, name.encode())
    listed = [(info.uri.removeprefix(f"{where.root}/"), info.size) for info in where.files.list(where.root)]
    listed = listed if where.kind == "local" else sorted(listed)  # this server lists folders first, AWS sorts by bytes
    assert listed == [(name, len(name)) for name in ["a.jpg", "b.png", "b/1.png", "b/2.PNG", "b/c.txt", "b/c/d.png"]]
    pngs = [info.uri.removeprefix(f"{where.root}/") for info in where.files.list(where.root, (".png",))]
    assert sorted(pngs) == ["b.png", "b/1.png", "b/2.PNG", "b/c/d.png"]
    assert where.files.folders(where.root) in [(f"{where.root}/b",), (f"{where.root}/.git", f"{where.root}/b")]
    assert where.files.glob(f"{where.root}/*/*.png") == (f"{where.root}/b/1.png",)
    assert len(where.files.glob(f"{where.root}/**/*.png")) == 3


def test_s3_listings_have_several_pages(remote: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: remote.put(f"many/{number:04}", b""), range(1100)))
    listed = [info.uri[-4:] for info in remote.files.list(f"{remote.root}/many")]
    assert listed == [f"{number:04}" for number in range(1100)]


def test_one_of_sixteen_concurrent_creates_succeeds(where: Any) -> None:
    rounds = range(3 if where.kind == "local" else 1)
    for number in rounds:
        uri = f"{where.root}/race/{number}"
        barrier = threading.Barrier(16)

        def attempt(thread: int, uri: str = uri, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return where.files.create(uri, b"%02d" % thread * 1000)

        with ThreadPoolExecutor(16) as pool:
            created = list(pool.map(attempt, range(16)))
        assert created.count(True) == 1
        assert where.files.read(uri) == b"%02d" % created.index(True) * 1000
    assert [info.uri for info in where.files.list(f"{where.root}/race")] == [f"{where.root}/race/{number}" for number in rounds]


def test_create_works_without_hard_links(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(local_module.os, "link", unsupported)
    assert local.files.create(f"{local.root}/x", b"1")
    assert not local.files.create(f"{local.root}/x", b"2")
    assert local.files.read(f"{local.root}/x") == b"1"


def test_readers_never_see_a_partial_file(where: Any) -> None:
    uri = where.put("whole", b"\0" * 300_000)
    stop = threading.Event()

    def rewrite(fill: int) -> None:
        while not stop.is_set():
            where.files.write(uri, bytes([fill]) * 300_000)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(rewrite, fill) for fill in (1, 2)]
        reads = [where.files.read(uri) for _ in range(40)]
        stop.set()
        for writer in writers:
            writer.result()
    assert all(len(data) == 300_000 and len(set(data)) == 1 for data in reads)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = local.put("kept", b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for call in (local.files.write, local.files.create):
        with pytest.raises(WriteError, match="the disk is full"):
            call(uri, b"new")
    monkeypatch.undo()
    assert local.files.read(uri) == b"old"
    assert os.listdir(local.root) == ["kept"]  # noqa: PTH208  hidden files too


@pytest.mark.parametrize("name", ["写真" * 40 + ".png", "📷" * 60 + ".png", "é" * 120 + ".png", "a" * 251 + ".png"])
def test_every_name_that_the_disk_takes_can_be_written(local: Any, name: str) -> None:
    uri = f"{local.root}/{name}"
    local.files.write(uri, b"1")
    assert local.files.create(f"{local.root}/new/{name}", b"2")
    assert local.files.read(uri) == b"1"


def test_a_local_file_is_uploaded_whole(where: Any, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    uri = f"{where.root}/deep/er/up.bin"
    for data in (os.urandom(3_000_000), b"shorter", b""):
        source.write_bytes(data)
        where.files.upload(uri, source)
        assert where.files.read(uri) == data
    assert [info.uri for info in where.files.list(where.root)] == [uri]
    assert source.exists()


def test_an_upload_that_fails_keeps_the_old_object(s3: Any, remote: Any, local: Any, tmp_path: Path) -> None:
    uri = remote.put("x", b"1")
    reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
    (tmp_path / "new").write_bytes(b"2")
    with pytest.raises(WriteError, match="permission"):
        reader.upload(uri, tmp_path / "new")
    assert remote.files.read(uri) == b"1"
    kept = local.put("kept", b"old")
    with pytest.raises(WriteError):
        local.files.upload(f"{kept}/below-a-file", tmp_path / "new")
    assert os.listdir(local.root) == ["kept"]  # noqa: PTH208  hidden files too


PART = 5 * 2**20
"""The smallest part that S3 takes."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch, s3: Any, remote: Any) -> Callable[[], list[Any]]:
    """Upload files from 5 MiB in parts of that size. Returns a function that lists the unfinished uploads."""
    monkeypatch.setattr(s3_module, "PARTS_FROM", PART)
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)
    bucket, _, prefix = remote.root.removeprefix("s3://").partition("/")
    return lambda: s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])


def test_a_large_file_is_uploaded_in_parts(s3: Any, remote: Any, tmp_path: Path, small_parts: Callable[[], list[Any]]) -> None:
    data = os.urandom(PART + 1)
    (tmp_path / "new").write_bytes(data)
    uri = remote.put("a?versionId=1.mp4", b"old")
    remote.files.upload(uri, tmp_path / "new")
    assert remote.files.read(uri) == data
    assert remote.files.stat(uri).etag.endswith("-2"), "two parts"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    assert s3.client().head_object(Bucket=bucket, Key=key)["ContentType"] == "video/mp4"
    assert [info.uri for info in remote.files.list(remote.root)] == [uri] and not small_parts()


@pytest.mark.parametrize("fault", ["part", "joining", "deadline"])
def test_an_upload_in_parts_that_fails_leaves_nothing(
    s3: Any, remote: Any, tmp_path: Path, small_parts: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    uri = remote.put("clip.mp4", b"old")
    (tmp_path / "new").write_bytes(bytes(2 * PART))
    backend = remote.files._backend(uri, WriteError)
    call, begun = backend.fs._call_s3, list[Any]()
    bucket, _, key = uri.removeprefix("s3://").partition("/")

    async def failing(method: str, *given: Any, **options: Any) -> Any:
        if method == "complete_multipart_upload" or (options.get("PartNumber") == 2 and fault != "joining"):
            begun.append((small_parts(), s3.get(bucket, key)))
            if fault == "deadline":
                await asyncio.sleep(60)
            raise PermissionError("refused")
        return await call(method, *given, **options)

    monkeypatch.setattr(backend.fs, "_call_s3", failing)
    with pytest.raises(TimeoutError if fault == "deadline" else PermissionError):
        backend.upload(uri, tmp_path / "new", 4.0 if fault == "deadline" else 60.0)
    ((uploads, content),) = begun
    assert len(uploads) == 1 and content == b"old", "the upload had begun"
    assert remote.files.read(uri) == b"old" and not small_parts()


def test_an_upload_in_parts_begins_anew_if_the_answer_was_lost(
    remote: Any, tmp_path: Path, small_parts: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, data = f"{remote.root}/clip.mp4", os.urandom(PART)
    (tmp_path / "new").write_bytes(data)
    backend = remote.files._backend(uri, WriteError)
    call, joined = backend.fs._call_s3, []

    async def lossy(method: str, *given: Any, **options: Any) -> Any:
        answer = await call(method, *given, **options)
        if method == "complete_multipart_upload":
            joined.append(answer)
            if len(joined) == 1:  # botocore repeats the request, and AWS may not know the upload any more
                raise OSError from ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")
        return answer

    monkeypatch.setattr(backend.fs, "_call_s3", lossy)
    remote.files.upload(uri, tmp_path / "new")
    assert len(joined) == 2 and remote.files.read(uri) == data and not small_parts()


def test_links_are_local(local: Any, remote: Any) -> None:
    target = local.put("photo.jpg", b"x")
    for _ in range(2):
        local.files.link(target, f"{local.root}/deep/link.jpg")
    assert Path(local.root, "deep/link.jpg").is_symlink() and local.files.read(f"{local.root}/deep/link.jpg") == b"x"
    assert os.listdir(f"{local.root}/deep") == ["link.jpg"]  # noqa: PTH208  hidden files too
    for one, other in ((target, f"{remote.root}/link.jpg"), (f"{remote.root}/x", f"{local.root}/link.jpg")):
        with pytest.raises(WriteError, match="only local files can be linked"):
            local.files.link(one, other)


def test_a_file_that_is_rewritten_while_it_is_read_is_read_again(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of two versions may decode: the checksums of JPEG are those of nobody."""
    path = Path(local.root) / "photo.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a" * 3_000_000)
    os.utime(path, (1, 1))
    real, changes = os.fdopen, [b"b", b"c"]

    class Torn(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            half = super().read(1_000_000)
            if changes:
                path.write_bytes(changes.pop() * 3_000_000)
            return half + super().read(size)

    monkeypatch.setattr(
        os, "fdopen", lambda descriptor, mode: Torn(descriptor, mode) if mode == "rb" else real(descriptor, mode)
    )
    assert local.files.read(str(path)) == b"b" * 3_000_000
    changes += [b"d"] * 1000
    with pytest.raises(FetchError, match=r"photo.jpg: it changed while it was read; wait until it is written"):
        local.files.read(str(path), timeout_s=1)


def test_special_local_files_fail_their_item(local: Any) -> None:
    local.put("folder/file", b"x")
    os.mkfifo(f"{local.root}/pipe")
    (Path(local.root) / "loop").symlink_to("loop")
    for name, words in (
        ("folder", "a folder"),
        ("pipe", "a device or a pipe"),
        ("loop", "form a loop"),
        ("folder/file/below", "not a folder"),
        ("n" * 300, "too long"),
        ("nul\0byte", "invalid characters"),
    ):
        with pytest.raises(FetchError, match=words):
            local.files.read(f"{local.root}/{name}")
    with pytest.raises(FetchError, match="device"):
        local.files.read("/dev/zero", max_bytes=10)
    with pytest.raises(WriteError, match="not a folder"):
        local.files.write(f"{local.root}/folder/file/below", b"")


def test_usable_folders_pass_the_checks(where: Any) -> None:
    uri = where.put("in/x.csv", b"x")
    where.files.check_readable(uri)
    where.files.check_readable(f"{where.root}/in")
    where.files.check_writable(f"{where.root}/out/deep")
    assert [info.uri for info in where.files.list(where.root)] == [uri]
    if where.kind == "local":
        assert os.listdir(f"{where.root}/out/deep") == []  # noqa: PTH208  hidden files too


def test_outputs_below_a_file_or_on_a_read_only_system_are_refused(local: Any) -> None:
    uri = local.put("file", b"x")
    for folder in (f"{uri}/out", "/proc/matteline-cannot-be-here"):
        with pytest.raises(StorageError, match="output can't be written to"):
            local.files.check_writable(folder)


def test_a_read_only_user_can_read_but_not_write(s3: Any, remote: Any) -> None:
    uri = remote.put("x", b"1")
    reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
    assert reader.read(uri) == b"1"
    reader.check_readable(uri)
    with pytest.raises(StorageError, match="can't be written to.*permission"):
        reader.check_writable(remote.root)
    for call, target in ((reader.write, uri), (reader.create, f"{uri}2")):
        with pytest.raises(WriteError, match="permission"):
            call(target, b"2")
    with pytest.raises(StorageError, match="permission"):
        reader.delete(uri)


@pytest.mark.parametrize("changed", [{"secret": "wrong-secret-value"}, {"key": "unknown-key", "secret": "wrong-secret-value"}])
def test_wrong_credentials_are_reported_without_their_values(s3: Any, remote: Any, changed: dict[str, str]) -> None:
    uri = remote.put("x", b"1")
    files = Files(Storage(**(s3.settings | changed)))
    for call in (files.check_readable, files.check_writable, lambda folder: list(files.list(folder))):
        with pytest.raises(StorageError, match="credentials were refused") as refused:
            call(remote.root)
        assert "wrong-secret-value" not in str(refused.value)
    with pytest.raises(FetchError, match="credentials were refused") as failed:
        files.read(uri)
    for text in (str(failed.value), repr(failed.value), repr(files), repr(files.storage)):
        assert "wrong-secret-value" not in text
        assert s3.secret not in text


def test_missing_credentials(s3: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    settings: list[tuple[dict[str, Any], str]] = [
        ({}, "no credentials were found"),
        ({"profile": "nobody"}, "profile"),
        ({"anonymous": True}, "permission"),
    ]
    for setting, words in settings:
        with pytest.raises(StorageError, match=words):
            Files(Storage(endpoint_url=s3.endpoint_url, **setting)).check_readable(remote.root)


def test_a_profile_or_the_aws_variables_are_sufficient(
    s3: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = remote.put("x", b"1")
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id={s3.key}\naws_secret_access_key={s3.secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert Files(Storage(endpoint_url=s3.endpoint_url, profile="mine", region="us-east-1")).read(uri) == b"1"
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    assert Files(Storage(region="eu-west-1")).read(uri) == b"1"  # new settings, so a new connection


def test_buckets_are_never_created(s3: Any, remote: Any) -> None:
    missing = "s3://no-such-bucket-of-ours"
    with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket-of-ours'; create it"):
        remote.files.check_writable(f"{missing}/out")
    for call in (remote.files.check_readable, lambda folder: list(remote.files.list(folder)), remote.files.folders):
        with pytest.raises(StorageError, match="no bucket"):
            call(f"{missing}/in")
    with pytest.raises(FetchError, match="no bucket"):
        remote.files.read(f"{missing}/x")
    assert "no-such-bucket-of-ours" not in [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]]


def test_a_bucket_is_a_folder(s3: Any) -> None:
    bucket, files = f"s3://{s3.make_bucket()}", Files(Storage(**s3.settings))
    files.check_writable(bucket)
    files.write(f"{bucket}/a.jpg", b"1")
    files.check_readable(bucket)
    assert files.is_folder(bucket) and not files.exists(bucket)
    assert [info.uri for info in files.list(bucket)] == [f"{bucket}/a.jpg"]
    with pytest.raises(FetchError, match="does not exist"):
        files.read(bucket)


def test_unreachable_and_invalid_endpoints() -> None:
    files = Files(Storage(endpoint_url="http://127.0.0.1:9", key="k", secret="s3cr3t-of-the-test", region="us-east-1"))
    with pytest.raises(StorageError, match="(can't be reached|timed out); check .*storage.endpoint_url") as refused:
        files.check_readable("s3://bucket/x")
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(FetchError, match="can't be reached|timed out"):
        files.read("s3://bucket/x", timeout_s=0.5)
    with pytest.raises(StorageError, match="invalid characters"):
        Files(Storage(endpoint_url="not a url", key="k", secret="s")).check_readable("s3://bucket/x")


def test_unknown_schemes(local: Any) -> None:
    with pytest.raises(FetchError, match="nosuchscheme://bucket/x: .*s3://"):
        local.files.read("nosuchscheme://bucket/x")


@pytest.mark.parametrize("uri", ["hdfs://node:8020/a.csv", "webhdfs://node:9870/a.csv", "ftp://host/a.csv"])
def test_schemes_of_servers_are_refused(uri: str) -> None:
    """Their host was dropped, or ended the command with a traceback."""
    for call, error in ((Files().read, FetchError), (Files().exists, StorageError), (Files().check_readable, StorageError)):
        with pytest.raises(error, match=f"{uri}: .*names a server, and only buckets can be opened; mount its folder"):
            call(uri)


def test_other_fsspec_filesystems() -> None:
    files = Files()
    files.write("memory://tests/a/1.png", b"1")
    assert files.create("memory://tests/a/2.png", b"2")
    assert not files.create("memory://tests/a/2.png", b"3")
    assert files.read("memory://tests/a/2.png", max_bytes=5) == b"2"
    assert [(info.uri, info.size) for info in files.list("memory://tests")] == [
        (f"memory://tests/a/{number}.png", 1) for number in (1, 2)
    ]
    assert files.folders("memory://tests") == ("memory://tests/a",)
    assert files.glob("memory://tests/*/1.*") == ("memory://tests/a/1.png",)
    files.delete("memory://tests/a/1.png")
    files.delete("memory://tests/a/1.png")
    assert not files.exists("memory://tests/a/1.png")
    with pytest.raises(FetchError, match="does not exist"):
        files.read("memory://tests/a/1.png")
    with files.open_input("memory://tests/a/2.png") as file:
        assert file.read() == b"2"


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        ({"last_modified": datetime(2026, 1, 2, tzinfo=UTC)}, 1767312000),  # Azure
        ({"LastModified": "2026-01-02T00:00:00+00:00"}, 1767312000),
        ({"modificationTime": 1767312000_000}, 1767312000),  # HDFS, in milliseconds
        ({"mtime": 1767312000.0}, 1767312000),
        ({"changed": "yesterday"}, 0),
        ({}, 0),
    ],
)
def test_times_of_all_stores_are_understood_or_unknown(info: dict[str, Any], seconds: float) -> None:
    assert file_info("az://container/key", {"size": 1, **info}).modified == seconds


def test_files_are_pickled_as_settings_only(where: Any) -> None:
    uri = where.put("x", b"1")
    packed = pickle.dumps(where.files)
    assert len(packed) < 1500
    assert pickle.loads(packed).read(uri) == b"1"


def test_many_threads_share_one_connection_pool(where: Any) -> None:
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda number: where.put(f"t/{number}", str(number).encode()), range(200)))
        read = list(pool.map(lambda number: where.files.read(f"{where.root}/t/{number}"), range(200)))
    assert read == [str(number).encode() for number in range(200)]


def test_operations_survive_an_outage_of_the_server(s3: Any, tmp_path: Path) -> None:
    server = type(s3)(tmp_path)  # other tests share the fixture's server
    server.start()
    try:
        files = Files(Storage(**server.settings))
        uri = server.put(server.make_bucket(), "x", b"1")
        bucket = uri.rpartition("/")[0]
        assert files.read(uri) == b"1"
        server.stop()
        with ThreadPoolExecutor(4) as pool:
            read = pool.submit(files.read, uri)
            written = pool.submit(files.write, f"{bucket}/y", b"2")
            created = pool.submit(files.create, f"{bucket}/z", b"3")
            listed = pool.submit(lambda: [info.uri for info in files.list(bucket)])
            time.sleep(0.5)
            server.start()
            assert read.result() == b"1"
            written.result()
            assert created.result() is True
            assert uri in listed.result()
        assert files.read(f"{bucket}/y") == b"2"
    finally:
        server.stop()


def test_truncated_bodies_and_slow_down_are_retried(web: Any, fake_s3: MakeFiles) -> None:
    web.say((200, {"Content-Length": "10"}, b"12345"), (503, {}, SLOW_DOWN), (500, {}, b""), (200, {}, b"1234567890"))
    assert fake_s3().read("s3://bucket/x") == b"1234567890"
    assert len(web.seen) >= 4


def test_persistent_errors_are_reported(web: Any, fake_s3: MakeFiles) -> None:
    odd = b"<Error><Code>Odd</Code><Message>key s3cr3t-of-the-test</Message></Error>"
    for status, body, words in (
        (503, SLOW_DOWN, r"kept failing \(SlowDown\)|timed out"),
        (400, odd, r"refused the request \(Odd\)"),
    ):
        web.say((status, {}, body))
        with pytest.raises(FetchError, match=words) as failed:
            fake_s3().read("s3://bucket/x", timeout_s=2)
        assert "s3cr3t" not in str(failed.value)


def test_an_upload_is_repeated_from_the_start_of_its_file(web: Any, fake_s3: MakeFiles, tmp_path: Path) -> None:
    """botocore gives up after four attempts; whoever repeats the request must not go on at the end of the file."""
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 100_000)
    web.say(*[(503, {}, SLOW_DOWN)] * 4, (200, {}, b""))
    fake_s3().upload("s3://bucket/x", source)
    assert [(method, headers.get("Content-Length")) for method, _, headers in web.seen] == [("PUT", "100000")] * 5


def test_create_recognizes_its_own_object_after_four_lost_responses(web: Any, fake_s3: MakeFiles) -> None:
    exists = (412, {}, b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>")
    web.say(*[(503, {}, SLOW_DOWN)] * 4, exists, (200, {}, b"mine"))
    assert fake_s3().create("s3://bucket/x", b"mine") is True


def test_create_recognizes_its_own_object_after_a_lost_response(web: Any, fake_s3: MakeFiles) -> None:
    """The first PUT creates the object but returns an error; the retry finds the object and compares its content."""
    exists = (412, {}, b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>")
    for answers, created in (
        (((500, {}, b""), exists, (200, {}, b"mine")), True),
        (((500, {}, b""), exists, (200, {}, b"theirs")), False),
        ((exists, (200, {}, b"mine")), False),
    ):
        web.say(*answers)
        assert fake_s3().create("s3://bucket/x", b"mine") is created
    assert [method for method, _, _ in web.seen] == ["PUT"]


def test_web_servers_are_read_only_and_must_be_allowed(web: Any) -> None:
    allowed, signed = Files(Storage(allow_roots=(web.url,))), f"{web.url}/a.jpg?X-Amz-Signature=abc%2Fdef"
    with pytest.raises(FetchError, match=rf"add --allow-root {web.url}, or storage.http=true") as refused:
        Files().read(signed)
    assert "abc" not in str(refused.value)
    web.say((200, {}, b"jpeg"))
    assert allowed.read(signed, max_bytes=4) == b"jpeg"
    assert web.seen[0][1] == "/a.jpg?X-Amz-Signature=abc%2Fdef"
    with pytest.raises(FetchError, match="at least 4 bytes; limits.max_bytes is 3"):
        allowed.read(signed, max_bytes=3)
    for status, words in ((404, "does not exist"), (403, "may have expired"), (418, "HTTP 418")):
        web.say((status, {}, b""))
        with pytest.raises(FetchError, match=words) as failed:
            allowed.read(signed)
        assert "abc" not in str(failed.value)
        assert len(web.seen) == 1
    web.say((503, {}, b""), (200, {"Content-Length": "9"}, b"cut"), (200, {}, b"jpeg"))
    assert allowed.read(signed) == b"jpeg"
    web.say((500, {}, b""))
    with pytest.raises(FetchError, match=r"kept failing \(HTTP 500\)"):
        allowed.read(signed, timeout_s=0.5)
    with pytest.raises(FetchError, match="can't be reached|timed out"):
        Files(Storage(allow_roots=("http://127.0.0.1:9",))).read("http://127.0.0.1:9/a.jpg", timeout_s=0.5)
    with pytest.raises(StorageError, match="images only"):
        allowed.check_readable(signed)
    with pytest.raises(WriteError, match="images only"):
        allowed.write(signed, b"")


def test_dangling_links_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    found = [(info.uri.rpartition("/")[2], info.size) for info in Files().list(str(tmp_path))]
    assert found == [("a.jpg", 1), ("circle.jpg", 0), ("dangling.jpg", 0)]


def test_versions_change_with_the_content(where: Any) -> None:
    uri = where.put("x", b"1")
    first = where.files.fetch(uri)
    assert first.data == b"1" and first.etag and first.etag == where.files.version(uri)
    where.put("x", b"2")
    assert where.files.version(uri) != first.etag


@pytest.mark.parametrize(
    ("headers", "version"),
    [({"ETag": '"abc"'}, "abc"), ({"ETag": 'W/"abc"'}, "abc"), ({"Last-Modified": "Mon, 01"}, "Mon, 01"), ({}, "")],
)
def test_versions_of_web_servers(web: Any, headers: dict[str, str], version: str) -> None:
    files = Files(Storage(allow_roots=(web.url,)))
    web.say((200, headers, b"1"))
    assert files.version(f"{web.url}/a.jpg") == version
    assert files.fetch(f"{web.url}/a.jpg") == (b"1", version)


def test_version_and_fetch_agree_on_a_store_without_etags(web: Any, fake_s3: MakeFiles) -> None:
    web.say((200, {"Last-Modified": "Thu, 01 Jan 2026 12:00:00 GMT"}, b"123"))
    files = fake_s3()
    assert files.version("s3://bucket/x") == files.fetch("s3://bucket/x").etag != ""


def test_files_that_are_deleted_during_a_listing_are_skipped(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c/d.jpg", "e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    listing = Files().list(str(tmp_path))
    assert next(listing).uri.endswith("a.jpg")
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "c" / "d.jpg").unlink()
    (tmp_path / "c").rmdir()
    assert [info.uri for info in listing] == [str(tmp_path / "e.jpg")]

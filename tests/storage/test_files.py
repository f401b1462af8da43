"""The door to bytes, on a disk and on a real S3 server, and on servers that misbehave."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import FetchError, StorageError, WriteError
from pipeline.storage import local as local_place
from pipeline.storage.files import Files

MakeFiles = Callable[[], Files]


def test_what_was_written_is_read(where: Any) -> None:
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


def test_what_is_missing(where: Any) -> None:
    missing = f"{where.root}/nothing/here"
    with pytest.raises(FetchError, match="nothing/here: it does not exist"):
        where.files.read(missing)
    for ask in (where.files.stat, where.files.open_input, where.files.check_readable):
        with pytest.raises(StorageError, match="nothing/here: it does not exist"):
            ask(missing)
    assert not where.files.exists(missing)
    assert not where.files.is_folder(missing)
    assert list(where.files.list(missing)) == []
    assert where.files.folders(missing) == ()


def test_a_listing_is_recursive_sorted_and_blind_to_what_is_hidden(where: Any) -> None:
    names = ["b/1.png", "b/2.PNG", "b.png", "a.jpg", "b/.x.0a.tmp", ".git/c.png", "b/c/d.png", "b/c.txt"]
    for name in names:
        where.put(name, name.encode())
    found = [(info.uri.removeprefix(f"{where.root}/"), info.size) for info in where.files.list(where.root)]
    found = found if where.kind == "local" else sorted(found)  # this server puts folders first, AWS goes by bytes
    assert found == [(name, len(name)) for name in ["a.jpg", "b.png", "b/1.png", "b/2.PNG", "b/c.txt", "b/c/d.png"]]
    pngs = [info.uri.removeprefix(f"{where.root}/") for info in where.files.list(where.root, (".png",))]
    assert sorted(pngs) == ["b.png", "b/1.png", "b/2.PNG", "b/c/d.png"]
    assert where.files.folders(where.root) in [(f"{where.root}/b",), (f"{where.root}/.git", f"{where.root}/b")]
    assert where.files.glob(f"{where.root}/*/*.png") == (f"{where.root}/b/1.png",)
    assert len(where.files.glob(f"{where.root}/**/*.png")) == 3


def test_a_listing_of_many_pages(remote: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: remote.put(f"many/{number:04}", b""), range(1100)))
    found = [info.uri[-4:] for info in remote.files.list(f"{remote.root}/many")]
    assert found == [f"{number:04}" for number in range(1100)]


def test_of_sixteen_that_create_one_wins(where: Any) -> None:
    turns = range(3 if where.kind == "local" else 1)
    for turn in turns:
        uri = f"{where.root}/race/{turn}"
        start = threading.Barrier(16)

        def attempt(number: int, uri: str = uri, start: threading.Barrier = start) -> bool:
            start.wait()
            return where.files.create(uri, b"%02d" % number * 1000)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(attempt, range(16)))
        assert won.count(True) == 1
        assert where.files.read(uri) == b"%02d" % won.index(True) * 1000
    assert [info.uri for info in where.files.list(f"{where.root}/race")] == [f"{where.root}/race/{turn}" for turn in turns]


def test_without_hard_links_there_is_still_one_winner(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(local_place.os, "link", unsupported)
    assert local.files.create(f"{local.root}/x", b"1")
    assert not local.files.create(f"{local.root}/x", b"2")
    assert local.files.read(f"{local.root}/x") == b"1"


def test_readers_never_see_half_a_file(where: Any) -> None:
    uri = where.put("whole", b"\0" * 300_000)
    stop = threading.Event()

    def rewrite(fill: int) -> None:
        while not stop.is_set():
            where.files.write(uri, bytes([fill]) * 300_000)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(rewrite, fill) for fill in (1, 2)]
        seen = [where.files.read(uri) for _ in range(40)]
        stop.set()
        for writer in writers:
            writer.result()
    assert all(len(data) == 300_000 and len(set(data)) == 1 for data in seen)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = local.put("kept", b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="the disk is full"):
        local.files.write(uri, b"new")
    with pytest.raises(WriteError, match="the disk is full"):
        local.files.create(f"{local.root}/other", b"new")
    monkeypatch.undo()
    assert local.files.read(uri) == b"old"
    assert os.listdir(local.root) == ["kept"]  # noqa: PTH208  hidden files too


def test_local_oddities_are_the_items_fault(local: Any) -> None:
    local.put("folder/file", b"x")
    os.mkfifo(f"{local.root}/pipe")
    (Path(local.root) / "loop").symlink_to("loop")
    for name, words in [
        ("folder", "a folder"),
        ("pipe", "a device or a pipe"),
        ("loop", "go round in a circle"),
        ("folder/file/below", "not a folder"),
        ("n" * 300, "too long"),
        ("nul\0byte", "can't have"),
    ]:
        with pytest.raises(FetchError, match=words):
            local.files.read(f"{local.root}/{name}")
    with pytest.raises(FetchError, match="device"):
        local.files.read("/dev/zero", max_bytes=10)
    with pytest.raises(WriteError, match="not a folder"):
        local.files.write(f"{local.root}/folder/file/below", b"")


def test_places_that_can_be_used_pass_the_checks(where: Any) -> None:
    uri = where.put("in/x.csv", b"x")
    where.files.check_readable(uri)
    where.files.check_readable(f"{where.root}/in")
    where.files.check_writable(f"{where.root}/out/deep")
    assert [info.uri for info in where.files.list(where.root)] == [uri]
    if where.kind == "local":
        assert os.listdir(f"{where.root}/out/deep") == []  # noqa: PTH208  hidden files too


def test_an_output_on_a_file_or_a_read_only_system_is_refused(local: Any) -> None:
    uri = local.put("file", b"x")
    for folder in (f"{uri}/out", "/proc/matteline-cannot-be-here"):
        with pytest.raises(StorageError, match="output can't be written to"):
            local.files.check_writable(folder)


def test_a_reader_may_read_but_not_write(s3: Any, remote: Any) -> None:
    uri = remote.put("x", b"1")
    reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
    assert reader.read(uri) == b"1"
    reader.check_readable(uri)
    with pytest.raises(StorageError, match="can't be written to.*permission"):
        reader.check_writable(remote.root)
    with pytest.raises(WriteError, match="permission"):
        reader.write(uri, b"2")
    with pytest.raises(WriteError, match="permission"):
        reader.create(f"{uri}2", b"2")
    with pytest.raises(StorageError, match="permission"):
        reader.delete(uri)


@pytest.mark.parametrize(
    "changed", [{"secret": "wrong-secret-value"}, {"key": "nobody-we-know", "secret": "wrong-secret-value"}]
)
def test_wrong_credentials_are_named_without_being_told(s3: Any, remote: Any, changed: dict[str, str]) -> None:
    uri = remote.put("x", b"1")
    files = Files(Storage(**(s3.settings | changed)))
    for ask in (files.check_readable, files.check_writable, lambda backend: list(files.list(backend))):
        with pytest.raises(StorageError, match="credentials were refused") as refused:
            ask(remote.root)
        assert "wrong-secret-value" not in str(refused.value)
    with pytest.raises(FetchError, match="credentials were refused") as failed:
        files.read(uri)
    for text in (str(failed.value), repr(failed.value), repr(files), repr(files.storage)):
        assert "wrong-secret-value" not in text
        assert s3.secret not in text


def test_no_credentials_at_all(s3: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(StorageError, match="no credentials were found"):
        Files(Storage(endpoint_url=s3.endpoint_url)).check_readable(remote.root)
    with pytest.raises(StorageError, match="profile"):
        Files(Storage(endpoint_url=s3.endpoint_url, profile="nobody")).check_readable(remote.root)
    with pytest.raises(StorageError, match="permission"):
        Files(Storage(endpoint_url=s3.endpoint_url, anonymous=True)).check_readable(remote.root)


def test_the_aws_variables_and_a_profile_are_enough(
    s3: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = remote.put("x", b"1")
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id={s3.key}\naws_secret_access_key={s3.secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert Files(Storage(endpoint_url=s3.endpoint_url, profile="mine", region="us-east-1")).read(uri) == b"1"
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    assert Files(Storage(region="eu-west-1")).read(uri) == b"1"  # settings not seen before, so a connection not made before


def test_a_bucket_is_never_made(s3: Any, remote: Any) -> None:
    missing = "s3://no-such-bucket-of-ours"
    with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket-of-ours'; create it"):
        remote.files.check_writable(f"{missing}/out")
    for ask in (remote.files.check_readable, lambda backend: list(remote.files.list(backend)), remote.files.folders):
        with pytest.raises(StorageError, match="no bucket"):
            ask(f"{missing}/in")
    with pytest.raises(FetchError, match="no bucket"):
        remote.files.read(f"{missing}/x")
    assert "no-such-bucket-of-ours" not in [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]]


def test_a_bucket_itself_is_a_folder(s3: Any) -> None:
    bucket, files = f"s3://{s3.make_bucket()}", Files(Storage(**s3.settings))
    files.check_writable(bucket)
    files.write(f"{bucket}/a.jpg", b"1")
    files.check_readable(bucket)
    assert files.is_folder(bucket) and not files.exists(bucket)
    assert [info.uri for info in files.list(bucket)] == [f"{bucket}/a.jpg"]
    with pytest.raises(FetchError, match="does not exist"):
        files.read(bucket)


def test_an_endpoint_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(Storage(endpoint_url="http://127.0.0.1:9", key="k", secret="s3cr3t-of-the-test", region="us-east-1"))
    with pytest.raises(StorageError, match="can't be reached; check .*storage.endpoint_url") as refused:
        files.check_readable("s3://bucket/x")
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(FetchError, match=r"can't be reached|no answer came in time"):
        files.read("s3://bucket/x", timeout_s=0.5)
    with pytest.raises(StorageError, match="characters"):
        Files(Storage(endpoint_url="not a url", key="k", secret="s")).check_readable("s3://bucket/x")


def test_unknown_schemes(local: Any) -> None:
    with pytest.raises(FetchError, match="nosuchscheme://bucket/x: .*s3://"):
        local.files.read("nosuchscheme://bucket/x")


def test_any_fsspec_filesystem_will_do() -> None:
    files = Files()
    files.write("memory://tests/a/1.png", b"1")
    assert files.create("memory://tests/a/2.png", b"2")
    assert not files.create("memory://tests/a/2.png", b"3")
    assert files.read("memory://tests/a/2.png", max_bytes=5) == b"2"
    assert [(info.uri, info.size) for info in files.list("memory://tests")] == [
        ("memory://tests/a/1.png", 1),
        ("memory://tests/a/2.png", 1),
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


def test_files_travel_between_processes_as_settings_only(where: Any) -> None:
    uri = where.put("x", b"1")
    packed = pickle.dumps(where.files)
    assert len(packed) < 1500
    assert pickle.loads(packed).read(uri) == b"1"


def test_many_threads_share_one_connection_pool(where: Any) -> None:
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda number: where.put(f"t/{number}", str(number).encode()), range(200)))
        read = list(pool.map(lambda number: where.files.read(f"{where.root}/t/{number}"), range(200)))
    assert read == [str(number).encode() for number in range(200)]


def test_an_outage_of_the_server_is_waited_out(s3: Any, tmp_path: Path) -> None:
    server = type(s3)(tmp_path)  # not the one that other tests share
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


def test_a_body_cut_short_and_a_slow_down_are_tried_again(web: Any, fake_s3: MakeFiles) -> None:
    slow = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    web.say((200, {"Content-Length": "10"}, b"12345"), (503, {}, slow), (500, {}, b""), (200, {}, b"1234567890"))
    assert fake_s3().read("s3://bucket/x") == b"1234567890"
    assert len(web.seen) >= 4


def test_a_fault_that_stays_is_told_at_the_deadline(web: Any, fake_s3: MakeFiles) -> None:
    slow = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    web.say((503, {}, slow))
    with pytest.raises(FetchError, match=r"kept failing \(SlowDown\)|no answer"):
        fake_s3().read("s3://bucket/x", timeout_s=2)
    with pytest.raises(FetchError, match="refused the request .Odd."):
        web.say((400, {}, b"<Error><Code>Odd</Code><Message>key s3cr3t-of-the-test</Message></Error>"))
        fake_s3().read("s3://bucket/x", timeout_s=2)


def test_a_create_whose_answer_was_lost_knows_its_own_object(web: Any, fake_s3: MakeFiles) -> None:
    """The first PUT made the object, but its answer was an error; the second one meets it and must not think it lost."""
    exists = b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition></Error>"
    web.say((500, {}, b""), (412, {}, exists), (200, {}, b"mine"))
    assert fake_s3().create("s3://bucket/x", b"mine") is True
    web.say((500, {}, b""), (412, {}, exists), (200, {}, b"theirs"))
    assert fake_s3().create("s3://bucket/x", b"mine") is False
    web.say((412, {}, exists), (200, {}, b"mine"))
    assert fake_s3().create("s3://bucket/x", b"mine") is False
    assert [method for method, _, _ in web.seen] == ["PUT"]


def test_images_on_the_web_are_read_only_if_allowed(web: Any) -> None:
    allowed, signed = Files(Storage(allow_roots=(web.url,))), f"{web.url}/a.jpg?X-Amz-Signature=abc%2Fdef"
    with pytest.raises(FetchError, match=rf"add --allow-root {web.url}, or storage.http=true") as refused:
        Files().read(signed)
    assert "abc" not in str(refused.value)
    web.say((200, {}, b"jpeg"))
    assert allowed.read(signed, max_bytes=4) == b"jpeg"
    assert web.seen[0][1] == "/a.jpg?X-Amz-Signature=abc%2Fdef"
    with pytest.raises(FetchError, match="4 bytes or more; limits.max_bytes is 3"):
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
    with pytest.raises(FetchError, match=r"can't be reached|no answer"):
        Files(Storage(allow_roots=("http://127.0.0.1:9",))).read("http://127.0.0.1:9/a.jpg", timeout_s=0.5)
    with pytest.raises(StorageError, match="images only"):
        allowed.check_readable(signed)
    with pytest.raises(WriteError, match="images only"):
        allowed.write(signed, b"")


def test_links_that_lead_nowhere_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    assert [info.uri for info in Files().list(str(tmp_path))] == [str(tmp_path / "a.jpg")]


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
def test_versions_on_the_web(web: Any, headers: dict[str, str], version: str) -> None:
    files = Files(Storage(allow_roots=(web.url,)))
    web.say((200, headers, b"1"))
    assert files.version(f"{web.url}/a.jpg") == version
    assert files.fetch(f"{web.url}/a.jpg") == (b"1", version)


def test_files_that_vanish_while_they_are_listed_do_not_end_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c/d.jpg", "e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    listing = Files().list(str(tmp_path))
    assert next(listing).uri.endswith("a.jpg")
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "c" / "d.jpg").unlink()
    (tmp_path / "c").rmdir()
    assert [info.uri for info in listing] == [str(tmp_path / "e.jpg")]


def test_reading_and_asking_name_the_same_version_where_a_store_has_no_etags(web: Any, fake_s3: Any) -> None:
    web.say((200, {"Last-Modified": "Thu, 01 Jan 2026 12:00:00 GMT"}, b"123"))
    files = fake_s3()
    assert files.version("s3://bucket/x") == files.fetch("s3://bucket/x").etag != ""

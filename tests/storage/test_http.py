"""The HTTP backend for images: allow-list, SSRF guard, redirects and proxies."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import FetchError
from pipeline.storage import http as http_module
from pipeline.storage.files import Files
from pipeline.storage.http import download, is_public


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def files(*allowed: str, http: bool = False) -> Files:
    return Files(Storage(allow_roots=allowed, http=http))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("168.63.129.16", "192.0.0.192", "100.100.100.200", "192.88.99.1", "::ffff:168.63.129.16", "64:ff9b::a83f:8110"),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "64:ff9b:1::1"),
    ],
)
def test_non_public_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0"),
        "①②⑦.⓪.⓪.①",
    ],
)
def test_no_spelling_reaches_the_loopback_interface(web: Any, host: str) -> None:
    web.say((200, {}, b"secret"))
    port = web.url.rpartition(":")[2]
    with pytest.raises(FetchError, match="non-public address|invalid characters") as refused:
        files(http=True).read(f"http://{host}:{port}/a.jpg?token=pass-word", timeout_s=5)
    assert "pass-word" not in str(refused.value)
    assert web.seen == []


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "10.0.0.1", "[64:ff9b::a9fe:a9fe]", "224.0.0.1"])
def test_no_connection_to_a_non_public_address_is_opened(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(FetchError, match="non-public address.*add --allow-root"):
        files(http=True).read(f"http://{address}/latest/meta-data/", timeout_s=5)


def test_names_are_checked_by_their_resolved_addresses(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    web.say((200, {}, b"secret"))
    port = int(web.url.rpartition(":")[2])
    resolved = ["127.0.0.1"]
    entry = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*entry, (ip, port)) for ip in resolved])
    assert files(f"http://photos.example:{port}").read(f"http://photos.example:{port}/a.jpg") == b"secret"
    web.seen.clear()
    for addresses in (["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1", "192.168.0.1"]):
        resolved[:] = addresses
        with pytest.raises(FetchError, match="non-public address"):
            files(http=True).read(f"http://rebound{len(resolved)}.example:{port}/a.jpg", timeout_s=5)
    assert web.seen == []


def test_a_root_allows_only_its_host_and_folder(web: Any) -> None:
    web.say((200, {}, b"jpeg"))
    allowed = files(f"{web.url}/photos")
    assert allowed.read(f"{web.url}/photos/a.jpg?sig=%2F") == b"jpeg"
    assert web.seen[0][1] == "/photos/a.jpg?sig=%2F"
    web.seen.clear()
    for path in (
        "/private/a.jpg",
        "/photos2/a.jpg",
        "/photos/../private/a.jpg",
        "/photos/%2e%2e/private/a.jpg",
        "/photos/..%2fp",
    ):
        with pytest.raises(FetchError, match="lies outside the allowed roots"):
            allowed.read(web.url + path, timeout_s=5)
    assert web.seen == []


def test_each_redirect_is_checked(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, ok = files(f"{web.url}/photos"), (200, {}, b"jpeg")
    for location in ("/photos/b.jpg", "b.jpg", f"{web.url}/photos/b.jpg"):
        web.say((302, {"Location": location}, b""), ok)
        assert allowed.read(f"{web.url}/photos/a.jpg") == b"jpeg"
        assert [path for _, path, _ in web.seen] == ["/photos/a.jpg", "/photos/b.jpg"]
    port = web.url.rpartition(":")[2]
    for location in (
        "/private",
        f"http://localhost:{port}/photos/b.jpg",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "//[::1]/",
    ):
        web.say((307, {"Location": location}, b""), ok)
        with pytest.raises(FetchError, match="outside the allowed roots|not a web address"):
            allowed.read(f"{web.url}/photos/a.jpg", timeout_s=5)
        assert len(web.seen) == 1
    for answer, words in (((301, {"Location": "/photos/a.jpg"}, b""), "more than 10 times"), ((302, {}, b""), "HTTP 302")):
        web.say(answer)
        with pytest.raises(FetchError, match=words):
            allowed.read(f"{web.url}/photos/a.jpg")

    # A public server redirects to the loopback interface.
    monkeypatch.setattr(http_module, "is_public", lambda address: address == "127.0.0.1")
    for location in (f"http://127.0.0.2:{port}/", f"http://[::1]:{port}/"):
        web.say((302, {"Location": location}, b""), ok)
        with pytest.raises(FetchError, match="non-public address"):
            files(http=True).read(f"{web.url}/a.jpg", timeout_s=5)
        assert len(web.seen) == 1


def test_credentials_are_sent_to_their_own_host_only(web: Any) -> None:
    port = web.url.rpartition(":")[2]
    both = files(web.url, f"http://localhost:{port}")
    for location, sent in ((f"{web.url}/b", True), ("/b", True), (f"http://localhost:{port}/b", False)):
        web.say((302, {"Location": location}, b""), (200, {}, b""))
        both.read(f"http://me:pw@127.0.0.1:{port}/a")
        assert [("Authorization" in headers) for _, _, headers in web.seen] == [True, sent]


def test_targets_behind_a_proxy_are_checked(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", web.url)
    web.say((200, {}, b"jpeg"))
    assert files(http=True).read("http://93.184.216.34/a.jpg") == b"jpeg"
    assert files(http=True).read("http://name-that-only-the-proxy-knows.invalid/a.jpg") == b"jpeg"
    assert web.seen[0][1] == "http://93.184.216.34/a.jpg"
    web.seen.clear()
    for host in ("127.0.0.1", "localhost", "2130706433", "169.254.169.254", "[::1]"):
        with pytest.raises(FetchError, match="non-public address"):
            files(http=True).read(f"http://{host}/a.jpg", timeout_s=5)
    assert web.seen == []
    assert files("http://10.0.0.7/photos").read("http://10.0.0.7/photos/a.jpg") == b"jpeg"


def test_unpinned_downloads_do_not_fall_back_to_plain_http(web: Any) -> None:
    web.say((200, {}, b"weights"))
    with pytest.raises(FetchError, match="redirects to http://"):
        download(f"{web.url}/model.onnx", "", lambda _: None, 5, allow_http=False)
    assert web.seen == []


def test_a_version_that_is_not_utf8_can_be_written(web: Any) -> None:
    """aiohttp turns such bytes into halves of surrogates, and http.server sends a header's characters as Latin-1."""
    web.say((200, {"ETag": '"\xff1"'}, b"x"))
    found = files(web.url).fetch(f"{web.url}/a.jpg")
    assert found.etag.encode() and found.etag.endswith("1")
    etag = download(f"{web.url}/weights", "", lambda _: None, 10.0, allow_http=True)
    assert etag is not None and etag.encode()


def test_cookies_are_not_kept(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server could fill the memory with them, and read in one request what it wrote in another."""
    host = web.url.replace("127.0.0.1", "localhost")
    web.say((200, {"Set-Cookie": "visitor=1"}, b"x"))
    reader = files(host)
    for _ in range(2):
        reader.fetch(f"{host}/a.jpg")
    assert all("Cookie" not in headers for _, _, headers in web.seen)

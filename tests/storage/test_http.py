"""Web servers: which may be asked, told from the address that is really connected to, on every redirect."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import FetchError
from pipeline.storage import http as web_place
from pipeline.storage.files import Files
from pipeline.storage.http import is_public


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def files(*allowlist: str, http: bool = False) -> Files:
    return Files(Storage(allow_roots=allowlist, http=http))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "64:ff9b:1::1"),
    ],
)
def test_addresses_inside_a_network(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_of_everybody(address: str) -> None:
    assert is_public(address)


LOOPBACKS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "localhost",
    "[::ffff:127.0.0.1]",
    "0",
    "①②⑦.⓪.⓪.①",
]


@pytest.mark.parametrize("host", LOOPBACKS)
def test_no_spelling_reaches_the_machine_itself(web: Any, host: str) -> None:
    web.say((200, {}, b"secret"))
    port = web.url.rpartition(":")[2]
    with pytest.raises(FetchError, match="address inside a network|can't have") as refused:
        files(http=True).read(f"http://{host}:{port}/a.jpg?token=pass-word", timeout_s=5)
    assert "pass-word" not in str(refused.value)
    assert web.seen == []


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "10.0.0.1", "[64:ff9b::a9fe:a9fe]", "224.0.0.1"])
def test_nothing_is_sent_to_an_address_inside_a_network(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("it was connected to")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(FetchError, match="address inside a network.*add --allow-root"):
        files(http=True).read(f"http://{address}/latest/meta-data/", timeout_s=5)


def test_a_name_is_judged_by_what_it_resolves_to(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    web.say((200, {}, b"secret"))
    port = int(web.url.rpartition(":")[2])
    answers = [["127.0.0.1", "10.0.0.1"]]
    entry = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*entry, (ip, port)) for ip in answers[0]])
    for answers[0] in (["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1", "192.168.0.1"]):
        with pytest.raises(FetchError, match="address inside a network"):
            files(http=True).read(f"http://rebound{len(answers[0])}.example:{port}/a.jpg", timeout_s=5)
    assert web.seen == []
    answers[0] = ["127.0.0.1"]
    assert files(f"http://photos.example:{port}").read(f"http://photos.example:{port}/a.jpg") == b"secret"


def test_a_root_opens_its_host_and_folder_only(web: Any) -> None:
    web.say((200, {}, b"jpeg"))
    named = files(f"{web.url}/photos")
    assert named.read(f"{web.url}/photos/a.jpg?sig=%2F") == b"jpeg"
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
            named.read(web.url + path, timeout_s=5)
    assert web.seen == []


def test_each_redirect_is_a_new_question(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    named, ok = files(f"{web.url}/photos"), (200, {}, b"jpeg")
    for location in ("/photos/b.jpg", "b.jpg", f"{web.url}/photos/b.jpg"):
        web.say((302, {"Location": location}, b""), ok)
        assert named.read(f"{web.url}/photos/a.jpg") == b"jpeg"
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
        with pytest.raises(FetchError, match="outside the allowed roots|no web address"):
            named.read(f"{web.url}/photos/a.jpg", timeout_s=5)
        assert len(web.seen) == 1
    web.say((301, {"Location": "/photos/a.jpg"}, b""))
    with pytest.raises(FetchError, match="redirected 10 times"):
        named.read(f"{web.url}/photos/a.jpg")
    web.say((302, {}, b""))
    with pytest.raises(FetchError, match="HTTP 302"):
        named.read(f"{web.url}/photos/a.jpg")

    # A server that anybody can reach sends its visitor to the machine itself.
    monkeypatch.setattr(web_place, "is_public", lambda address: address == "127.0.0.1")
    for location in (f"http://127.0.0.2:{port}/", f"http://[::1]:{port}/"):
        web.say((302, {"Location": location}, b""), ok)
        with pytest.raises(FetchError, match="address inside a network"):
            files(http=True).read(f"{web.url}/a.jpg", timeout_s=5)
        assert len(web.seen) == 1


def test_credentials_of_an_address_stay_with_its_host(web: Any) -> None:
    port = web.url.rpartition(":")[2]
    both = files(web.url, f"http://localhost:{port}")
    for location, travels in ((f"{web.url}/b", True), ("/b", True), (f"http://localhost:{port}/b", False)):
        web.say((302, {"Location": location}, b""), (200, {}, b""))
        both.read(f"http://me:pw@127.0.0.1:{port}/a")
        assert [("Authorization" in headers) for _, _, headers in web.seen] == [True, travels]


def test_a_proxy_may_be_anywhere_but_what_is_asked_of_it_may_not(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", web.url)
    web.say((200, {}, b"jpeg"))
    assert files(http=True).read("http://93.184.216.34/a.jpg") == b"jpeg"
    assert files(http=True).read("http://name-that-only-the-proxy-knows.invalid/a.jpg") == b"jpeg"
    assert next(path for _, path, _ in web.seen) == "http://93.184.216.34/a.jpg"
    web.seen.clear()
    for host in ("127.0.0.1", "localhost", "2130706433", "169.254.169.254", "[::1]"):
        with pytest.raises(FetchError, match="address inside a network"):
            files(http=True).read(f"http://{host}/a.jpg", timeout_s=5)
    assert web.seen == []
    assert files("http://10.0.0.7/photos").read("http://10.0.0.7/photos/a.jpg") == b"jpeg"

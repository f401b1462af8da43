"""Paths and URIs as text: normalization, resolution, redaction."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ItemRefused
from pipeline.storage import uris


@pytest.mark.parametrize(
    ("written", "absolute"),
    [
        ("/a/b", "/a/b"),
        ("/a/./b/../c/", "/a/c"),
        ("file:///a/with%20space", "/a/with space"),
        ("file://localhost/a", "/a"),
        ("s3://bucket/out/", "s3://bucket/out"),
        ("S3://bucket/Key", "s3://bucket/Key"),
        ("s3a://bucket/key", "s3://bucket/key"),
        ("s3://bucket/a/../b%20c", "s3://bucket/a/../b%20c"),
        ("https://host/x?id=1", "https://host/x?id=1"),
    ],
)
def test_absolute_is_idempotent(written: str, absolute: str) -> None:
    assert uris.absolute(written) == absolute
    assert uris.absolute(absolute) == absolute


def test_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert uris.absolute("out") == f"{tmp_path}/out"
    assert uris.absolute("~/out") == "/home/someone/out"


@pytest.mark.parametrize("written", ["", "  ", "s3://", "s3:///key", "file://elsewhere/a", "s3://key:pass-word@bucket/x"])
def test_invalid_settings_are_refused_without_their_secret(written: str) -> None:
    with pytest.raises(ConfigError) as refused:
        uris.absolute(written)
    assert "pass-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "base", "resolved"),
    [
        ("a.jpg", "/data", "/data/a.jpg"),
        ("../a.jpg", "/data/set", "/data/a.jpg"),
        ("x//a.jpg", "/data", "/data/x/a.jpg"),
        ("/a/../b.jpg", "/data", "/a/../b.jpg"),
        ("a.jpg", "s3://b/p", "s3://b/p/a.jpg"),
        ("../a.jpg", "s3://b/p/q", "s3://b/p/a.jpg"),
        ("../../a.jpg", "s3://b/p/q", "s3://b/a.jpg"),
        ("./x/../a.jpg", "s3://b", "s3://b/a.jpg"),
        ("s3://c/../odd.jpg", "s3://b/p", "s3://c/../odd.jpg"),
        ("s3a://c/a.jpg", "/data", "s3://c/a.jpg"),
        ("file:///x/a%23.jpg", "s3://b", "/x/a#.jpg"),
        ("local:///x/a.jpg", "s3://b", "/x/a.jpg"),
        ("/local.jpg", "s3://b/p", "/local.jpg"),
        ("https://h/a.jpg?x-amz-signature=1", "/data", "https://h/a.jpg?x-amz-signature=1"),
        ("~a.jpg", "/data", "/data/~a.jpg"),
    ],
)
def test_relative_uris_resolve_against_the_base(written: str, base: str, resolved: str) -> None:
    assert uris.resolve(written, base) == resolved


@pytest.mark.parametrize(
    "written",
    ["", "../../../a.jpg", "..", "file://elsewhere/a.jpg", "s3://", "s3://k:pass-word@b/a.jpg", "s3://k:pass-word/x@b/a"],
)
def test_an_invalid_image_uri_refuses_its_item(written: str) -> None:
    with pytest.raises(ItemRefused, match="image_uri") as refused:
        uris.resolve(written, "s3://b/p")
    assert "pass-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "redacted", "unsigned"),
    [
        (
            "https://me:hunter2@host/a.jpg?id=7&X-Amz-Signature=abc&X-Amz-Credential=AKIA&Expires=1&token=t",
            *("https://host/a.jpg", "https://host/a.jpg?id=7"),
        ),
        ("https://blob/a.png?sv=2022&sig=xx&se=2024&view=front", "https://blob/a.png", "https://blob/a.png?view=front"),
        ("https://host/a.jpg?id=7&view=a%20b", "https://host/a.jpg", "https://host/a.jpg?id=7&view=a%20b"),
        ("s3://key:secret@bucket/a?b", "s3://bucket/a?b", "s3://bucket/a?b"),
        ("s3://key:secret@bucket/a@b", "s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://bucket/a?token=1", "s3://bucket/a?token=1", "s3://bucket/a?token=1"),
    ],
)
def test_secrets_are_removed(uri: str, redacted: str, unsigned: str) -> None:
    assert (uris.redact(uri), uris.strip_signature(uri)) == (redacted, unsigned)


SIGNED = [
    *("x-oss-signature=SECRET", "OSSAccessKeyId=SECRET", "x-oss-credential=SECRET", "X-Obs-Signature=SECRET"),
    *(
        "q-signature=SECRET",
        "q-ak=SECRET",
        "hdnts=SECRET",
        "hdnea=SECRET",
        "hmac=SECRET",
        "auth=9f86d081SECRETa27d",
        "jwt=SECRET",
    ),
    *(
        "code=9f86d081SECRETa27d",
        "auth_key=SECRET",
        "X-Amz-Security-Token=SECRET",
        "sig=SECRET",
        "Expires=SECRET",
        "Policy=SECRET",
    ),
    *("hash=9f86d081SECRETa27d", "session_id=9f86d081SECRETa27d"),
]


@pytest.mark.parametrize("parameter", SIGNED)
def test_signatures_of_all_families_are_removed(parameter: str) -> None:
    assert uris.strip_signature(f"https://h/a.jpg?sku=7&{parameter}&w=9") == "https://h/a.jpg?sku=7&w=9"


@pytest.mark.parametrize(
    "parameter", ["code=123", "auth=basic", "hash=abc", "x-oss-process=image/resize,w_300", "s=large", "h=900"]
)
def test_parameters_that_name_an_image_stay(parameter: str) -> None:
    uri = f"https://h/a.jpg?{parameter}"
    assert uris.strip_signature(uri) == uri


@pytest.mark.parametrize(
    "uri", ["s3://key:sec/ret@bucket/a", "https://me:sec/ret@host/a?x=1", "https://me:sec?ret@host/a", "gs://k:/sec@b"]
)
def test_passwords_with_a_slash_are_removed(uri: str) -> None:
    assert uris.has_credentials(uri)
    assert "sec" not in uris.redact(uri) + uris.strip_signature(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("hdfs://node:8020/a@b", "https://host:80/a@b", "s3://arn:aws:s3:eu:1:accesspoint/x/a@b"),
        *("s3://b/a:b@c", "s3://bucket/a@b.jpg", "/a:b@c"),
    ],
)
def test_uris_without_secrets_are_unchanged(uri: str) -> None:
    assert not uris.has_credentials(uri)
    assert uris.redact(uri) == uris.strip_signature(uri) == uri


@given(st.text(max_size=40), st.sampled_from(["/data", "/", "s3://bucket/p", "s3://bucket"]))
def test_resolve_returns_an_absolute_uri_or_refuses(written: str, base: str) -> None:
    try:
        resolved = uris.resolve(written, base)
    except ItemRefused:
        return
    assert resolved.startswith("/") or uris.scheme(resolved)
    assert uris.resolve(resolved, "/elsewhere") == resolved


def test_parents_and_names() -> None:
    assert uris.parent("/a/b.csv") == "/a"
    assert uris.parent("/b.csv") == "/"
    assert uris.parent("s3://b/x/m.csv") == "s3://b/x"
    assert uris.parent("s3://b/m.csv") == "s3://b"
    assert uris.name("s3://b/x/m.csv") == "m.csv"
    assert uris.join("s3://b/", "/x/", "", "y") == "s3://b/x/y"

"""The allow-list: by text, by symbolic links, for single URIs and for columns."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.job import Storage, load_job
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, ItemRefused
from pipeline.storage.allowlist import AllowList, OutsideRoots

CDN = "https://cdn.example.com/photos"


def allowlist(*allowed: str, http: bool = False) -> AllowList:
    return AllowList.of(Storage(allow_roots=allowed, http=http))


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        ("/data/cat", "/data/cat/a.jpg", "/data/catalog/a.jpg"),
        ("/data/cat/", "/data/cat", "/data"),
        ("file:///data/c%20t", "/data/c t/a.jpg", "/data/c%20t/a.jpg"),
        ("/data/./x/../cat", "/data//cat/./b/../a.jpg", "/data/cat/../a.jpg"),
        ("/data", "//data/a.jpg", "//etc/passwd"),
        ("/", "/etc/passwd", "s3://bucket/a.jpg"),
        ("s3://bucket/cat", "s3://bucket/cat/x/a.jpg", "s3://bucket/catalog2/x.jpg"),
        ("S3A://bucket/cat/", "s3://bucket/cat", "s3://bucket2/cat/x.jpg"),
        ("s3://bucket", "s3://bucket/a b%2e%2e/ü.jpg", "s3://bucket.evil/a.jpg"),
        ("s3://bucket/cat", "s3://bucket/cat//x.jpg", "s3://bucket//cat/x.jpg"),
        ("s3://bucket/cat", "s3://bucket/cat/...", "s3://bucket/cat/../dog/x.jpg"),
        ("gs://bucket/cat", "gs://bucket/cat/x.jpg", "s3://bucket/cat/x.jpg"),
        (CDN, f"{CDN}/a%20b.jpg?x=/../#y", "http://cdn.example.com/photos/a.jpg"),
        (CDN, "https://CDN.example.com:443/photos/a.jpg", "https://cdn.example.com:8443/photos/a.jpg"),
        (CDN, "https://me:pw@cdn.example.com/photos/a.jpg", "https://cdn.example.com@evil.com/photos/a.jpg"),
        (CDN, f"{CDN}/a/../b.jpg", f"{CDN}/../private/a.jpg"),
        (CDN, f"{CDN}/...", f"{CDN}/%2e%2e/private/a.jpg"),
        (CDN, f"{CDN}/a%5Cb", f"{CDN}/a%2F..%2f..%2fprivate"),
        (CDN, f"{CDN}/a;b", f"{CDN}/..;/private"),
        (CDN, f"{CDN}?id=1", f"{CDN}\\..\\private"),
        (CDN, CDN, "https://cdn.example.com/photos2/a.jpg"),
        ("https://cdn.example.com", "https://cdn.example.com/a.jpg", "https://cdn.example.com.evil.com/a.jpg"),
        ("http://[::1]:8000", "http://[::1]:8000/a.jpg", "http://[::1]/a.jpg"),
    ],
)
def test_a_root_allows_only_what_is_below_it(root: str, inside: str, outside: str) -> None:
    allowed = allowlist("/elsewhere", root)
    assert allowed.allows(inside)
    assert not allowed.allows(outside)
    assert allowed.outside(pa.array([inside, outside, None])).tolist() == [False, True, False]


def test_http_allows_every_web_address_and_nothing_else() -> None:
    allowed = allowlist(http=True)
    assert allowed.allows("https://anywhere.example/a/../b.jpg")
    assert not allowed.names("https://anywhere.example/a.jpg")
    assert allowed.outside(pa.array(["http://x/%2e%2e/", "/etc/passwd", "s3://b/k"])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "root",
    [
        *("", "s3://", "file://elsewhere/a", "s3://key:pass-word@b", f"{CDN}?sig=pass-word", "https://me:pass-word@h/"),
        "s3://b/../c",
    ],
)
def test_invalid_roots_are_refused_without_their_secret(root: str) -> None:
    with pytest.raises(ConfigError) as refused:
        allowlist(root)
    assert "pass-word" not in str(refused.value)


PIECES = [
    *(
        "/base",
        "/base/",
        "a.jpg",
        "..",
        "/",
        "//",
        ".",
        "s3://b/p",
        "s3://b",
        "https://h/p",
        "?q=1",
        "%2e",
        "\n",
        "é",
        "@",
        "'",
    ),
]


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map("".join) | st.text(max_size=12), max_size=6),
    st.lists(st.sampled_from(["/base", "/base/deep", "s3://b/p", "https://h/p"]), max_size=3),
    st.booleans(),
)
def test_columns_and_single_uris_give_the_same_results(texts: list[str], roots: list[str], http: bool) -> None:
    allowed = allowlist(*roots, http=http)
    column = pa.array(texts, pa.string())
    outside = allowed.outside(column)
    assert outside.tolist() == [not allowed.allows(text) for text in texts]
    outside_roots = column.filter(pa.array(outside))
    assert allowed.refusals(outside_roots).to_pylist() == [allowed.refusal(text) for text in outside_roots.to_pylist()]
    counter = OutsideRoots()
    counter.add(outside_roots)
    assert counter.rows == len(outside_roots)
    if counter.rows:
        _, count = counter.largest_group()
        assert 0 < count <= counter.rows


def test_refusals_name_the_image_the_roots_and_the_fix_without_secrets() -> None:
    allowed = allowlist("/base", "s3://b/p")
    assert allowed.refusal("/mnt/my photos/a.jpg") == (
        "image_uri '/mnt/my photos/a.jpg' lies outside the allowed roots (/base, s3://b/p); "
        "add --allow-root '/mnt/my photos' if it may be read"
    )
    web = allowed.refusal("https://me:pass-word@h/p/a.jpg?X-Amz-Signature=pass-word")
    assert "'https://h/p/a.jpg'" in web and "add --allow-root https://h/p, or storage.http=true" in web
    assert "pass-word" not in web
    assert "(s3://a, s3://b/x@y, /c@d and 1 more)" in allowlist("s3://a", "s3://b/x@y", "/c@d", "/e").refusal("/x")
    assert "has . or .. between slashes" in allowed.refusal("s3://b/p/../x.jpg")
    for hostile in ("/x/\u202egpj.a", "/x\n/\x1b[31m.jpg", "/" + "x/" * 9000):
        message = allowed.refusal(hostile)
        assert message.isprintable() and len(message) < 600


def test_outside_roots_finds_the_folder_of_most_images() -> None:
    counter = OutsideRoots()
    counter.add(pa.array(["/mnt/a/1.jpg", "/mnt/a/b/2.jpg", "/etc/passwd"]))
    counter.add(pa.array(["/mnt/a/c/3.jpg", "s3://x/k.jpg", "https://me:pw@h/p.jpg?sig=1"]))
    assert (counter.rows, counter.largest_group()) == (6, ("/mnt/a", 3))
    counter.add(pa.array(["https://h/q/p.jpg?sig=/a/b"] * 5))
    assert counter.largest_group() == ("https://h", 6)


def test_symbolic_links_are_followed_before_the_check(tmp_path: Path) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    for folder in (base, other):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"")
    (base / "good.jpg").symlink_to("a.jpg")
    (base / "bad.jpg").symlink_to(other / "a.jpg")
    (base / "chain.jpg").symlink_to("bad.jpg")
    (base / "folder").symlink_to(other)
    (base / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "entrance").symlink_to(base)
    allowed = allowlist(str(tmp_path / "entrance"))
    for good in ("a.jpg", "good.jpg", "missing.jpg", "loop.jpg"):
        assert os.path.dirname(allowed.real_path(f"{tmp_path}/entrance/{good}")) == str(base)  # noqa: PTH120
    for bad in ("bad.jpg", "chain.jpg", "folder/a.jpg", "folder/missing.jpg", "folder/../other/a.jpg"):
        with pytest.raises(ItemRefused, match=rf"leads through symbolic links to '{other}/.*add --allow-root {other}"):
            allowed.real_path(f"{tmp_path}/entrance/{bad}")
    both = allowlist(str(base), str(other))
    assert both.real_path(f"{base}/bad.jpg") == f"{other}/a.jpg"
    for unchanged in (f"{base}/nul\0byte", "s3://bucket/a/../b"):
        assert both.real_path(unchanged) == unchanged


def test_roots_do_not_change_the_fingerprint(fake_preset: str) -> None:
    given = {"manifest": "m", "output": "o", "preset": fake_preset}
    job = load_job(**given, overrides=["storage.allow_roots=[/data, s3://b]"])
    assert job.storage.allow_roots == ("/data", "s3://b")
    assert job.recipe.fingerprint() == load_job(**given).recipe.fingerprint()
    assert not re.search("root", " ".join(Recipe.model_fields))

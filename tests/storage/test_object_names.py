"""Object names are readable, reversible, and accepted by every file system and object store."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.storage.object_names import (
    MAX_NAME_BYTES,
    MAX_SEGMENT_BYTES,
    FileNames,
    collision_key,
    object_name,
)

TEXTS = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="aB.~-_/ %E2\\:*\n\u202e日", max_size=24),
    st.lists(st.sampled_from(["con", "NUL .x", "a.png", "b.JSON", "..", ".", " ", "", "x" * 150, "日" * 60]), max_size=12).map(
        "/".join
    ),
)
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³")}
CUT = re.compile(r"~[0-9a-f]{16}(?:/|$)")


@pytest.mark.parametrize(
    "text",
    [
        "sku-123",
        "a.jpg",
        "0",
        "_a-b.c",
        "ABC",
        "shoes/red 1",
        "größe/é",
        "日本語 写真",
        "Красная обувь (2)",
        "a~b",
        "x" * MAX_SEGMENT_BYTES,
    ],
)
def test_plain_texts_are_their_own_name(text: str) -> None:
    assert object_name(text) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("..", "%2E%2E"),
        (".hidden/x", "%2Ehidden/x"),
        ("/a//b/", "%2Fa%2F/b%2F"),
        ("s3://bucket/x", "s3%3A%2F/bucket/x"),
        ("con.x/LPT1", "%63on.x/%4CPT1"),
        ("com¹/nul .x", "%63om¹/%6Eul .x"),
        ("a ./b.", "a %2E/b%2E"),
        ("50%.a", "50%25.a"),
        ("line\nbreak\u202e", "line%0Abreak%E2%80%AE"),
        ("a.png/b.PNG", "a%2Epng/b.PNG"),
    ],
)
def test_what_is_not_safe_is_escaped_and_the_rest_is_kept(text: str, name: str) -> None:
    assert object_name(text) == name


@given(
    st.text(alphabet=st.characters(categories=("L", "N", "Mn", "Mc")) | st.just(" "), min_size=1, max_size=30).map(str.strip)
)
def test_letters_of_any_script_and_spaces_are_kept(text: str) -> None:
    if text and text.casefold() not in DEVICES:
        assert object_name(text) == text


@given(TEXTS)
@example("a\n")
def test_a_name_can_be_reversed_unless_it_was_cut(text: str) -> None:
    name = object_name(text)
    assert object_name(text) == name
    if not CUT.search(name):
        assert unquote(name) == text


@given(TEXTS)
@example("")
@example("/")
@example("\t" * 300)
def test_every_segment_is_safe(text: str) -> None:
    name = object_name(text)
    assert len(name.encode()) <= MAX_NAME_BYTES
    *folders, last = name.split("/")
    for segment in (*folders, last):
        assert 0 < len(segment.encode()) <= MAX_SEGMENT_BYTES
        assert not segment.startswith(".") and not segment.endswith((".", " "))
        assert segment.partition(".")[0].rstrip(" ").casefold() not in DEVICES
        assert not re.search(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|]', segment)
    for folder in folders:
        assert not folder.casefold().endswith((".png", ".jpg", ".webp", ".json")), "an item's file may have this name"


def test_long_texts_are_cut_between_characters_and_stay_distinct() -> None:
    name = object_name("日" * 200)
    assert len(name.encode()) <= MAX_SEGMENT_BYTES and re.fullmatch(r"日+~[0-9a-f]{16}", name)
    assert re.fullmatch(r"(%0A)+~[0-9a-f]{16}", object_name("\n" * 200))
    assert object_name("x" * 500) != object_name("x" * 501)
    deep = object_name("/".join(["folder"] * 200 + ["photo"]))
    assert re.fullmatch(r"photo~[0-9a-f]{16}", deep)
    assert deep != object_name("/".join(["folder"] * 201 + ["photo"]))


@given(TEXTS, TEXTS)
@example("a/b", "a%2Fb")
@example("a/b", "a//b")
@example("", "~e3b0c44298fc1c14")
def test_no_two_texts_share_a_name(one: str, other: str) -> None:
    if one != other and "~" not in one + other:
        assert object_name(one) != object_name(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Photo", "pHOTO"), ("GRÖSSE", "größe"), ("é", "e\u0301"), ("É", "e\u0301"), ("ΣΑΣ", "σας")]
)
def test_names_that_a_file_system_may_not_tell_apart_have_one_key(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)
    assert collision_key(one) != collision_key(f"{other}2")


@given(st.text(max_size=30))
def test_the_key_does_not_depend_on_the_normal_form(text: str) -> None:
    assert collision_key(text) == collision_key(unicodedata.normalize("NFD", text))


def test_two_texts_of_one_file_name_are_told() -> None:
    names = FileNames()
    assert [names.name(text) for text in ("a", "b")] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"'a' and 'A' would share the file name 'A' on some file systems; rename one"):
        names.name("A")


def test_a_text_given_twice_is_told() -> None:
    names = FileNames()
    names.name("a", "row 1")
    with pytest.raises(ConfigError, match=r"'a' is given twice: by row 1, and by row 2; each needs a name of its own"):
        names.name("a", "row 2")

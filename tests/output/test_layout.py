"""Object names are safe and unique, and paths follow the layout."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.output.layout import Layout, input_mark, part_name
from pipeline.storage.object_names import MAX_NAME_LENGTH, object_name

IDS = st.one_of(st.text(max_size=200), st.text(alphabet="abAB.~-_/ %E2", max_size=12))


@pytest.mark.parametrize("plain", ["sku-123", "a.jpg", "0", "x" * MAX_NAME_LENGTH, "_a-b.c"])
def test_plain_ids_are_their_own_name(plain: str) -> None:
    assert object_name(plain) == plain


@pytest.mark.parametrize(
    ("item_id", "start"),
    [
        ("shoes/red 1.jpg", "shoes~2Fred~201.jpg~"),
        ("../../etc/passwd", "~2E.~2F..~2Fetc~2Fpasswd~"),
        ("..", "~2E.~"),
        (".hidden", "~2Ehidden~"),
        ("größe", "gr~C3~B6~C3~9Fe~"),
        ("ABC", "ABC~"),
        ("con.png", "~63on.png~"),
        ("a~b", "a~7Eb~"),
        ("", "~"),
    ],
)
def test_escaped_names_stay_readable_and_have_a_hash(item_id: str, start: str) -> None:
    name = object_name(item_id)
    assert name.startswith(start)
    assert re.fullmatch(r"[0-9a-f]{16}", name.removeprefix(start))


def test_a_long_id_is_truncated_between_characters() -> None:
    name = object_name("日" * 200)
    assert len(name) <= MAX_NAME_LENGTH
    assert re.fullmatch(r"(~[0-9A-F]{2})+~[0-9a-f]{16}", name)
    assert object_name("x" * 500) != object_name("x" * 501)


@given(IDS)
@example("a\n")
@example("\ud800")
def test_names_are_safe_everywhere(item_id: str) -> None:
    name = object_name(item_id)
    assert re.fullmatch(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*", name)
    assert len(name) <= MAX_NAME_LENGTH
    assert object_name(item_id) == name


@given(IDS, IDS)
@example("a", "A")
@example("a/b", "a~2Fb")
@example("abc~0011223344556677", "ABC")
@example("é", "e\u0301")
def test_no_two_ids_share_a_name_on_case_insensitive_storage(one: str, other: str) -> None:
    if one != other:
        assert object_name(one).lower() != object_name(other).lower()


@given(st.text(alphabet="abcAB./~", min_size=1, max_size=6))
def test_the_name_of_a_name_is_another_one(item_id: str) -> None:
    name = object_name(item_id)
    if name != item_id:
        assert object_name(name).lower() != name.lower()


def test_paths_of_an_output() -> None:
    layout = Layout("s3://bucket/out", "u2netp-0123456789ab")
    folder = "s3://bucket/out/u2netp-0123456789ab"
    spread = hashlib.sha256(b"sku-1").hexdigest()[:2]
    assert layout.output("mask", "sku-1", "0a1b") == f"{folder}/masks/{spread}/sku-1.0a1b.png"
    assert layout.output("cutout", "sku-1", "0a1b") == f"{folder}/cutouts/{spread}/sku-1.0a1b.png"
    assert layout.recipe == f"{folder}/recipe.json"
    assert layout.run("r1") == f"{folder}/runs/r1.json"
    assert re.fullmatch(rf"{folder}/index/part-[0-9a-f]{{16}}\.parquet", layout.part(["b", "a"]))


def test_the_name_of_a_part_depends_on_its_items_only() -> None:
    assert part_name(["b", "a"]) == part_name(["a", "b"])
    assert len({part_name(ids) for ids in (["a", "b"], ["ab"], ["a", "b", ""], ["a"], [])}) == 5


def test_the_input_mark_depends_on_image_and_box() -> None:
    marks = [
        input_mark(sha, box)
        for sha in ("0" * 64, "0" * 63 + "1")
        for box in (None, [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.000001], [0, 0, 1, 0.01])
    ]
    assert len(set(marks)) == len(marks)
    assert all(re.fullmatch(r"[0-9a-f]{12}", mark) for mark in marks)
    assert input_mark("0" * 64, [1, 2, 3, 4]) == input_mark("0" * 64, (1.0, 2.0, 3.0, 4.0))

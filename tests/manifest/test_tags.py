from __future__ import annotations

from typing import Any

import pytest

from pipeline.manifest.tags import parse_tags


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        (None, []),
        ("", []),
        ("one", ["one"]),
        (" one ;two;;one", ["one", "two"]),
        ("hair, thin glass,", ["hair", "thin glass"]),
        ("hair, glass; border", ["hair", "glass", "border"]),
        ('["one", "t;w,o", null, 3]', ["one", "t;w,o", "3"]),
        ("[one", []),
        ("[" * 100_000, []),
        (["one", None, " two "], ["one", "two"]),
        (["a, b"], ["a, b"]),
        ([], []),
        (7, []),
        ({"a": 1}, []),
    ],
)
def test_forms_of_tags(cell: Any, tags: list[str]) -> None:
    assert parse_tags(cell) == tags

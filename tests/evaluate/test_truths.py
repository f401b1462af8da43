from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluate.truths import tags_of


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        (None, []),
        ("", []),
        ("one", ["one"]),
        (" one ;two;;one", ["one", "two"]),
        ('["one", "t;wo", null, 3]', ["one", "t;wo", "3"]),
        ("[one", []),
        (["one", None, " two "], ["one", "two"]),
        ([], []),
        (7, []),
    ],
)
def test_tags_come_in_many_forms(cell: Any, tags: list[str]) -> None:
    assert tags_of(cell) == tags

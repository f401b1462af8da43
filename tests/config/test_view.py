from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.view import View, parse_view
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("flip", View(True, 1)),
        ("scale:0.75", View(False, 0.75)),
        ("scale:.75", View(False, 0.75)),
        (" scale:2 ", View(False, 2)),
        ("flip+scale:1.25", View(True, 1.25)),
    ],
)
def test_a_view_is_read_and_written(text: str, view: View) -> None:
    assert parse_view(text) == view
    assert parse_view(str(view)) == view


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (["mirror"], "'mirror' is no view; write flip, scale:0.75"),
        (["scale:0.75+flip"], "is no view"),
        (["flip+"], "is no view"),
        (["scale:"], "is no view"),
        (["scale:-1"], "is no view"),
        (["scale:nan"], "is no view"),
        (["scale:1"], "0.5 to 2 and not 1"),
        (["scale:0.4"], "0.5 to 2"),
        (["scale:2.01"], "0.5 to 2"),
        (["flip", "flip"], "each view only once"),
        (["scale:.75", "scale:0.750"], "each view only once"),
        ([3], "views"),
    ],
)
def test_views_that_are_none_are_refused(views: list[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset("u2netp", {"views": views})


def test_the_former_setting_is_refused_with_its_successor() -> None:
    with pytest.raises(ConfigError, match=r"write views: \[flip\]"):
        load_preset("u2netp", {"flip": True})


@pytest.mark.parametrize("text", ["[flip, scale:0.75, scale:1.25]", "scale:1.25,flip, scale:.75"])
def test_the_command_line_takes_lists_in_any_order(text: str) -> None:
    job = load_job(manifest="m.csv", output="out", preset="u2netp", overrides=[f"recipe.views={text}"])
    assert job.recipe.views == ("flip", "scale:0.75", "scale:1.25")
    assert (
        job.recipe.fingerprint() == load_preset("u2netp", {"views": ["flip", "scale:1.25", "scale:0.75"]}).recipe.fingerprint()
    )

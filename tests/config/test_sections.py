"""YAML and JSON of any content are read, or refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.sections import Count, Stored, from_beside, parse, parse_yaml, read_yaml
from pipeline.errors import ConfigError


class Example(Stored):
    count: Count
    nested: dict[str, list[str]] | None = None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "!!int x",
            "!!int ''",
            "!!bool x",
            "!!float x",
            "!!timestamp x",
            "2026-99-99",
            "2026-01-01T00:00:00+99:99",
            "9" * 5000,
        ),
        *("[" * 900, "{a: " * 400, "- " * 5000, "!!python/object:os.system x", "[" * 20_000),
    ],
)
def test_every_yaml_error_is_one(text: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="own.yaml is not valid YAML"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="recipe.outputs: the value is not valid YAML"):
        load_job(manifest="m.csv", output="out", overrides=[f"recipe.outputs={text}"])


@pytest.mark.parametrize("recipe", ["3", "[a]", "text", "[[1, 2, 3]]"])
def test_a_recipe_that_is_no_mapping_is_refused(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "own.yaml").write_text(f"recipe: {recipe}\n")
    with pytest.raises(ConfigError, match="recipe must be a mapping of settings"):
        load_preset(str(tmp_path / "own.yaml"))


def test_aliases_are_not_written_out(tmp_path: Path) -> None:
    """Ten aliases of ten aliases and so on stand for more text than any memory holds."""
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{at}: &x{at} [{', '.join([f'*x{at - 1}'] * 10)}]" for at in range(1, 12)]
    for key in ("manifest: *x11", "1: 2\nnull: 3", "recipe: {weights: *x11}"):
        (tmp_path / "job.yaml").write_text("\n".join([*lines, key]) if "*" in key else key)
        with pytest.raises(ConfigError) as refused:
            load_job(job_file=str(tmp_path / "job.yaml"), output="out")
        assert len(str(refused.value)) < 1000
    (tmp_path / "own.yaml").write_text("\n".join([*lines, "recipe: {weights: *x11}"]))
    with pytest.raises(ConfigError, match="own.yaml"):
        load_preset(str(tmp_path / "own.yaml"))


def test_a_path_that_no_system_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own.yaml: a path in it is invalid"):
        from_beside(tmp_path / "own.yaml", "a\0b")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"null", b"\xff" * 3000, b"[" * 5000, b'{"count": 1, "nested": ' + b'{"a":' * 5000, b'{"count": true}'),
        *(b'{"count": "1"}', b'{"count": -1}', b'{"count": 1e3}', b'{"count": 1' + b"0" * 5000 + b"}", b'{"count": NaN}'),
        *(b'{"count": 1, "nested": {"\\ud800": []}}', b'{"count": 1, "nested": {"' + b"k" * 5000 + b'": 3}}'),
    ],
)
def test_damaged_json_is_refused_in_a_short_sentence(data: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        parse(Example, data)
    assert 0 < len(str(refused.value)) < 200 and str(refused.value).isprintable()
    assert parse(Example, b'{"count": 3, "later": {}}') == Example(count=3)

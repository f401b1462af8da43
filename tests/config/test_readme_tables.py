"""``configs/README.md`` lists every preset, rendition and setting as the code defines it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.detector import Detector
from pipeline.config.job import JOB_SECTIONS, load_job, parse_overrides
from pipeline.config.presets import load_preset
from pipeline.config.rendition import load_rendition
from pipeline.paths import CONFIGS

GENERATOR = runpy.run_path(str(Path(__file__).with_name("settings_table.py")))
TEXT = GENERATOR["README"].read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml\n# ([\w-]+\.yaml)[^\n]*\n(.*?)^```", TEXT, re.M | re.S))
"""The examples, by the file name in their first line."""


def test_the_tables_are_up_to_date() -> None:
    assert GENERATOR["updated"](TEXT) == TEXT, "run: .venv/bin/python tests/config/settings_table.py --write"


def test_every_section_of_a_job_has_a_table() -> None:
    assert set(JOB_SECTIONS) <= GENERATOR["SECTIONS"].keys()


@pytest.mark.parametrize("name", GENERATOR["SECTIONS"])
def test_every_setting_has_a_short_description(name: str) -> None:
    model = GENERATOR["SECTIONS"][name][0]
    for key, field in model.model_fields.items():
        assert field.description and field.description.endswith(".") and len(field.description) < 130, key


def test_the_example_of_a_preset_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILES["mine.yaml"], encoding="utf-8")
    assert load_preset(str(path)).recipe.weights == str(tmp_path / "mine.onnx")


def test_the_example_of_a_rendition_loads(tmp_path: Path) -> None:
    path = tmp_path / "hero.yaml"
    path.write_text(FILES["hero.yaml"], encoding="utf-8")
    assert [file.name for file in load_rendition(str(path)).files] == ["hero-400", "hero-1600"]


def test_the_example_of_a_job_loads(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(FILES["job.yaml"], encoding="utf-8")
    job: Any = load_job(job_file=str(path))
    assert job.recipe.renditions[0].name == "amazon-main"


def test_settings_on_the_command_line_exist() -> None:
    pairs = re.findall(r"--set (?!section)([\w.]+=[^\s`]+)", TEXT)
    assert pairs
    for section, values in parse_overrides(pairs).items():
        inner = {name.partition(".")[2] for name in values if name.startswith("detector.")}
        assert inner <= Detector.model_fields.keys()
        assert {name.partition(".")[0] for name in values} <= GENERATOR["SECTIONS"][section][0].model_fields.keys()


def test_links_point_at_files() -> None:
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (CONFIGS / path).exists(), path

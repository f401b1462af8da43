"""The settings of a job, from a file and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.job import Destination, Job, load_job
from pipeline.config.run_options import RunOptions
from pipeline.errors import ITEM_ERRORS, ConfigError


def of_file(folder: Path, text: str, **given: str) -> Job:
    (folder / "job.yaml").write_text(f"manifest: m.csv\n{text}\n")
    return load_job(job_file=str(folder / "job.yaml"), **given)


def test_the_output_is_a_path_or_a_section(tmp_path: Path) -> None:
    assert of_file(tmp_path, "output: s3://shop/out").output == Destination(uri="s3://shop/out")
    section = 'output: {uri: out, name: "{sku}"}'
    assert of_file(tmp_path, section).output == Destination(uri="out", name="{sku}")
    assert of_file(tmp_path, section, output="elsewhere").output == Destination(uri="elsewhere", name="{sku}")
    assert of_file(tmp_path, 'output: {name: "{sku}"}', output="out").output == Destination(uri="out", name="{sku}")


def test_the_braces_of_a_template_are_not_yaml() -> None:
    for name in ("{sku}", "{sku}/{item_id}", "photos-{image}: {suffix}"):
        assert load_job(manifest="m", output="o", overrides=[f"output.name={name}"]).output.name == name


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("manifest: m.csv\noutput: {uri: out, name: '{sku}'}\n")
    job = load_job(job_file=str(tmp_path / "job.yaml"), overrides=["output.uri=given", "output.name={image}"])
    assert job.output == Destination(uri="given", name="{image}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no output: give --output a path or a URI"),
        ('output: {name: "{sku}"}', "no output: give --output"),
        ("output: [out]", "output must be a mapping"),
        ("output: {uri: out, nam: x}", r"output\.nam"),
        ("outputs: out", "unknown key 'outputs'; use manifest, preset, output, recipe"),
    ],
)
def test_an_unusable_output_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        of_file(tmp_path, text)


@pytest.mark.parametrize("retry", ["fetch, write", ["write", "fetch", "fetch"]])
def test_a_job_file_holds_the_options_of_run(retry: Any, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"manifest": "in", "output": "out", "run": {"changed": True, "retry": retry}}))
    job = load_job(job_file=str(path), overrides=["run.replace=true"])
    assert job.run == RunOptions(changed=True, replace=True, retry=("fetch", "write"))
    assert load_job(job_file=str(path), overrides=["run.retry=all"]).run.retry == tuple(sorted(e.code for e in ITEM_ERRORS))


@pytest.mark.parametrize("retry", ["all,fetch", "nothing", 3, [1]])
def test_other_error_codes_are_refused(retry: Any, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"manifest": "in", "output": "out", "run": {"retry": retry}}))
    with pytest.raises(ConfigError, match=r"job.yaml: run.retry: .*or all"):
        load_job(job_file=str(path))

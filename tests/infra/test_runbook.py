"""The commands, files and alerts in the runbook exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import typer

from jobs.main import app
from pipeline.run.metrics import ALL

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "infra" / "RUNBOOK.md").read_text(encoding="utf-8")


def test_every_matteline_command_exists_with_its_options(options_of: Callable[[str], set[str]]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = re.findall(r"matteline ([a-z]+)((?: [^`|\n]*)?)", RUNBOOK.replace("get job/matteline", ""))
    ours = [(verb, rest) for verb, rest in found if verb in commands]
    assert {verb for verb, _ in ours} >= {"show", "verify", "plan", "gc"}
    for verb, rest in ours:
        known = options_of(verb)
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest.partition("#")[0]):
            assert option in known, f"matteline {verb} has no {option}"


def test_every_code_span_names_a_command() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb in re.findall(r"(?:^|`)matteline ([a-z]+)", RUNBOOK, re.MULTILINE):
        assert verb in commands, verb


def test_each_symptom_has_a_check_and_a_fix() -> None:
    rows = [line.strip("| ").split(" | ") for line in RUNBOOK.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 12)]
    for number, _, check, fix in rows:
        assert "`" in check or "dashboard" in check, number
        assert fix, number


def test_logs_are_read_from_the_right_job() -> None:
    """The CronJob's Job has the log of the submitter; the RayJob's Job has the log of the driver."""
    cells = [cell for line in RUNBOOK.splitlines() if line.startswith("|") for cell in line.split(" | ")]
    assert any("*silent*" in cell and "kubectl logs -l job-name=$RUN" in cell for cell in cells)
    for cell in cells:
        assert "kubectl logs job/$JOB" not in cell or "submitter" in cell, cell


def test_every_file_and_alert_that_it_names_exists() -> None:
    for path in re.findall(r"`(infra/[^`]+\.yaml)`", RUNBOOK):
        assert (ROOT / path).is_file(), path
    files = [ROOT / "infra" / folder / "monitoring" / "alerts.yaml" for folder in ("components", "service")]
    alerts = "".join(file.read_text(encoding="utf-8") for file in files)
    defined = set(re.findall(r"alert: (Matteline\w+)", alerts))
    page = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bMatteline[A-Z]\w+", RUNBOOK)) <= defined
    assert set(re.findall(r"\bMatteline[A-Z]\w+", page)) == defined


def test_the_readme_lists_every_metric() -> None:
    page = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    for metric in ALL:
        assert f"`{metric.exported.removeprefix('ray_matteline_')}`" in page


def test_every_panel_that_it_names_exists() -> None:
    dashboard = json.loads((ROOT / "infra" / "components" / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    named = re.findall(r"dashboard: \*(.+?)\*", RUNBOOK)
    assert len(named) == 2
    assert set(named) <= {panel["title"] for panel in dashboard["panels"]}

"""The runbook's commands are those that there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import typer

from jobs.main import app

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "infra" / "RUNBOOK.md").read_text(encoding="utf-8")


def test_every_command_of_ours_exists_with_its_options(options_of: Callable[[str], set[str]]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = re.findall(r"matteline ([a-z]+)((?: [^`|\n]*)?)", RUNBOOK.replace("get job/matteline", ""))
    ours = [(verb, rest) for verb, rest in found if verb in commands]
    assert {verb for verb, _ in ours} >= {"show", "verify", "plan", "gc"}
    for verb, rest in ours:
        known = options_of(verb)
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest.partition("#")[0]):
            assert option in known, f"matteline {verb} has no {option}"


def test_every_code_of_ours_names_a_command() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb in re.findall(r"(?:^|`)matteline ([a-z]+)", RUNBOOK, re.MULTILINE):
        assert verb in commands, verb


def test_eleven_symptoms_each_with_a_command_and_a_mend() -> None:
    rows = [line.strip("| ").split(" | ") for line in RUNBOOK.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 12)]
    for number, _, shown, mend in rows:
        assert "`" in shown or "dashboard" in shown, number
        assert mend, number


def test_logs_are_read_where_they_are() -> None:
    """The night's Job has the submitter's few lines; the driver's are those of the RayJob's own Job."""
    cells = [cell for line in RUNBOOK.splitlines() if line.startswith("|") for cell in line.split(" | ")]
    assert any("*silent*" in cell and "kubectl logs -l job-name=$RUN" in cell for cell in cells)
    for cell in cells:
        assert "kubectl logs job/$NIGHT" not in cell or "Submitter" in cell, cell


def test_files_and_alerts_that_it_names_exist() -> None:
    for path in re.findall(r"`(infra/[^`]+\.yaml)`", RUNBOOK):
        assert (ROOT / path).is_file(), path
    alerts = (ROOT / "infra" / "components" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8")
    for alert in re.findall(r"alert (Matteline\w+)", RUNBOOK):
        assert f"alert: {alert}" in alerts

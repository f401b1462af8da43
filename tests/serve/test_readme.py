"""The commands of ``pipeline/serve/README.md`` work, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from jobs.main import app
from pipeline.config.job import Limits
from pipeline.config.job_request import SAFE_SETTINGS
from pipeline.paths import EXAMPLES
from pipeline.serve.answers import EXPOSED
from pipeline.serve.asked import NAMES
from pipeline.serve.body import FORM_BYTES
from pipeline.serve.settings import Serving

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "pipeline" / "serve" / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in README.splitlines() if line.startswith("curl ") and "$JOBS" not in line]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_commands_work(service: Any, tmp_path: Path) -> None:
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        shutil.copy(EXAMPLES / "espresso.jpg", tmp_path / "cup.jpg")
        fails = command.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").replace("curl ", "curl --fail -sS ", 1)
        done = subprocess.run(["bash", "-c", fails], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if "amazon-main" in command:
            assert Image.open(tmp_path / "cup-amazon.jpg").size == (2000, 2000)
    assert Image.open(tmp_path / "cutout.webp").size == (600, 400) and Image.open(tmp_path / "mask.png").mode == "L"
    assert json.loads((tmp_path / "cup.json").read_text())["status"] in {"ok", "review"}
    assert "x-quality:" in (tmp_path / "headers.txt").read_text()


def test_the_ways_to_run_it_name_options_that_exist() -> None:
    """nginx passes the client's host name on, and takes bodies as large as the service does."""
    options = {name for one in typer.main.get_command(app).commands["serve"].params for name in one.opts}  # type: ignore[attr-defined]
    for used in re.findall(r"matteline(?:\S*) serve(( --\S+| [^-`\s]\S*)*)", README):
        assert set(re.findall(r"--[a-z-]+", used[0])) <= options, used
    nginx = README.partition("```nginx")[2].partition("```")[0]
    most = int(re.search(r"client_max_body_size (\d+)m", nginx)[1]) * 2**20  # type: ignore[index]
    assert most > Limits().max_bytes + FORM_BYTES and "proxy_set_header Host $http_host;" in nginx
    waits = int(re.search(r"proxy_read_timeout (\d+)s", nginx)[1])  # type: ignore[index]
    assert waits > Serving().deadline_s
    unit = README.partition("```ini")[2].partition("```")[0]
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > Serving().drain_s  # type: ignore[index]


def test_the_tables_name_what_there_is(service: Any) -> None:
    modules = set(re.findall(r"`([\w/]+\.py)`", README.partition("## Modules")[2]))
    folder = ROOT / "pipeline/serve"
    files = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    assert modules == {path.relative_to(folder).as_posix() for path in files}
    for name in (*NAMES, *EXPOSED):
        assert f"`{name}`" in README, name
    for path in service.get("/openapi.json").json["paths"]:
        assert path in README, path
    for name in SAFE_SETTINGS:
        assert f"`{name}`" in README or name.startswith("columns."), name
    used = "\n".join(path.read_text() for path in files)
    listed = re.findall(r"^\| [\d, ]+\| (`.*?) \|", README, re.M)
    for code in re.findall(r"`(\w+)`", " ".join(listed)):
        assert f'"{code}"' in used or code in {"item", "decode", "prompt", "segment", "refine", "write"}, code

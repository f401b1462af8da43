"""What strangers wrote is only text on a terminal; the version."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.table import Table

from jobs.console import table
from jobs.main import app
from pipeline.config.run_options import RunOptions
from pipeline.errors import ITEM_ERRORS
from pipeline.log import SafeConsole

MATTELINE = str(Path(sys.executable).with_name("matteline"))


def test_control_characters_are_shown_and_styles_still_work() -> None:
    sink = io.StringIO()
    console = SafeConsole(file=sink, force_terminal=True, color_system="standard", width=200)
    table = Table("id")
    table.add_row("a\x1b]0;title\x07b\x9b31m\tc")
    console.print(table)
    console.print("[bold]\x1b[2Jcleared[/]", highlight=False)
    console.print_json('{"id": "\\u001b[31m"}')
    text = sink.getvalue()
    assert r"a\x1b]0;title" in text and "\x1b]0" not in text and "\x9b" not in text
    assert "\x1b[1m\\x1b[2Jcleared" in text, "bold is Rich's own"
    assert "\x1b[2J" not in text


@pytest.mark.parametrize("code", ["\u202e", "\u2066", "\u200f", "\u2028", "\ufeff", "\udce9", "\x85"])
def test_characters_that_turn_a_line_around_are_shown(code: str) -> None:
    sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    SafeConsole(file=sink, width=80).print(f"a{code}gpj.b 👩\u200d🍳", markup=False)
    sink.flush()
    assert sink.buffer.getvalue().decode() == f"a{code!a}gpj.b 👩\u200d🍳\n".replace("'", "")  # type: ignore[attr-defined]


def test_texts_in_tables_are_no_markup() -> None:
    sink = io.StringIO()
    lines = table("[x]", ">[bold]n[/]", title="[y]")
    lines.add_row("/photos/t [x]/[bold]a[/]", "[/z]")
    SafeConsole(file=sink, width=80).print(lines)
    for text in ("[x]", "[bold]n[/]", "[y]", "/photos/t [x]/[bold]a[/]", "[/z]"):
        assert text in sink.getvalue()


@pytest.mark.parametrize(
    ("command", "closed", "status"),
    [("models", "stdout", 0), ("show missing", "stderr", 2), ("show missing", "stdout", 2)],
)
def test_a_reader_that_has_gone_changes_no_exit_code(command: str, closed: str, status: int, tmp_path: Path) -> None:
    """As in ``set -o pipefail; matteline models | true``."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {closed: writer}
    done = subprocess.run([MATTELINE, *command.split()], cwd=tmp_path, text=True, timeout=100, check=False, **streams)
    os.close(writer)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in (done.stderr or "") and "BrokenPipe" not in (done.stderr or "")
    if status == 0:
        assert done.stderr == ""


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert app(["--version"], standalone_mode=False) == 0
    assert capsys.readouterr().out == f"matteline {version('matteline')}\n"


def test_all_is_every_error_code() -> None:
    assert set(RunOptions(retry="all").retry) == {error.code for error in ITEM_ERRORS}
    assert RunOptions(retry="fetch, write").retry == ("fetch", "write")
    with pytest.raises(ValueError, match="or all"):
        RunOptions(retry="all,fetch")

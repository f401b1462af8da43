"""``report``, ``review`` and ``compare`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from jobs.main import app
from pipeline.storage.layout import Layout

MakeOutput = Callable[..., None]
HEAD = "item_id,verdict,note,recipe,time\n"


def test_the_commands(tmp_path: Path, make_output: MakeOutput) -> None:
    layout = Layout(str(tmp_path / "out"), "fake-0")
    make_output(layout)

    def matteline(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    output = str(tmp_path / "out")
    matteline("report", output)
    page = Path(layout.folder, "report.html").read_text()
    assert "gone" in page and "<b>gone" not in page
    assert "drawn with seed 3" in matteline("report", output, "--sample", "--seed", "3", "--at-most", "0.1")
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text(HEAD + "i1,accept,,,\n")
    assert "1 verdicts" in matteline("review", "import", str(verdicts), output)
    assert '"same": 60' in matteline("compare", output, output, "--json")
    matteline("compare", output, output, "--html", str(tmp_path / "compare.html"))

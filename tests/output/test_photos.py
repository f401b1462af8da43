"""Photos of an output are looked for below the folder of the last run's manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.output.output import Output
from pipeline.output.photos import manifest_folder
from pipeline.output.run_record import RunRecord
from pipeline.storage.files import Files


@pytest.mark.parametrize(
    ("manifest", "folder"),
    [
        ("shoot [1]/m.csv", "shoot [1]"),
        ("shoot [1]/*.csv", "shoot [1]"),
        ("shoot [1]/part-?.csv", "shoot [1]"),
        ("*/m.csv", "."),
        ("shoot [1]", "shoot [1]"),
        ("shoot [1]/gone[2].csv", "shoot [1]"),
    ],
)
def test_brackets_in_names_are_not_patterns(tmp_path: Path, manifest: str, folder: str) -> None:
    (tmp_path / "shoot [1]").mkdir()
    (tmp_path / "shoot [1]" / "m.csv").write_text("image_uri\na.jpg\n")
    output = Output.at(str(tmp_path / "out"), Files())
    record = RunRecord("20260101-000000-aaaaaaaa", str(tmp_path / manifest), "0" * 12, "fake", 1, 0)
    record.close(0)
    record.write(output)
    assert manifest_folder(output) == str(tmp_path / folder)

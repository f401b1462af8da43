"""The commands ``report``, ``review`` and ``compare``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.main import app
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.output.settings import write_settings
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]
HEAD = "item_id,verdict,note,recipe,time\n"


def matteline(*words: str) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_report_review_and_compare(tmp_path: Path, make_output: MakeOutput) -> None:
    opened, output = Output.at(str(tmp_path / "out" / "fake-0"), Files()), str(tmp_path / "out")
    make_output(opened)
    matteline("report", output)
    page = Path(opened.folder, "report.html").read_text()
    assert "gone" in page and "<b>gone" not in page
    assert "drawn with seed 3" in matteline("report", output, "--sample", "--seed", "3", "--at-most", "0.1")
    reviews = tmp_path / "reviews.csv"
    reviews.write_text(HEAD + "i1,accept,,,\n")
    assert "1 reviews" in matteline("review", "import", str(reviews), output)
    assert '"same": 60' in matteline("compare", output, output, "--json")
    matteline("compare", output, output, "--html", str(tmp_path / "compare.html"))


def test_an_output_on_s3_is_reviewed_and_accepted(
    s3: Any, tmp_path: Path, make_output: MakeOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket()
    output = f"s3://{bucket}/out"
    make_output(Output.at(f"{output}/fake-0", Files()))

    matteline("report", output)
    page = s3.get(bucket, "out/fake-0/report.html").decode()
    assert page.count("data:image/webp") == 3 * 2 and "<b>gone" not in page, "cutout and zoom of the three items with objects"
    s3.put(bucket, "reviews.csv", (HEAD + "i1,reject,,,\n").encode())
    assert "1 reviews" in matteline("review", "import", f"s3://{bucket}/reviews.csv", output)
    assert "accepted: 61 items" in matteline("review", "accept", output, "--to", f"s3://{bucket}/accepted.json")
    assert json.loads(s3.get(bucket, "accepted.json"))["lot"]["counts"] == {"ok": 60, "review": 0, "failed": 1}
    matteline("compare", output, output, "--html", f"s3://{bucket}/compare.html")
    assert s3.get(bucket, "compare.html").startswith(b"<!doctype html>")


def test_show_and_report_say_how_many_ok_items_are_not_good(tmp_path: Path, fake_settings: dict[str, Any]) -> None:
    output = Output.at(str(tmp_path / "out" / "fake-0"), Files())
    rows = [
        {
            "item_id": f"i{number}",
            "output_name": f"i{number}",
            "status": "ok" if number < 80 else "review",
            "quality": 0.9,
            "quality_calibrated": True,
        }
        for number in range(100)
    ]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    write_settings(output, fake_settings)
    said = "of 80 ok items, 8 (3 to 13) are expected to have a Dice below 0.95"
    assert said in matteline("show", str(tmp_path / "out"))
    (facts,) = json.loads(matteline("show", str(tmp_path / "out"), "--json"))
    assert facts["expected_below"] == {"dice_below": 0.95, "ok": 80, "expected": 8.0, "low": 3, "high": 13}
    matteline("report", str(tmp_path / "out"))
    assert said in Path(output.folder, "report.html").read_text()


def test_nothing_is_expected_of_uncalibrated_qualities(tmp_path: Path, make_output: MakeOutput) -> None:
    make_output(Output.at(str(tmp_path / "out" / "fake-0"), Files()))
    assert "expected to have" not in matteline("show", str(tmp_path / "out"))
    assert json.loads(matteline("show", str(tmp_path / "out"), "--json"))[0]["expected_below"] is None

"""The commands ``report``, ``review`` and ``compare``."""

from __future__ import annotations

import json
import re
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


def matteline(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == code and isinstance(done.exception, SystemExit | None), (done.output, done.exception)
    return done.output


def test_report_review_and_compare(tmp_path: Path, make_output: MakeOutput) -> None:
    opened, output = Output.at(str(tmp_path / "out" / "fake-0"), Files()), str(tmp_path / "out")
    make_output(opened, 3)
    matteline("report", output)
    page = Path(opened.folder, "report.html").read_text()
    assert "gone" in page and "<b>gone" not in page
    sampled = matteline("report", output, "--sample", "--seed", "3", "--at-most", "0.1")
    assert "drawn with seed 3; open: checks all 3 items; if none of them is bad, at most 10 % of all 3 items are bad" in sampled
    reviews = tmp_path / "reviews.csv"
    reviews.write_text(HEAD + "i1,accept,,,\n")
    assert "1 reviews" in matteline("review", "import", str(reviews), output)
    assert '"same": 3' in matteline("compare", output, output, "--json")
    matteline("compare", output, output, "--html", str(tmp_path / "compare.html"))


def test_an_output_on_s3_is_reviewed_and_accepted(
    s3: Any, tmp_path: Path, make_output: MakeOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket()
    output = f"s3://{bucket}/out"
    make_output(Output.at(f"{output}/fake-0", Files()), 3)

    matteline("report", output)
    page = s3.get(bucket, "out/fake-0/report.html").decode()
    assert page.count("data:image/webp") == 3 * 2 and "<b>gone" not in page, "cutout and zoom of the three items with objects"
    s3.put(bucket, "reviews.csv", (HEAD + "i1,reject,,,\n").encode())
    assert "1 reviews" in matteline("review", "import", f"s3://{bucket}/reviews.csv", output)
    assert "accepted: 4 items" in matteline("review", "accept", output, "--to", f"s3://{bucket}/accepted.json")
    assert json.loads(s3.get(bucket, "accepted.json"))["lot"]["counts"] == {"ok": 3, "review": 0, "failed": 1}
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
            "renditions": [{"name": "natural-shadow", "note": None if number else "no shadow: the ground is too dark"}],
        }
        for number in range(100)
    ]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    write_settings(output, fake_settings)
    said = "of 80 ok items, 8 (3 to 13) are expected to have a Dice below 0.95"
    shown = matteline("show", str(tmp_path / "out"))
    assert said in shown
    assert re.search(r"natural-shadow +1 of 100 +no shadow: the ground is too dark", shown)
    (facts,) = json.loads(matteline("show", str(tmp_path / "out"), "--json"))
    assert facts["expected_below"] == {"dice_below": 0.95, "ok": 80, "expected": 8.0, "low": 3, "high": 13}
    notes = {"no shadow: the ground is too dark": 1}
    assert facts["remarks"] == {"natural-shadow": {"items": 100, "noted": 1, "notes": notes}}
    matteline("report", str(tmp_path / "out"))
    page = Path(output.folder, "report.html").read_text()
    assert "Of the 80 ok items, about 8 (3 to 13) may not be good enough." in page


def test_nothing_is_expected_of_uncalibrated_qualities(tmp_path: Path, make_output: MakeOutput) -> None:
    make_output(Output.at(str(tmp_path / "out" / "fake-0"), Files()))
    assert "expected to have" not in matteline("show", str(tmp_path / "out"))
    assert json.loads(matteline("show", str(tmp_path / "out"), "--json"))[0]["expected_below"] is None


def test_missing_pictures_are_named_and_end_with_exit_code_1(tmp_path: Path, make_output: MakeOutput) -> None:
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output, 20)
    said = " ".join(matteline("report", output.folder, code=1).split())
    assert "pictures are missing for 17 of 20 items; the page marks them" in said
    assert (
        "missing 17 cutouts (i3, i4, i5, i6, i7, i8, i9, i10, i11, i12 and 7 more):" in said
        and "is missing; run matteline verify --repair" in said
    )
    page = Path(output.folder, "report.html").read_text()
    assert "17 cutouts (i3, i4, i5 and 14 more):" in page
    assert "pictures are missing" not in matteline("report", output.folder, "--items", "3"), (
        "only pictures that are shown can be missing"
    )


def test_a_moved_output_keeps_its_pictures(tmp_path: Path, make_output: MakeOutput) -> None:
    make_output(Output.at(str(tmp_path / "out"), Files()), 3)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    matteline("report", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "report.html").read_text().count("data:image/webp") == 6


def test_columns_of_the_manifest_are_chosen(
    request: pytest.FixtureRequest, tmp_path: Path, make_photos: Any, fake_preset: str
) -> None:
    command = request.getfixturevalue("matteline")
    make_photos(tmp_path / "in", 2)
    rows = "image_uri,sku,price\nphoto-000.jpg,SKU-1,19.90\nphoto-001.jpg,SKU-2,5\n"
    (tmp_path / "in" / "shop.csv").write_text(rows)
    assert command("run", "-m", "in/shop.csv", "-o", "out", "-p", fake_preset).returncode == 0
    assert command("report", "out", "--show", "sku").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert '"columns":["sku"]' in page and "SKU-2" in page and "19.9" not in page
    assert '"title":"shop.csv → out"' in page
    refused = command("report", "out", "--show", "sku,colour")
    assert (
        refused.returncode == 2
        and "--show colour: there is no such column; columns of the manifest: sku, price" in refused.stderr
    )
    assert command("show", "out").stdout.count("SKU") == 0


def test_show_says_why_in_plain_words(tmp_path: Path, fake_settings: dict[str, Any]) -> None:
    output = Output.at(str(tmp_path / "out"), Files())
    rows = [
        {"item_id": f"i{at}", "output_name": f"i{at}", "status": "review", "quality": 0.1, "reasons": ["box_agreement"]}
        for at in range(2)
    ]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    write_settings(output, fake_settings)
    said = " ".join(matteline("show", output.folder).split())
    assert "2 the mask disagrees with the box you asked for box_agreement" in said


def test_whoever_finds_damage_names_its_repair(
    request: pytest.FixtureRequest, tmp_path: Path, make_photos: Any, fake_preset: str
) -> None:
    command = request.getfixturevalue("matteline")
    make_photos(tmp_path / "in", 3)
    assert command("run", "-m", "in", "-o", "out", "-p", fake_preset).returncode == 0
    mask, cutout = (tmp_path / "out" / kind / "photo-001.png" for kind in ("masks", "cutouts"))
    whole = mask.read_bytes()
    for damage in (lambda: mask.write_bytes(whole[:-40]), mask.unlink):
        damage()
        for words in (("show", "out", "--sheet", "s.jpg"), ("dataset", "out", "--coco", "c.json")):
            said = command(*words)
            assert said.returncode and "run matteline verify --repair, then the same run again" in said.stderr, words
            assert "masks/photo-001.png" in said.stderr
        checked = command("verify", "out")
        assert checked.returncode == 1
        assert f"to repair it: matteline verify --repair {tmp_path}/out, then the same run again" in checked.stdout
    cutout.unlink()
    said = command("report", "out")
    assert said.returncode == 1
    assert said.stderr.count("is missing; run matteline verify --repair, then the same run again") == 2
    assert "1 rows were removed" in command("verify", "out", "--repair").stdout
    assert command("run", "-m", "in", "-o", "out", "-p", fake_preset).returncode == 0
    sound = command("verify", "out")
    assert sound.returncode == 0 and "repair" not in sound.stdout

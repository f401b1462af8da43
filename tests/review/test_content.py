"""The content of a page: names, links to files, and values that no page can show."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.output.output import Output
from pipeline.output.run_record import RecipeReport
from pipeline.output.summary import Summary
from pipeline.review.content import describe_work, link_base, pictures_of, report_head, rows_by_column
from pipeline.review.html import embed_json
from pipeline.review.pictures import Entry, Shown
from pipeline.storage.files import Files

ROW: dict[str, Any] = {
    **dict.fromkeys(("signals", "image_uri", "mask_path", "cutout_path")),
    **{"item_id": "a", "box": [1.0, 2.0, 30.0, 40.0], "width": 50, "height": 60},
}


@pytest.mark.parametrize(
    ("output", "page", "base"),
    [
        ("/shop/out", "/shop/out/report.html", ""),
        ("/shop/out", "/shop/report.html", "out/"),
        ("/shop/out", "/desk/today/report.html", "../../shop/out/"),
        ("s3://shop/out", "s3://shop/out/report.html", ""),
        ("s3://shop/out", "/desk/report.html", None),
        ("/shop/out", "s3://shop/report.html", None),
    ],
)
def test_a_page_links_to_files_where_it_can(output: str, page: str, base: str | None) -> None:
    assert link_base(Output.at(output, Files()), page) == base


@pytest.mark.parametrize("finished_at", [None, "yesterday", "0001-01-01T00:00:00+05:00"])
def test_the_title_is_manifest_output_and_date(finished_at: str | None, tmp_path: Any) -> None:
    output = Output.at(str(tmp_path / "spring"), Files())
    run = {"run_id": "r", "outcome": "complete", "seconds": 2, "manifest": "https://me:secret@shop.test/a/shop.csv?key=1"}
    head = report_head(RecipeReport(output, Summary(), run | {"finished_at": "2026-01-31T23:30:00-02:00"}), [], [])
    assert head["title"] == "shop.csv → spring" and head["tab"] == "shop.csv → spring · 2026-02-01"
    assert head["date"] == "1 February 2026, 01:30 UTC" and "secret" not in embed_json(head)
    assert report_head(RecipeReport(output, Summary(), None), [], [])["title"] == "spring"
    undated = report_head(RecipeReport(output, Summary(), run | {"finished_at": finished_at}), [], [])
    assert undated["tab"] == "shop.csv → spring" and undated["date"] == ""


@pytest.mark.parametrize(
    "box", [None, [], [1.0], [math.nan] * 4, [0.0, 0.0, math.inf, 9.0], [None, 1.0, 2.0, 3.0], [5.0, 5.0, 1.0, 1.0]]
)
def test_boxes_that_no_run_accepts_are_left_out(box: Any) -> None:
    assert pictures_of(Entry(ROW))["box"] == [1.0, 2.0, 30.0, 40.0]
    assert "box" not in pictures_of(Entry(ROW | {"box": box})) and "box" not in pictures_of(Entry(ROW | {"width": 0}))


def test_the_box_that_a_detector_found_is_shown_if_the_user_gave_none() -> None:
    found = ROW | {"box": None, "detected_box": [3.0, 4.0, 5.0, 6.0]}
    assert (pictures_of(Entry(found))["box"], pictures_of(Entry(found))["found"]) == ([3.0, 4.0, 5.0, 6.0], True)
    both = ROW | {"detected_box": [3.0, 4.0, 5.0, 6.0]}
    assert (pictures_of(Entry(both))["box"], pictures_of(Entry(both))["found"]) == (ROW["box"], False)


def test_paths_that_lead_out_of_the_output_are_no_links() -> None:
    row = ROW | {"mask_path": "../secret.png", "cutout_path": "cutouts/a.png"}
    made = pictures_of(Entry(row, renditions=[Shown("white", "/etc/passwd", "", None)]))
    assert made["files"] == {"mask": None, "cutout": "cutouts/a.png"} and made["renditions"][0]["file"] is None


def test_rows_have_only_values_that_json_has() -> None:
    row = {
        "item_id": "a",
        "status": "ok",
        "tags": [],
        "error_code": None,
        "error_detail": None,
        "shown": ["x", ""],
        "version": "ok",
    }
    rows = [row | {"quality": math.inf, "reasons": None}, row | {"quality": 0.51239, "reasons": ["gaps", None]}]
    found = rows_by_column(rows, 2)
    embed_json(found)
    assert (
        found["quality"] == [None, 0.5124] and found["reasons"] == [[], ["gaps"]] and found["shown"] == [["x", "x"], ["", ""]]
    )


def test_what_the_detector_and_the_models_thought_is_one_line() -> None:
    looks = [{"model": "mvanet-lite", "quality": 0.21}, {"model": "u2net", "quality": 0.88}]
    row = {"detected_label": "bird", "detector_score": 0.62, "models": looks, "agreement": 0.744}
    assert describe_work(row) == "found 'bird' 0.62; mvanet-lite 0.21 → u2net 0.88, agreement 0.74"
    assert describe_work({"models": looks[:1], "detected_label": None, "agreement": None}) == "mvanet-lite 0.21"
    assert describe_work({}) == ""

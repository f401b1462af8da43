"""Objects by name over HTTP and on the page, with a detector of random weights and the fake model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from pipeline import Segmenter
from pipeline.serve.jobs.offer import Offer
from pipeline.serve.refusals import RequestRefused


@pytest.fixture(scope="module")
def setting(tiny_detectors: dict[str, Path]) -> str:
    return json.dumps({"model": "owlv2", "weights": str(tiny_detectors["owlv2"]), "threshold": 0.3})


@pytest.fixture(scope="module")
def by_name(start_service: Callable[..., Any], fake_preset: str, setting: str) -> Any:
    """The second model is the first one again, so that masks are those of one model."""
    second = json.dumps({"preset": fake_preset, "below": 1})
    return start_service("--preset", fake_preset, "--set", f"recipe.detector={setting}", "--set", f"recipe.second={second}")


def png(*size: int) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


NOISE = png(80, 120)


def test_the_named_object_is_cut_out(by_name: Any, make_form: Any) -> None:
    (preset,) = by_name.get("/v1/presets").json["presets"]
    assert preset["labels"] is True
    answer = by_name.post("/v1/cutout?label=cup&output=json", NOISE)
    assert answer.status == 200 and 0.3 < float(answer.headers["X-Box-Score"]) <= 1
    found = answer.json["found"]
    assert found["label"] == "cup" and answer.headers["X-Box"] == ",".join(f"{edge:.1f}" for edge in found["box"])
    boxed = by_name.post(f"/v1/cutout?box={','.join(map(repr, found['box']))}&output=json", NOISE)
    assert boxed.json["mask"] == answer.json["mask"] and "X-Box" not in boxed.headers
    body, kind = make_form("image", NOISE, label="кружка; potted plant", output="json")
    found = by_name.post("/v1/cutout", body, Content_Type=kind).json["found"]
    assert found["label"] in {"кружка", "potted plant"} and len(found["box"]) == 4
    assert by_name.post("/v1/cutout?label=auto&output=json", NOISE).json["found"] is None
    boxed = by_name.post("/v1/cutout?label=auto&box=1,1,50,50&output=json", NOISE).json
    assert boxed["found"] is None and boxed["agreement"] == 1
    assert [(look["model"], look["used"]) for look in boxed["models"]] == [("fake", False), ("fake", True)]


def test_the_object_at_a_point_is_cut_out(by_name: Any, fake_preset: str) -> None:
    photo = np.full((120, 200, 3), 20, np.uint8)
    photo[30:90, 20:80] = photo[40:80, 120:180] = 230
    sink = io.BytesIO()
    Image.fromarray(photo).save(sink, "PNG")
    answer = by_name.post("/v1/cutout?point=50,60&label=auto&output=mask", sink.getvalue())
    assert answer.status == 200
    mask = np.asarray(Image.open(io.BytesIO(answer.body)))
    np.testing.assert_array_equal(mask, Segmenter(fake_preset, device="cpu")(photo, point=(50, 60)).mask)
    for query, code in (("point=100,10", "prompt"), ("point=1", "request"), ("point=1,2&box=1,1,9,9", "request")):
        refused = by_name.post(f"/v1/cutout?{query}", sink.getvalue())
        assert refused.json["code"] == code and "point" in refused.json["message"]


def test_labels_that_cannot_be_used(by_name: Any, service: Any, picture: bytes) -> None:
    nothing = by_name.post("/v1/cutout?label=cup", png(1, 1))  # no box has an area there
    assert (nothing.status, nothing.json["code"]) == (422, "prompt") and "cup" in nothing.json["message"]
    for query in ("label=cup&box=1,1,50,50", f"label={'x' * 300}", f"label={quote(';'.join(map(str, range(200))))}"):
        answer = by_name.post(f"/v1/cutout?{query}", NOISE)
        assert (answer.status, answer.json["code"]) == (400, "request"), query
    without = service.post("/v1/cutout?label=cup", picture)
    assert (without.status, without.json["code"]) == (400, "request") and "recipe.detector" in without.json["message"]
    (preset,) = service.get("/v1/presets").json["presets"]
    assert preset["labels"] is False and service.post("/v1/cutout?label=", picture).status == 200


def test_jobs_find_by_name_where_a_detector_is_configured(fake_preset: str, setting: str, tmp_path: Path) -> None:
    body = {"manifest": str(tmp_path), "output": str(tmp_path / "out"), "settings": {"recipe.detector.label": ["cup"]}}

    def offer(settings: dict[str, Any]) -> Offer:
        return Offer((str(tmp_path),), (str(tmp_path),), 1, {"fake": fake_preset}, {}, settings)

    overrides = offer({"recipe.detector": json.loads(setting)}).check(body).arguments["overrides"]
    assert overrides["recipe.detector.label"] == ["cup"]
    with pytest.raises(RequestRefused, match="finds no objects by name"):
        offer({}).check(body)


@pytest.mark.browser
def test_the_page_has_a_field_for_the_name(browser: ModuleType, by_name: Any, service: Any, tmp_path: Path) -> None:
    if browser.find() is None:
        pytest.skip("no browser")
    (tmp_path / "noise.png").write_bytes(NOISE)
    with browser.Browser(browser.find()) as tab:
        for running, hidden in ((service, True), (by_name, False)):
            tab.open(f"http://127.0.0.1:{running.port}/")
            tab.run("new Promise((done) => { const look = () => document.getElementById('preset').options.length ? done() : "
                    "setTimeout(look, 20); look(); })")  # fmt: skip
            assert tab.run("document.getElementById('object-label').hidden") is hidden
        field = tab.call("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
        tab.call("DOM.setFileInputFiles", files=[str(tmp_path / "noise.png")], objectId=field)
        done = "new Promise((done) => { const look = () => (%s) ? done(true) : setTimeout(look, 20); look(); })"
        tab.run(done % "document.querySelector('.cutout img')")
        assert tab.run("document.querySelectorAll('.photo rect').length") == 0
        tab.run("document.getElementById('object').focus()")
        tab.press("cup", "Enter")
        tab.run(
            done
            % "document.querySelectorAll('.photo rect').length && document.querySelector('.chip').innerText !== 'working …'"
        )
        assert tab.errors == []

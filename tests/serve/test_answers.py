"""What a client gets: cutouts, masks, JSON, renditions; lists, health, metrics, documents."""

from __future__ import annotations

import base64
import io
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import Segmenter
from pipeline.config.rendition import rendition_names
from pipeline.imaging.trimap import trimap_of
from pipeline.quality.reasons import explain

Form = Callable[..., tuple[bytes, str]]
BOX = (0, 0, 30, 90)
"""A part of the object, so that the mask disagrees with it."""
ASKED = "box=0,0,30,90"


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture(scope="module")
def expected(fake_preset: str, picture: bytes) -> Any:
    found = Segmenter(fake_preset)(picture, box=BOX)
    assert found.reasons
    return found


def test_a_body_gives_the_cutout_that_python_gives(service: Any, picture: bytes, expected: Any) -> None:
    answer = service.post(f"/v1/cutout?{ASKED}", picture)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.body == expected.png()
    assert float(answer.headers["X-Quality"]) == pytest.approx(expected.quality, abs=1e-4)
    assert answer.headers["X-Reasons"] == ",".join(expected.reasons)
    assert answer.headers["X-Quality-Calibrated"] == "false" and answer.headers["X-Status"] in {"ok", "review"}
    assert answer.headers["X-Recipe"] == f"fake-{expected.recipe.fingerprint()[:12]}"
    assert re.fullmatch(r"decode;dur=[\d.]+, wait;dur=[\d.]+, encode;dur=[\d.]+", answer.headers["Server-Timing"])


@pytest.mark.parametrize("field", ["image", "file"])
def test_a_form_may_have_options_in_query_and_fields(
    service: Any, picture: bytes, fake_preset: str, make_form: Form, field: str
) -> None:
    body, kind = make_form(field, picture, output="mask")
    answer = service.post("/v1/cutout?box=20,10,100,80", body, Content_Type=kind)
    mask = Segmenter(fake_preset)(picture, box=(20, 10, 100, 80)).mask
    assert np.array_equal(np.asarray(opened(answer.body)), mask)


@pytest.mark.parametrize("asked, mode", [("webp", "RGBA"), ("tiff", "RGBA"), ("jpg", "RGB"), ("png&background=white", "RGB")])
def test_formats(service: Any, picture: bytes, asked: str, mode: str) -> None:
    answer = service.post(f"/v1/cutout?format={asked}", picture)
    image = opened(answer.body)
    assert image.mode == mode and answer.headers["Content-Type"] == Image.MIME[str(image.format)]


def test_a_picture_too_large_for_webp_is_refused_in_a_sentence(service: Any) -> None:
    wide = io.BytesIO()
    Image.new("RGB", (16_384, 4), "teal").save(wide, "PNG")
    answer = service.post("/v1/cutout?format=webp", wide.getvalue())
    assert (answer.status, answer.json["code"]) == (422, "write") and "16,383 pixels" in answer.json["message"]


def test_json_has_everything(service: Any, picture: bytes, expected: Any) -> None:
    found = service.post(f"/v1/cutout?output=json&{ASKED}", picture).json
    assert np.array_equal(np.asarray(opened(base64.b64decode(found["mask"]["base64"]))), expected.mask)
    assert base64.b64decode(found["image"]["base64"]) == expected.png()
    assert found["reasons"] == [{"name": reason, "text": explain(reason)} for reason in expected.reasons]
    assert (found["height"], found["width"]) == expected.mask.shape and found["signals"].keys() == expected.signals.keys()


def test_renditions(service: Any, picture: bytes) -> None:
    listed = {one["name"]: one for one in service.get("/v1/renditions").json["renditions"]}
    assert listed.keys() >= set(rendition_names())
    made = service.post("/v1/cutout?rendition=amazon-main", picture)
    assert opened(made.body).size == (2000, 2000) and "enlarged" in made.headers["X-Note"]
    lengths = service.post("/v1/cutout?rendition=dataset-coco", picture)
    assert lengths.headers["Content-Type"] == "application/json" and "counts" in lengths.json


def test_json_has_renditions_beside_the_cutout(service: Any, picture: bytes) -> None:
    found = service.post("/v1/cutout?output=json&rendition=amazon-main,%20thumbnail,amazon-main&format=webp", picture).json
    assert found["image"]["type"] == "image/webp" and opened(base64.b64decode(found["image"]["base64"])).mode == "RGBA"
    first, second = found["renditions"]
    assert (first["name"], first["type"], second["name"]) == ("amazon-main", "image/jpeg", "thumbnail")
    assert "enlarged" in first["note"]
    alone = service.post("/v1/cutout?rendition=amazon-main", picture).body
    assert base64.b64decode(first["base64"]) == alone
    assert service.post("/v1/cutout?output=json", picture).json["renditions"] == []


def test_photos_of_phones_need_no_further_extra(service: Any, picture: bytes) -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert set(extras["heif"]) <= set(extras["serve"])
    pillow_heif = pytest.importorskip("pillow_heif")
    sink = io.BytesIO()
    pillow_heif.from_pillow(opened(picture)).save(sink)
    assert service.post("/v1/cutout", sink.getvalue()).status == 200


def test_a_trimap(service: Any, picture: bytes, expected: Any) -> None:
    answer = service.post(f"/v1/cutout?output=trimap&{ASKED}", picture)
    assert np.array_equal(np.asarray(opened(answer.body)), trimap_of(expected.mask))


def test_an_empty_mask_has_no_rendition(service: Any) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30)).save(sink, "PNG")
    answer = service.post("/v1/cutout?rendition=amazon-main", sink.getvalue())
    assert (answer.status, answer.json["code"]) == (422, "rendition") and "no object" in answer.json["message"]
    (told,) = service.post("/v1/cutout?rendition=amazon-main&output=json", sink.getvalue()).json["renditions"]
    assert told["base64"] is None and "no object" in told["note"]


def test_the_service_describes_itself(service: Any) -> None:
    (preset,) = service.get("/v1/presets").json["presets"]
    assert preset["name"] == "fake" and preset["recipe"].startswith("fake-")
    assert service.get("/health").json == {"status": "alive"} and service.get("/ready").status == 200
    paths = service.get("/openapi.json").json["paths"]
    for path, methods in paths.items():
        for method in methods:
            assert service.request(method.upper(), path).status not in {404, 405}, (method, path)
    page = service.get("/docs")
    assert all(path in page.body.decode() for path in paths) and "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_metrics_are_prometheus_text(service: Any, picture: bytes) -> None:
    before = service.get("/metrics").body.decode()
    service.post("/v1/cutout", picture)
    text = service.get("/metrics").body.decode()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines())

    def answers(of: str) -> int:
        found = re.search(r'requests_total\{path="/v1/cutout",status="200"\} (\d+)', of)
        return int(found[1]) if found else 0

    assert answers(text) == answers(before) + 1
    assert "matteline_serve_queue 0" in text and 'stage_seconds_count{stage="model"}' in text


def test_clients_of_rembg_work(service: Any, picture: bytes, fake_preset: str, make_form: Form) -> None:
    expected = Segmenter(fake_preset)(picture)
    body, kind = make_form("file", picture, model="u2net", a="true", af="240", ab="10", ae="10", om="false", ppm="false")
    answer = service.post("/api/remove", body, Content_Type=kind)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.body == expected.png()
    body, kind = make_form("file", picture, om="true")
    assert np.array_equal(np.asarray(opened(service.post("/api/remove", body, Content_Type=kind).body)), expected.mask)
    body, kind = make_form("file", picture)
    for colour in ("255,0,0,255", "255,0,0"):
        over = opened(service.post(f"/api/remove?bgc={colour}", body, Content_Type=kind).body)
        assert over.mode == "RGB" and over.getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=5)
    for colour in ("255,0,0,128", "255,0", "1,2,3,255,5", "red"):
        assert "opaque" in service.post(f"/api/remove?bgc={colour}", body, Content_Type=kind).json["message"]


def test_addresses_below_an_allowed_root_are_read(
    start_service: Callable[..., Any], web: Any, fake_preset: str, picture: bytes
) -> None:
    web.say((200, {"Content-Type": "image/jpeg"}, picture))
    service = start_service("--preset", fake_preset, "--allow-root", f"{web.url}/photos")
    assert opened(service.get(f"/api/remove?url={web.url}/photos/cup.jpg").body).mode == "RGBA"
    for other in ("/photos/../secret.jpg", "/secret.jpg"):
        assert service.get(f"/api/remove?url={web.url}{other}").json["code"] == "address"
    assert len(web.seen) == 1


def test_a_redirect_out_of_the_roots_says_nothing_of_them(
    start_service: Callable[..., Any], web: Any, fake_preset: str, tmp_path: Path
) -> None:
    roots = ("--allow-root", f"{web.url}/photos", "--allow-root", str(tmp_path))
    service = start_service("--preset", fake_preset, *roots)
    for target in (f"{web.url}/private/x.jpg", "http://intranet.example/x.jpg", "http://169.254.169.254/latest"):
        web.say((302, {"Location": target}, b""))
        answer = service.get(f"/api/remove?url={web.url}/photos/cup.jpg")
        assert (answer.status, answer.json["code"]) == (403, "address")
        said = answer.json["message"]
        assert not any(secret in said for secret in ("photos", "private", "intranet", "169.254", str(tmp_path)))

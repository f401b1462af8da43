"""Background pictures: fetched, checked and pinned before any work."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.job import Limits
from pipeline.config.rendition import Rendition, load_rendition
from pipeline.errors import ConfigError, WriteError
from pipeline.models.backgrounds import pin_backgrounds, pin_video_background
from pipeline.quality.score import Score
from pipeline.segmenter import Cutout
from pipeline.storage.files import Files


def png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (30, 20), (10, 120, 240)).save(sink, "PNG")
    return sink.getvalue()


def rendition_on(picture: str, **facts: Any) -> Rendition:
    return Rendition.model_validate({"name": "own", "background": picture} | facts)


@pytest.fixture
def web() -> Iterator[str]:
    """Run a server on loopback that returns the picture for any path, and provide the picture's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(png())))
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/beach.png?X-Amz-Signature=s3cr3t"
        server.shutdown()


def test_pictures_are_pinned_and_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beach.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    plain = load_rendition("amazon-main")
    renditions, pictures = pin_backgrounds([plain, rendition_on("beach.png")], Files(), Limits())
    sha256 = hashlib.sha256(png()).hexdigest()
    assert renditions[0] is plain
    assert renditions[1].background_sha256 == sha256 and pictures == {sha256: png()}
    assert pin_backgrounds(renditions, Files(), Limits()) == (renditions, pictures)


def test_pictures_on_the_web_may_be_read_within_limits(web: str) -> None:
    _, pictures = pin_backgrounds([rendition_on(web)], Files(), Limits())
    assert list(pictures.values()) == [png()]
    with pytest.raises(ConfigError, match="limits.max_bytes") as refused:
        pin_backgrounds([rendition_on(web)], Files(), Limits(max_bytes=10))
    assert "s3cr3t" not in str(refused.value)


def test_the_picture_behind_videos_is_pinned_in_the_same_way(tmp_path: Path, web: str) -> None:
    (tmp_path / "beach.png").write_bytes(png())
    sha256 = hashlib.sha256(png()).hexdigest()
    plain = load_recipe()
    assert pin_video_background(plain, Files(), Limits()) == (plain, {})
    for place in (str(tmp_path / "beach.png"), web):
        recipe, pictures = pin_video_background(on_picture(place), Files(), Limits())
        assert recipe.video_background_sha256 == sha256 and pictures == {sha256: png()}
        assert pin_video_background(recipe, Files(), Limits()) == (recipe, pictures)
        assert recipe.fingerprint() not in (plain.fingerprint(), on_picture("#102030").fingerprint())
    with pytest.raises(ConfigError, match=r"^recipe.video_background cannot be used: .*limits.max_bytes") as refused:
        pin_video_background(on_picture(web), Files(), Limits(max_bytes=10))
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"red: it does not exist; .*, or give a colour such as \"#f4f1ea\""):
        pin_video_background(on_picture(str(tmp_path / "red")), Files(), Limits())
    with pytest.raises(ConfigError, match=f"hashes to {sha256}, but recipe.video_background_sha256 is 0000"):
        pin_video_background(on_picture(str(tmp_path / "beach.png"), "0" * 64), Files(), Limits())


def on_picture(background: str, sha256: str | None = None) -> Any:
    from pipeline.config.presets import load_preset

    behind = {"video_background": background, "video_background_sha256": sha256}
    return load_preset("u2netp", behind | {"videos": ["mp4"]}).recipe


def cutout(alpha: np.ndarray) -> Cutout:
    image = np.full((*alpha.shape, 3), 60, np.uint8)
    return Cutout(image, alpha, Score(0.9, False, (), {}), load_recipe())


def load_recipe() -> Any:
    from pipeline.config.presets import load_preset

    return load_preset("u2netp").recipe


def test_a_cutout_returns_its_renditions(tmp_path: Path) -> None:
    (tmp_path / "beach.png").write_bytes(png())
    alpha = np.zeros((40, 50), np.uint8)
    alpha[10:30, 10:40] = 255
    made = cutout(alpha)
    (main,) = made.rendition("amazon-main")
    main.save(tmp_path / "main.jpg")
    assert Image.open(tmp_path / "main.jpg").size == (2000, 2000)
    small, large = made.rendition(rendition_on(str(tmp_path / "beach.png"), size_px=[25, 50]))
    assert (small.name, small.size, large.name, large.size) == ("own-25", (20, 25), "own-50", (40, 50))
    assert Image.open(io.BytesIO(large.data or b"")).getpixel((0, 0)) == (10, 120, 240)
    with pytest.raises(ConfigError, match="no rendition 'amazon'"):
        made.rendition("amazon")
    (nothing,) = cutout(np.zeros((40, 50), np.uint8)).rendition("transparent")
    with pytest.raises(WriteError, match="not made: the mask shows no object"):
        nothing.save(tmp_path / "nothing.png")

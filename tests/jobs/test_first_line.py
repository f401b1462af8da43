"""Commands print what they wait for before they touch a manifest, a storage or a model, which may take long."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.main import main
from pipeline.run import gpus


class Touched(Exception):
    """Raised by a stub; the text is what stderr had by then."""


@pytest.fixture
def said_before(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """``said_before(place, *arguments)``: the events that a command has logged when it comes to ``place``, a function."""

    def run(place: str, *arguments: str) -> list[str]:
        def touch(*_: Any, **__: Any) -> Any:
            raise Touched(capsys.readouterr().err)

        monkeypatch.setattr(place, touch)
        monkeypatch.setattr(sys, "argv", ["matteline", *arguments])
        with pytest.raises(Touched) as stopped:
            main()
        return [json.loads(line)["event"] for line in str(stopped.value).splitlines()]

    return run


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("place", ["pipeline.run.preflight.open_manifest", "pipeline.storage.files.Files.list"])
def test_before_the_manifest(said_before: Any, command: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    said = said_before(place, command, "--manifest", str(tmp_path / "photos"), "--output", str(tmp_path / "out"))
    assert said == ["reading the manifest"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_before_ray_is_imported(said_before: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "sys", type("NoRay", (), {"modules": {}}))
    where = ["--manifest", str(tmp_path), "--output", str(tmp_path / "out"), "--set", "compute.ray_address=127.0.0.1:1"]
    assert said_before("pipeline.run.cluster.ray_cluster", command, *where) == ["importing Ray"]


def test_before_a_picture_is_read(said_before: Any) -> None:
    said = said_before(
        "pipeline.storage.files.Files.read", "cut", "https://user:pass@example.com/cup.jpg?token=1", "-o", "cup.png"
    )
    assert said == ["reading https://example.com/cup.jpg"]


def test_before_a_model_is_loaded(said_before: Any, make_photos: Callable[..., list[Path]], tmp_path: Path) -> None:
    (photo,) = make_photos(tmp_path, 1)
    said = said_before("pipeline.segmenter.Segmenter.from_recipe", "cut", str(photo), "-o", str(tmp_path / "cup.png"))
    assert said[-1] == "loading the model mvanet-lite"


def test_before_an_output_is_opened(said_before: Any, tmp_path: Path) -> None:
    said = said_before("pipeline.output.output.open_output", "report", str(tmp_path))
    assert said == ["reading the index and its pictures"]


def test_what_plan_looks_at_after_the_manifest_is_waited_for(
    said_before: Any, make_photos: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    from pipeline import log

    wait = log.waiting_for
    monkeypatch.setattr(log, "waiting_for", lambda what, **how: (waits.append(what), wait(what, **how))[1])
    make_photos(tmp_path / "photos", 1)
    said_before("pipeline.run.cost.sample_sizes", "plan", "-m", str(tmp_path / "photos"), "-o", str(tmp_path / "out"))
    assert waits[-1] == "looking up the sizes of some images"

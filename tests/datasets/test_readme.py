"""Commands and snippets of ``pipeline/datasets/README.md`` run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.run.driver import run_job

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "pipeline" / "datasets" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)


def test_commands_and_snippets(
    tmp_path: Path, make_photos: Any, fake_preset: str, matteline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_photos(tmp_path / "photos", 2)
    (tmp_path / "photos/shelf").mkdir()
    first = first.rename(tmp_path / "photos/shelf/a.jpg")
    width, height = Image.open(first).size
    image = {"id": 3, "file_name": "shelf/a.jpg", "height": height, "width": width}
    annotations = [{"id": 8, "image_id": 3, "category_id": 5, "bbox": [10, 10, 50, 60], "iscrowd": 0, "area": 1}]
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 5, "name": "mug"}]}
    (tmp_path / "photos/objects.json").write_text(json.dumps(content))
    run_job(load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out/photos"), preset=fake_preset))
    (tmp_path / "photos.csv").write_text("image_uri\n" + "\n".join(f"{number // 2}.jpg" for number in range(10)) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    count = 0
    for kind, text in BLOCKS:
        for line in text.splitlines() if kind == "sh" else ():
            _, *arguments = line.split("  #")[0].split()
            done = matteline(*arguments, *(["--preset", fake_preset] if arguments[0] == "run" else []))
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            count += 1
        if kind == "python":
            exec(text, {})
            count += 1
    assert count == 8 + 4
    assert (tmp_path / "photos.csv").read_text().split()[1:] == [
        f"{number // 2}.jpg,{'val' if number < 2 else 'train'}" for number in range(10)
    ]
    improved = json.loads((tmp_path / "improved.json").read_text())
    assert improved["images"] == content["images"] and improved["annotations"][0]["area"] > 1
    made = {str(path.relative_to(tmp_path)) for path in (tmp_path / "sets").rglob("*") if path.is_file()}
    shown = re.findall(r"[\w/-]+\.\w+", "\n".join(text for kind, text in BLOCKS if not kind))
    assert len(shown) >= 9
    for name in shown:
        assert any(path.endswith(f"/{name}") for path in made), name
    assert f"sets/labels/{second.stem}.png" in made


def test_modules_are_listed() -> None:
    listed = set(re.findall(r"`(\w+\.py)`", README.partition("## Modules")[2]))
    assert listed == {path.name for path in (ROOT / "pipeline/datasets").glob("*.py")} - {"__init__.py"}

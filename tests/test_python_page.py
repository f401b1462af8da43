"""The snippets of the page about Python run, and its tables name what there is."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from pipeline import Cutout, RunProgress, run
from pipeline.config.job import load_job

PAGE = (Path(__file__).resolve().parent.parent / "pipeline" / "PYTHON.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
MakePhotos = Callable[..., list[Path]]


def run_script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippets_are_one_script(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "photos", 2)
    said = run_script(tmp_path, "\n".join(text for text in SNIPPETS if "__main__" not in text))
    assert re.search(r"^<Cutout 600 x 400, quality 0\.\d\d.*>$", said, re.M)
    assert "0 of 2 items, 0 failed\n" in said and "2 of 2 items, 0 failed\ncomplete " in said
    assert Image.open(tmp_path / "out" / "cup.webp").mode == "RGBA" and (tmp_path / "out" / "cup.jpg").exists()
    assert len(list((tmp_path / "out" / "photos" / "amazon-main").iterdir())) == 2


def test_the_snippet_with_processes(tmp_path: Path) -> None:
    (text,) = (text for text in SNIPPETS if "__main__" in text)
    assert re.fullmatch(r"\[0\.\d+, 0\.\d+\]\n", run_script(tmp_path, text))


def test_the_tables_name_what_there_is() -> None:
    for name in re.findall(r"`result\.(\w+)", PAGE):
        assert name in Cutout.__annotations__ or hasattr(Cutout, name), name
    (sentence,) = re.findall(r"gets a `RunProgress`: (.*?)It is called", PAGE, re.S)
    for name in re.findall(r"`(\w+)`", sentence):
        assert name in RunProgress.__annotations__ or hasattr(RunProgress, name), name
    arguments = inspect.signature(run).parameters
    rows = re.findall(r"^\| `-.*? \| (.*) \|$", PAGE, re.M)
    assert len(rows) == 14
    for row in rows:
        for name in re.findall(r"`(\w+)=", row):
            assert name in arguments, name
        for name in re.findall(r'settings=\{"([\w.]+)"', row):
            value = "https://s3.example.com" if name == "storage.endpoint_url" else "2"
            load_job(manifest="photos", output="out", overrides={name: value})
    assert {f"`{name}" for name in arguments if f"{name}=" not in PAGE and name not in {"manifest", "output"}} == set()

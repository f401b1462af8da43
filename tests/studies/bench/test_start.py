"""``make bench``, start-up: what one picture, a dozen and none cost from a command's start to its exit, beside rembg's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest
from commands import Cost, cost_of
from PIL import Image

from pipeline.config.presets import load_preset
from pipeline.paths import EXAMPLES

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]

ROUNDS = 5
MATTELINE = (sys.executable, "-m", "jobs.main")
Keep = Callable[[str, Any], None]
Figure = Literal["wall_s", "cpu_s", "peak_mib"]
Rounds = dict[str, list[Cost]]


@pytest.fixture(scope="module")
def rembg(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Cost]:
    """``rembg("i", picture, target)``: what its command costs, with the weights that are bundled here."""
    command = shutil.which(os.environ.get("REMBG") or "rembg")
    if command is None:
        pytest.skip("rembg is not installed; `make bench` installs it in .venv/peers")
    home = tmp_path_factory.mktemp("home")
    shutil.copy(load_preset("u2netp").recipe.weights, home / "u2netp.onnx")
    variables = os.environ | {"U2NET_HOME": str(home)}

    def run(verb: str, source: Path, target: Path) -> Cost:
        return cost_of([command, verb, "-m", "u2netp", str(source), str(target)], home, variables)

    return run


def ours(*arguments: str | Path, folder: Path, cache: Path, exit_code: int = 0) -> Cost:
    """Run one of our commands with its cache in a folder of its own."""
    variables = os.environ | {"MATTELINE_CACHE": str(cache), "PYTHONPATH": str(Path.cwd())}
    return cost_of([*MATTELINE, *map(str, arguments)], folder, variables, exit_code)


def rounds_of(works: dict[str, Callable[[], Cost]], rounds: int = ROUNDS) -> Rounds:
    """Run the works in turn, after one run of each that does not count: it fills the caches."""
    found: Rounds = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            cost = work()
            if number:
                found[name].append(cost)
    return found


def compare(found: Rounds, figure: Figure) -> tuple[float, str]:
    """Return the median ratio of ours to the other, and both medians as text."""
    (mine, theirs) = ([getattr(cost, figure) for cost in costs] for costs in found.values())
    unit = "MiB" if figure == "peak_mib" else "s"
    about = f"({median(theirs):.3g} {unit}; ours {median(mine):.3g})"
    return median(one / other for one, other in zip(mine, theirs, strict=True)), about


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 600 × 400."""
    path = tmp_path_factory.mktemp("small") / "espresso.jpg"
    Image.open(EXAMPLES / "espresso.jpg").convert("RGB").resize((600, 400)).save(path, quality=90)
    return path


@pytest.fixture(scope="module")
def one_picture(small: Path, rembg: Callable[..., Cost], tmp_path_factory: pytest.TempPathFactory, keep: Keep) -> Rounds:
    folder = tmp_path_factory.mktemp("one")
    works = {
        "ours": lambda: ours("cut", small, "-o", folder / "ours.png", folder=folder, cache=folder / "cache"),
        "rembg": lambda: rembg("i", small, folder / "rembg.png"),
    }
    found = rounds_of(works)
    keep("cut, 600 x 400", found)
    return found


@pytest.mark.parametrize(("figure", "what", "limit"), [("cpu_s", "CPU seconds", 1.0), ("peak_mib", "peak memory", 0.9)])
def test_one_picture(one_picture: Rounds, figure: Figure, what: str, limit: float, bars: Any) -> None:
    value, about = compare(one_picture, figure)
    bars.at_most(f"cut of one picture of 600 × 400: {what} ÷ those of rembg i {about}", value, limit)


def test_one_large_picture(
    photos: Callable[[tuple[int, int], int], Path], rembg: Callable[..., Cost], tmp_path: Path, keep: Keep, bars: Any
) -> None:
    (picture,) = photos((4000, 3000), 1).iterdir()
    works = {
        "ours": lambda: ours("cut", picture, "-o", tmp_path / "ours.png", folder=tmp_path, cache=tmp_path / "cache"),
        "rembg": lambda: rembg("i", picture, tmp_path / "rembg.png"),
    }
    found = rounds_of(works)
    keep("cut, 12 megapixels", found)
    value, about = compare(found, "cpu_s")
    bars.at_most(f"cut of one picture of 12 megapixels: CPU seconds ÷ those of rembg i {about}", value, 1.2)


def test_a_dozen_pictures(rembg: Callable[..., Cost], tmp_path: Path, keep: Keep, bars: Any) -> None:
    dozen, number = tmp_path / "photos", iter(range(100))
    dozen.mkdir()
    for path in sorted(EXAMPLES.glob("*.jpg"))[:12]:
        shutil.copy(path, dozen)
    works = {
        "ours": lambda: ours(
            "run", "-m", dozen, "-o", tmp_path / f"ours-{next(number)}", folder=tmp_path, cache=tmp_path / "cache"
        ),
        "rembg": lambda: rembg("p", dozen, tmp_path / f"rembg-{next(number)}"),
    }
    found = rounds_of(works)
    keep("twelve pictures", found)
    value, about = compare(found, "wall_s")
    bars.at_most(f"run of 12 bundled photos, start to exit: duration ÷ that of rembg p {about}", value, 1.0)


def test_the_first_use(small: Path, tmp_path: Path, keep: Keep, bars: Any) -> None:
    """Compare an empty cache with a filled one."""
    number = iter(range(100))
    works = {
        "first": lambda: ours(
            "cut", small, "-o", tmp_path / "first.png", folder=tmp_path, cache=tmp_path / f"cache-{next(number)}"
        ),
        "later": lambda: ours("cut", small, "-o", tmp_path / "later.png", folder=tmp_path, cache=tmp_path / "cache"),
    }
    found = rounds_of(works)
    keep("first use", found)
    value, about = compare(found, "wall_s")
    bars.at_most(f"first use on a machine, cut: duration ÷ that of later ones {about.replace('ours', 'first')}", value, 2.0)


def test_a_refused_run_and_one_with_nothing_to_do(
    tmp_path: Path, make_photos: Any, fake_preset: str, keep: Keep, bars: Any
) -> None:
    make_photos(tmp_path / "photos", 1000)
    where: dict[str, Any] = {"folder": tmp_path, "cache": tmp_path / "cache"}
    run = ("run", "-m", "photos", "-o", "out", "-p", fake_preset)
    ours(*run, **where)
    works = {
        "refused": lambda: ours("run", "-m", "missing", "-o", "other", **where, exit_code=2),
        "nothing to do": lambda: ours(*run, **where),
    }
    found = rounds_of(works)
    keep("refused, nothing to do", found)
    for what, name in (("refused", "a refused run"), ("nothing to do", "a run with nothing to do, 1,000 items")):
        bars.at_most(f"{name}: CPU seconds", median(cost.cpu_s for cost in found[what]), 1.0)

"""Metrics where there is no Ray, or a broken one: nothing is imported, nothing is raised. A real run's are in tests/infra."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import metrics
from pipeline.run.metrics import ALL, BATCH, ITEMS, LEASE

README = (Path(__file__).resolve().parents[2] / "infra" / "README.md").read_text(encoding="utf-8")


def test_without_ray_nothing_is_counted_and_ray_is_not_imported() -> None:
    script = (
        "import sys; from pipeline.run.metrics import ITEMS, SECONDS, LEASE; "
        "ITEMS.add(3, status='ok', code=''); SECONDS.observe([0.1, None], stage='fetch'); LEASE.set(1.0); "
        "print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


class Ray:
    """Is there, and takes notes; or breaks."""

    def __init__(self, broken: bool) -> None:
        self.broken, self.told = broken, []

    def is_initialized(self) -> bool:
        if self.broken:
            raise RuntimeError("half torn down")
        return True

    def inc(self, *what: Any, tags: Any) -> None:
        self.told.append((what, tags))

    observe = set = inc


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_told_and_that_a_fault_costs_nothing(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(broken)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(metrics, "_known", dict.fromkeys(ALL, ray))
    ITEMS.add(0, status="ok", code="")  # Ray's counter refuses it
    ITEMS.add(2, status="failed", code="fetch")
    BATCH.observe([4, None, 8])
    LEASE.set(5.0)
    said = [((2,), {"status": "failed", "code": "fetch"}), ((4,), {}), ((8,), {}), ((5.0,), {})]
    assert ray.told == ([] if broken else said)


def test_names_are_as_prometheus_wants_them_and_in_the_readme() -> None:
    for metric in ALL:
        assert re.fullmatch(r"matteline_[a-z_]+[a-z]", metric.name) and not metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert metric.about.endswith(".")
        assert f"`{metric.exported.removeprefix('ray_matteline_')}`" in README

"""Services of the bundled model, and what they are compared with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[2]
sys.path += [str(TESTS), str(TESTS / "imaging")]

from service_process import Running, services  # noqa: E402

from pipeline.bench.machine import describe  # noqa: E402
from pipeline.paths import EXAMPLES  # noqa: E402


@pytest.fixture(scope="session")
def start_service() -> Iterator[Callable[..., Running]]:
    with services() as start:
        yield start


@pytest.fixture(scope="session")
def service(start_service: Callable[..., Running]) -> Running:
    """The service as it is by default, or with the model that ``PRESET`` names."""
    preset = os.environ.get("PRESET")
    return start_service(*(["--preset", preset] if preset else []))


@pytest.fixture(scope="session")
def keep(results: Callable[[str], Path]) -> Iterator[Callable[[str, Any], None]]:
    """``keep(name, numbers)``: add numbers to ``out/serve/measured.json``, with the machine that they are of.

    Numbers of parts that do not run this time stay.
    """
    file = results("serve") / "measured.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    machine = asdict(describe())
    yield lambda name, numbers: kept.update({name: {"machine": machine, **numbers}})
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def cup() -> bytes:
    """A photo of 600 x 400."""
    return (EXAMPLES / "espresso.jpg").read_bytes()


@pytest.fixture(scope="session")
def model() -> Any:
    """The same model in this process."""
    from pipeline import Segmenter

    return Segmenter()

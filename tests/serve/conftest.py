"""A service as users start it: the command, in a process of its own, on a free port."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "imaging")]  # service_process.py, asgi.py; damage.py and what it imports

from service_process import Running, form, services  # noqa: E402


@pytest.fixture(scope="session")
def make_form() -> Callable[..., tuple[bytes, str]]:
    return form


@pytest.fixture(scope="session")
def start_service() -> Iterator[Callable[..., Running]]:
    """``start_service("--preset", …, env={})``: a running service that is ready."""
    with services() as start:
        yield start


@pytest.fixture(scope="session")
def service(start_service: Callable[..., Running], fake_preset: str) -> Running:
    """A service with the fake model, which answers at once."""
    limits = ("--set", "limits.max_bytes=3000000", "--set", "limits.max_pixels=4000000")
    return start_service("--preset", fake_preset, *limits, "--queue", "8")


@pytest.fixture(scope="session")
def picture(make_photos: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_photos(tmp_path_factory.mktemp("photos"), 1)[0].read_bytes()

"""The service as a Ray Serve application. A stand-in for Ray Serve's decorators runs the replica, with the ASGI lifespan."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import uvicorn
import yaml
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError

TOKEN = "0123456789abcdef0123456789abcdef"


def stand_in() -> types.ModuleType:
    """What ``on_ray`` uses of ``ray.serve``, as in Ray 2.60: ``ingress`` leaves a class with an asynchronous constructor."""
    made: Any = types.ModuleType("ray.serve")

    def ingress() -> Callable[[type], type]:
        def decorate(kind: type) -> type:
            async def construct(self: Any, *arguments: Any) -> None:
                kind.__init__(self, *arguments)

            return type(kind.__name__, (kind,), {"__init__": construct})

        return decorate

    def deployment(*, name: str) -> Callable[[type], Any]:
        return lambda kind: types.SimpleNamespace(
            bind=lambda arguments: types.SimpleNamespace(kind=kind, arguments=arguments, name=name)
        )

    made.ingress, made.deployment, made.Application = ingress, deployment, object
    return made


@pytest.fixture
def on_ray() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        fake = stand_in()
        patch.setitem(sys.modules, "ray.serve", fake)
        patch.setattr(ray, "serve", fake, raising=False)
        patch.delitem(sys.modules, "pipeline.serve.on_ray", raising=False)
        yield importlib.import_module("pipeline.serve.on_ray")
        patch.delitem(sys.modules, "pipeline.serve.on_ray", raising=False)


def post(port: int, picture: bytes, path: str = "/v1/cutout?output=json", **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", picture, {"Content-Type": "image/jpeg"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_replica_serves_the_same_application(
    on_ray: Any, fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTELINE_TOKEN", TOKEN)
    built = on_ray.build({"presets": [fake_preset], "queue": 3, "settings": {"limits.max_pixels": 4_000_000}})
    replica = built.kind.__new__(built.kind)
    asyncio.run(replica.__init__(built.arguments))
    config = uvicorn.Config(replica.__serve_build_asgi_app__(), port=0, lifespan="on", log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        status, answer = post(port, picture, Authorization=f"Bearer {TOKEN}", Host="cutter.example.com")
        assert status == 200 and answer["recipe"].startswith("fake-")  # loaded by the lifespan, before the first request
        assert post(port, picture)[0] == 401
        assert post(port, b"no picture", Authorization=f"Bearer {TOKEN}")[1]["code"] == "decode"
        assert replica.check_health() is None and replica._service.settings.queue == 3
        (batcher,) = replica._service.batchers.values()
        batcher.working_since = time.monotonic() - 10_000
        with pytest.raises(RuntimeError, match=r"limits\.item_s"):
            replica.check_health()
        batcher.working_since = None
        batcher.is_broken = True
        with pytest.raises(RuntimeError, match="the GPU is lost"):
            replica.check_health()
        batcher.is_broken = False
    finally:
        server.should_exit = True
        thread.join(60)
    assert replica._service.draining and not thread.is_alive()


def test_a_replica_takes_what_matteline_infra_service_writes(
    on_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATTELINE_TOKEN", TOKEN)
    (tmp_path / "mine.yaml").write_text('trim: 0.05\nbackground: "#f4f1ea"\nformat: jpeg\n')
    recipe = ("--set", "recipe.detector=nanodet", "--set", "recipe.detector.label=cup", "--set", "recipe.specks=0.02")
    others = ("--set", "limits.max_pixels=25000000", "--allow-host", "cut.example.com", "--allow-root", "https://a.example/b")
    given = ("--preset", "mvanet-lite", "--preset", "u2netp", "--rendition", str(tmp_path / "mine.yaml"), *recipe, *others)
    done = CliRunner().invoke(app, ["infra", "service", *given])
    if "is on PATH" in str(done.exception):
        pytest.skip(str(done.exception))
    assert done.exit_code == 0, done.exception
    (config,) = (one["spec"]["serveConfigV2"] for one in yaml.safe_load_all(done.stdout) if one["kind"] == "RayService")
    service = on_ray.Replica(on_ray.build(yaml.safe_load(config)["applications"][0]["args"]).arguments)._service
    changes = {"detector": "nanodet", "detector.label": "cup", "specks": 0.02}
    assert {name: one.recipe for name, one in service.presets.items()} == {
        name: load_preset(name, changes).recipe for name in ("mvanet-lite", "u2netp")
    }
    assert service.limits.max_pixels == 25_000_000 and service.limits.max_bytes == 50_000_000
    assert service.renditions["mine"].background == "#f4f1ea" and "amazon-main" in service.renditions
    assert service.settings.hosts == ("cut.example.com",) and "https://a.example/b" in service.files.storage.allow_roots


def test_a_replica_needs_a_token(on_ray: Any, fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATTELINE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="needs a token"):
        on_ray.Replica({"presets": [fake_preset]})


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"preset": "mvanet-lite"}, "there is no 'preset'"),
        ({"presets": "mvanet-lite"}, "presets must be a list"),
        ({"renditions": "mine.yaml"}, "renditions must be a list"),
        ({"renditions": [5]}, "renditions must be a list"),
        ({"renditions": [{"name": "mine", "trims": 1}]}, "args: renditions: trims"),
        ({"settings": ["limits.max_pixels=1"]}, "settings must be a mapping"),
        ({"settings": {"max_pixels": 1}}, "section.key"),
        ({"queue": True}, "queue must be a whole number above 0, not True"),
        ({"queue": float("nan")}, "queue must be a whole number above 0, not nan"),
        ({"queue": 2.5}, r"queue must be a whole number above 0, not 2\.5"),
        ({"deadline_s": 0}, "deadline_s must be a number of seconds above 0, not 0"),
        ({"deadline_s": float("nan")}, "deadline_s must be a number of seconds above 0, not nan"),
        ({"deadline_s": float("inf")}, "deadline_s must be a number of seconds above 0, not inf"),
    ],
)
def test_wrong_arguments_are_refused_when_the_application_is_built(on_ray: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        on_ray.build(arguments)


def test_ray_serve_itself(fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs ray[serve], which the development environment does not have."""
    try:
        serve = importlib.import_module("ray.serve")
    except ImportError as error:
        pytest.skip(f"ray[serve] is not installed: {error}")
    from pipeline.serve import on_ray

    monkeypatch.setenv("MATTELINE_TOKEN", TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(on_ray.build({"presets": [fake_preset]}), name="matteline", route_prefix="/")
        assert post(port, picture, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert post(port, picture)[0] == 401
    finally:
        serve.shutdown()
        ray.shutdown()
